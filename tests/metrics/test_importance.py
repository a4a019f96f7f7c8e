"""Recall of ranked regions, the method's own importance judged by it, and intervals of the difference of two."""

import itertools
import json
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from segfocus.errors import SegfocusError
from segfocus.metrics.bootstrap import poisson_weights
from segfocus.metrics.comparison import Comparison
from segfocus.metrics.importance import AMOUNTS, ImportanceQuality, boundary_pixels, rank_correlation
from segfocus.metrics.region_recall import (
    RATIOS,
    paired_recall_intervals,
    recall_counts,
    recall_scores,
    region_scores,
    region_side,
    region_sums,
    selected_counts,
)
from segfocus.ops.boundaries import boundary_pixels as boundary_pixels_on_the_gpu
from segfocus.ops.selection import block_means, selected_count, top_k_masks
from tests.metrics import slow_twins

NAMES = ("sky", "road", "car", "pole")


def half_up(ratio, regions):
    """In exact fractions, at least one region where there is a ratio."""
    count = int(Fraction(str(ratio)) * regions + Fraction(1, 2))
    return max(count, 1) if ratio else 0


def slow_recall(pictures, ratio):
    """(recall, best, chance) of [(scores, amounts)], region by region."""
    found, best, chance, total = 0, 0, Fraction(0), 0
    for scores, amounts in pictures:
        pairs = list(zip(scores.ravel().tolist(), amounts.ravel().tolist(), strict=True))
        count = half_up(ratio, len(pairs))
        places = sorted(range(len(pairs)), key=lambda place: (-pairs[place][0], place))[:count]
        found += sum(pairs[place][1] for place in places)
        best += sum(sorted((amount for _, amount in pairs), reverse=True)[:count])
        total += sum(amount for _, amount in pairs)
        chance += Fraction(count, len(pairs)) * sum(amount for _, amount in pairs)
    return found / total, best / total, float(chance / total)


def rankings(seed, count=5, ties=True):
    """(scores, amounts) of grids of many sizes; scores with ties, amounts that follow them roughly."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        shape = tuple(rng.integers(1, 9, 2))
        scores = rng.integers(0, 4, shape) / 4 if ties else rng.random(shape)
        yield scores, (rng.integers(0, 50, shape) * (scores + 0.2)).astype(np.int64)


def summed(pictures, ratios=RATIOS):
    counts = [recall_counts(scores, {"it": amounts}, ratios) for scores, amounts in pictures]
    return {name: sum(item[name] for item in counts) for name in counts[0]}


@pytest.mark.parametrize("seed", range(4))
def test_recall_is_that_of_counting_region_by_region(seed):
    pictures = list(rankings(seed))
    scores = recall_scores(summed(pictures), ["it"])["it"]
    for place, ratio in enumerate(RATIOS):
        own, best, chance = slow_recall(pictures, ratio)
        assert scores["recall"][place] == own
        assert scores["best"][place] == best
        assert scores["chance"][place] == pytest.approx(chance, abs=1e-6)
        assert scores["gain"][place] == pytest.approx((own - chance) / (best - chance), abs=1e-5)
    assert scores["total"] == sum(amounts.sum() for _, amounts in pictures)


def test_area_is_that_of_the_curve_through_every_number_of_regions():
    scores, amounts = next(rankings(7, ties=False))
    regions = scores.size
    ratios = [count / regions for count in range(regions + 1)]
    found = recall_scores(summed([(scores, amounts)], ratios), ["it"])["it"]
    assert found["area"] == pytest.approx(np.trapezoid(found["recall"], ratios), abs=1e-6)
    assert found["best_area"] == pytest.approx(np.trapezoid(found["best"], ratios), abs=1e-6)
    assert found["best_area"] > found["area"]
    backwards = recall_scores(summed([(-scores, amounts)], ratios), ["it"])["it"]
    assert backwards["area"] == pytest.approx(1 - found["area"], abs=1e-6)


def test_chance_is_the_mean_over_all_rankings():
    amounts = np.array([[7, 0], [3, 1]])
    ranked = [np.array(order).reshape(2, 2) for order in itertools.permutations(range(4))]
    found = [recall_scores(summed([(order, amounts)]), ["it"])["it"] for order in ranked]
    np.testing.assert_allclose(np.mean([item["recall"] for item in found], axis=0), found[0]["chance"], atol=1e-6)
    assert np.mean([item["area"] for item in found]) == pytest.approx(0.5, abs=1e-6)


def test_the_best_ranking_gains_all_and_a_uniform_amount_has_nothing_to_gain():
    amounts = np.array([[5, 0, 9], [1, 9, 2]])
    perfect = recall_scores(recall_counts(amounts, {"it": amounts}, [0.0, 0.2, 0.5, 1.0]), ["it"])["it"]
    assert perfect["recall"] == perfect["best"] == [0.0, 9 / 26, 23 / 26, 1.0]
    assert perfect["gain"] == [None, 1.0, 1.0, None]
    even = recall_scores(recall_counts(amounts, {"it": np.ones_like(amounts)}, [0.5]), ["it"])["it"]
    assert even["gain"] == [None]
    nothing = recall_scores(recall_counts(amounts, {"it": np.zeros_like(amounts)}, [0.5]), ["it"])["it"]
    assert (nothing["recall"], nothing["area"], nothing["total"]) == ([None], None, 0)


@pytest.mark.parametrize("regions", [1, 2, 3, 7, 10, 15, 180, 8160])
def test_as_many_regions_are_chosen_as_the_network_chooses(regions):
    ratios = [0.0, 0.001, *RATIOS, 0.35, 0.995, 1.0]
    found = selected_counts(ratios, regions)
    assert found.tolist() == [half_up(ratio, regions) for ratio in ratios]
    assert found.tolist() == [selected_count(ratio, regions) for ratio in ratios]


@pytest.mark.parametrize("size", [(64, 96), (61, 83), (30, 200), (9, 5)])
def test_regions_are_those_that_the_network_chooses(size):
    """Mean importance and choice of `segfocus.ops.selection` on a grid of 8 px cells in blocks of 4 x 4."""
    cells = torch.rand(1, 1, -(-size[0] // 8), -(-size[1] // 8), generator=torch.Generator().manual_seed(0))
    regions = block_means(cells, 4)
    scores = region_scores(cells[0, 0].numpy(), size)
    np.testing.assert_allclose(scores, regions[0, 0].numpy(), rtol=1e-5)
    counts = recall_counts(scores, {"index": np.arange(scores.size).reshape(scores.shape)}, [0.5])
    mask = top_k_masks(regions, [0.5])[0].flatten().numpy()
    assert counts["inside"].tolist() == [[int(np.flatnonzero(mask).sum())]]
    assert region_sums(np.ones(size, bool), region_side(cells.shape[2:], size)).shape == scores.shape


def test_regions_hold_whole_cells_of_any_size():
    size = (100, 130)
    grids = {side: tuple(-(-pixels // side) for pixels in size) for side in (1, 4, 16, 64)}
    assert [region_side(grid, size) for grid in grids.values()] == [32, 32, 32, 64]
    assert region_side((7, 10), size) == 32, "a grid of no square cells"
    assert region_side(grids[4], size, region=10) == 8
    values = np.random.default_rng(0).random((7, 10))
    stretched = cv2.resize(values.astype(np.float32), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    expected = [[stretched[y : y + 32, x : x + 32].mean() for x in range(0, 130, 32)] for y in range(0, 100, 32)]
    np.testing.assert_allclose(region_scores(values, size), expected, rtol=1e-5)
    mask = stretched > 0.5
    expected = [[mask[y : y + 7, x : x + 7].sum() for x in range(0, 130, 7)] for y in range(0, 100, 7)]
    np.testing.assert_array_equal(region_sums(mask, 7), expected)


def slow_masks(target, prediction):
    """Pixels searched for, class by class."""
    labelled = target != 255
    near = np.zeros(target.shape, bool)
    thin = labelled.copy()
    for index in range(4):
        others = labelled & (target != index)
        near |= (target == index) & ndimage.binary_dilation(others, np.ones((3, 3)))
        thin &= ~ndimage.binary_opening(target == index, np.ones((5, 5)))
    return {"boundary": near, "error": labelled & (target != prediction), "thin": thin}


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_pictures_are_those_of_their_masks(seed):
    rng = np.random.default_rng(seed)
    tally = ImportanceQuality(4, [0.1, 0.5], region=8, baseline=True)
    kept = {name: [] for name in (*AMOUNTS, "error_before")}
    correlations = []
    for name, target, prediction in slow_twins.scenes(seed):
        importance = rng.random(tuple(-(-pixels // 4) for pixels in target.shape)).astype(np.float32)
        before = np.roll(prediction, 1, 0)
        tally.update(target, prediction, importance=importance, baseline=before, name=name)
        if min(importance.shape) == 1 and max(target.shape) <= 4:
            scores = importance[:1, :1]  # one cell, whatever its side
        else:
            padded = np.pad(importance, [(0, -side % 2) for side in importance.shape], constant_values=np.nan)
            scores = np.nanmean(padded.reshape(padded.shape[0] // 2, 2, -1, 2), (1, 3), dtype=np.float64)
        masks = slow_masks(target, prediction) | {"error_before": (target != before) & (target != 255)}
        grid = [
            [(slice(8 * y, 8 * y + 8), slice(8 * x, 8 * x + 8)) for x in range(scores.shape[1])]
            for y in range(len(scores))
        ]
        counted = {key: np.array([[mask[part].sum() for part in row] for row in grid]) for key, mask in masks.items()}
        for key, amounts in counted.items():
            kept[key].append((scores, amounts))
        labelled = np.array([[(target[part] != 255).sum() for part in row] for row in grid])
        seen = labelled > 0
        share = counted["error"][seen] / labelled[seen]
        if len(set(share)) > 1:
            correlations.append(stats.spearmanr(scores[seen], share).statistic)
    summary = tally.summary(NAMES)["importance"]
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert list(summary["amounts"]) == list(kept)
    for key, pictures in kept.items():
        for place, ratio in enumerate((0.1, 0.5)):
            own, best, _ = slow_recall(pictures, ratio)
            assert summary["amounts"][key]["recall"][place] == own, key
            assert summary["amounts"][key]["best"][place] == best, key
    assert summary["correlated"] == len(correlations) > 3
    assert summary["correlation"] == pytest.approx(np.mean(correlations), abs=1e-6)


def test_boundary_pixels_are_those_that_selectors_are_trained_on():
    for name, target, _ in slow_twins.scenes(1):
        expected = boundary_pixels_on_the_gpu(torch.from_numpy(target)[None].long())[0].numpy()
        np.testing.assert_array_equal(boundary_pixels(target), expected, err_msg=name)


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_is_that_of_scipy(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 5, 40) / 4, rng.random(40).round(1)
    assert rank_correlation(first, second) == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)
    assert rank_correlation(first, first) == pytest.approx(1)
    assert rank_correlation(second, -second) == pytest.approx(-1)
    assert np.isnan(rank_correlation(first, np.ones(40)))
    assert np.isnan(rank_correlation(first[:0], second[:0]))


def quality(items, importance):
    tally = ImportanceQuality(4, region=8)
    for name, target, prediction in items:
        grid = tuple(-(-pixels // 4) for pixels in target.shape)
        rng = np.random.default_rng(len(name))
        tally.update(target, prediction, importance=importance(rng, grid), name=name)
    return tally


def test_order_and_parts_change_no_count():
    items = list(slow_twins.scenes(5))
    whole, parts = quality(items, np.random.Generator.random), quality(items[::2], np.random.Generator.random)
    parts.merge(quality(items[1::2][::-1], np.random.Generator.random))
    for name, value in whole.counts.items():
        assert value.dtype == np.int64, name
        np.testing.assert_array_equal(parts.counts[name], value, err_msg=name)
    assert whole.summary(NAMES) == parts.summary(NAMES)
    assert whole.summary(NAMES)["importance"]["n_pictures"] == len(items)


def test_nothing_is_claimed_of_a_map_that_does_not_vary_or_of_no_picture():
    flat = quality(slow_twins.scenes(2), lambda _, grid: np.full(grid, 0.5)).summary(NAMES)["importance"]
    assert (flat["correlation"], flat["correlated"]) == (None, 0)
    empty = ImportanceQuality(4).summary(NAMES)["importance"]
    assert empty["n_pictures"] == 0
    assert empty["amounts"]["error"]["recall"] == [None] * len(RATIOS)


def counted(seed, strength, count=40):
    """By name, `recall_counts` of rankings that follow the same amounts more or less."""
    found = {}
    for index in range(count):
        amounts = np.random.default_rng(index).integers(0, 30, (4, 5))
        noise = np.random.default_rng((seed, index)).random(amounts.shape) * 30
        values = {"it": amounts, "rare": amounts * (index < 3)}
        found[f"clip/{index}"] = recall_counts(strength * amounts + noise, values, [0.1, 0.5])
    return found


def test_paired_intervals_are_those_of_drawing_pictures_again():
    first, second = counted(0, 0.2), counted(1, 1.0)
    found = paired_recall_intervals(first, second, ["it", "rare"], replicates=200)
    totals = [sum(counts["total"][0] for counts in first.values())]
    for place in range(2):
        values = []
        for replicate in range(200):
            drawn = {name: poisson_weights(name, 200)[replicate] for name in first}
            change = sum(drawn[name] * (second[name]["inside"] - first[name]["inside"])[0, place] for name in first)
            values.append(change / sum(drawn[name] * first[name]["total"][0] for name in first))
        item = found["it"]["recall"][place]
        np.testing.assert_allclose(item["interval"], np.quantile(values, [0.025, 0.975]), rtol=1e-12)
        own = [sum(counts["inside"][0, place] for counts in side.values()) / totals[0] for side in (first, second)]
        assert item["value"] == pytest.approx(own[1] - own[0])
        assert 0 < item["interval"][0] < item["value"] < item["interval"][1]
    assert found["it"]["area"]["interval"][0] > 0
    assert found["rare"]["recall"][0]["interval"] is None, "three pictures say nothing"
    assert found["rare"]["recall"][0]["value"] is not None


def test_paired_intervals_of_a_ranking_with_itself_are_zero_and_of_its_reverse_mirrored():
    first, second = counted(0, 0.2), counted(1, 1.0)
    same = paired_recall_intervals(first, first, ["it", "rare"])
    assert same["it"]["recall"][0] == {"value": 0, "interval": [0, 0]}
    one, other = (
        paired_recall_intervals(*pair, ["it", "rare"])["it"]["area"] for pair in ((first, second), (second, first))
    )
    assert one["interval"] == pytest.approx([-end for end in other["interval"][::-1]])


def test_what_cannot_be_ranked_is_refused():
    grid, amounts = np.ones((2, 3)), {"it": np.ones((2, 3), int)}
    with pytest.raises(SegfocusError, match="expected finite scores rows x columns, got NaN or infinity"):
        recall_counts(np.where(np.eye(2, 3) > 0, np.nan, grid), amounts)
    with pytest.raises(SegfocusError, match=r"expected finite scores rows x columns, got shape \(0, 3\)"):
        recall_counts(grid[:0], amounts)
    for wrong in (np.ones((3, 2), int), np.ones((2, 3)), -np.ones((2, 3), int)):
        with pytest.raises(SegfocusError, match=r"it: expected counts from 0 in \(2, 3\) regions, got (int|float)64"):
            recall_counts(grid, {"it": wrong})
    for ratios in ([0.5, 1.5], [-0.1], []):
        with pytest.raises(SegfocusError, match=r"ratios: expected shares of the regions in \[0, 1\]"):
            ImportanceQuality(4, ratios)
    with pytest.raises(SegfocusError, match="region: expected at least 1 px, got 0"):
        ImportanceQuality(4, region=0)
    labels = np.zeros((8, 8), np.uint8)
    with pytest.raises(SegfocusError, match="a: expected an importance map for these scores, got none"):
        ImportanceQuality(4).add(Comparison(labels, labels, 4, name="a"))
    with pytest.raises(SegfocusError, match="a: expected a baseline for these scores, got none"):
        ImportanceQuality(4, baseline=True).add(Comparison(labels, labels, 4, importance=np.ones((1, 1)), name="a"))
    first = counted(0, 1.0, count=3)
    for other in (
        {},
        counted(0, 1.0, count=2),
        {name: {**item, "total": item["total"] + 1} for name, item in first.items()},
    ):
        with pytest.raises(SegfocusError, match="expected two rankings of the same pictures, got 3"):
            paired_recall_intervals(first, other, ["it", "rare"])
    with pytest.raises(SegfocusError, match="got 0 and 0 pictures"):
        paired_recall_intervals({}, {}, ["it"])

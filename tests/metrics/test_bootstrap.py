import json
import os
import random

import numpy as np
import pytest
from scipy import stats

from segfocus.errors import SegfocusError
from segfocus.metrics.bootstrap import Bootstrap, difference_intervals, interval, pictures_needed, poisson_weights
from segfocus.metrics.boundary import boundary_counts
from segfocus.metrics.confusion import mean_of_present, ratio, scores_from_confusion
from tests.metrics import slow_twins

NAMES = ("sky", "road", "pole")


def pictures(count, seed=0, quality=(0.6, 1.0)):
    """(name, truth, prediction) of small pictures that are easy or hard as a whole; the pole is in every third."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        target = (rng.integers(0, 2, (6, 9)) + np.eye(6, 9, dtype=int) * (index % 3 == 0)).astype(np.uint8)
        target[rng.random(target.shape) < 0.05] = 255
        keep = rng.random(target.shape) < rng.uniform(*quality)
        prediction = np.where(keep, target, rng.integers(0, 3, target.shape)).astype(np.uint8)
        prediction[target == 255] = 0
        yield f"clip/{index:04d}", target, prediction


def bootstrap_of(items, **options):
    tally = Bootstrap(3, **{"distances": (1, 2), "replicates": 200} | options)
    for name, target, prediction in items:
        tally.update(target, prediction, name=name)
    return tally


def test_streaming_equals_keeping_everything():
    items = list(pictures(7))
    kept = [
        (
            poisson_weights(name, 200),
            slow_twins.confusion(target, prediction, 3),
            [slow_twins.boundary_counts(target, prediction, 3, distance) for distance in (1, 2)],
        )
        for name, target, prediction in items
    ]
    found = bootstrap_of(items).scores()
    for replicate in range(200):
        expected = scores_from_confusion(sum(weights[replicate] * matrix for weights, matrix, _ in kept))
        for name, key in (("miou", "miou"), ("pixel_accuracy",) * 2, ("mean_accuracy",) * 2, ("per_class", "iou")):
            np.testing.assert_allclose(found[name][replicate], expected[key], rtol=1e-14)
        for band in range(2):
            part, whole = (sum(weights[replicate] * counts[band][k] for weights, _, counts in kept) for k in (0, 1))
            values = ratio(part, whole)
            np.testing.assert_array_equal(found["boundary_iou_per_class"][replicate, band], values)
            np.testing.assert_allclose(found["boundary_iou"][replicate, band], mean_of_present(values), rtol=1e-14)


def test_order_and_processes_change_nothing():
    items = list(pictures(12))
    whole = bootstrap_of(items)
    parts = [bootstrap_of(items[start::3]) for start in (2, 0, 1)]
    random.Random(0).shuffle(items)
    shuffled = bootstrap_of(items)
    parts[0].merge(parts[1])
    parts[0].merge(parts[2])
    for other in (parts[0], shuffled):
        assert other.counts.keys() == whole.counts.keys()
        for name, value in whole.counts.items():
            np.testing.assert_array_equal(other.counts[name], value)
            assert value.dtype == np.int64
    assert whole.summary(NAMES) == shuffled.summary(NAMES) == {"intervals": whole.intervals(NAMES)}


def test_as_wide_as_the_ordinary_bootstrap():
    items = list(pictures(100))
    counts = np.array([slow_twins.confusion(target, prediction, 3) for _, target, prediction in items])
    bands = np.array([boundary_counts(target, prediction, 3, 1) for _, target, prediction in items])

    def per_class(matrix, index):
        hits = matrix[..., index, index]
        return hits / (matrix[..., index, :].sum(-1) + matrix[..., index].sum(-1) - hits)

    def over(drawn, statistic):
        """`statistic` of the summed counts of each row of drawn pictures, as scipy hands them over."""
        return np.array([statistic(rows) for rows in drawn.reshape(-1, drawn.shape[-1])]).reshape(drawn.shape[:-1])

    statistics = {
        "pixel_accuracy": lambda rows: np.trace(counts[rows].sum(0)) / counts[rows].sum(),
        "miou": lambda rows: scores_from_confusion(counts[rows].sum(0))["miou"],
        "pole": lambda rows: per_class(counts[rows].sum(0), 2),
        "boundary": lambda rows: mean_of_present(ratio(*bands[rows].sum(0))),
    }
    found = bootstrap_of(items, replicates=4000).intervals(NAMES)
    flat = {**found, "pole": found["per_class"]["pole"], "boundary": found["boundary_iou"]["1"]}
    for name, statistic in statistics.items():
        expected = stats.bootstrap(
            (np.arange(100),),
            lambda drawn, axis, statistic=statistic: over(drawn, statistic),
            n_resamples=4000,
            method="percentile",
            random_state=np.random.default_rng(0),
        ).confidence_interval
        width = expected.high - expected.low
        np.testing.assert_allclose(flat[name], expected, atol=0.08 * width, err_msg=name)


def test_holds_the_true_score_about_as_often_as_it_says():
    inside = 0
    for seed in range(100):
        low, high = bootstrap_of(pictures(30, seed), distances=()).intervals(NAMES)["pixel_accuracy"]
        inside += low <= 0.8 + 0.2 / 3 <= high  # kept with probability 0.8 on average, else right once in three
    assert 88 <= inside <= 99


def test_two_systems_on_the_same_pictures():
    first = bootstrap_of(pictures(60))
    better = []
    for name, target, prediction in pictures(60):
        prediction[:, 0] = np.where(target[:, 0] == 255, 0, target[:, 0])
        better.append((name, target, prediction))
    second = bootstrap_of(better)
    found = difference_intervals(first, second, NAMES)
    assert found.keys() == first.intervals(NAMES).keys()
    for name in ("miou", "pixel_accuracy", "mean_accuracy"):
        low, high = found[name]
        assert 0 < low < high
        single = first.intervals(NAMES)[name]
        assert high - low < 0.5 * (single[1] - single[0])  # pictures' own difficulty cancels out
    reverse = difference_intervals(second, first, NAMES)
    np.testing.assert_allclose(reverse["miou"], [-found["miou"][1], -found["miou"][0]], rtol=1e-12)
    change = {name: value - first.scores()[name] for name, value in second.scores().items()}
    np.testing.assert_allclose(found["per_class"]["pole"], interval(change["per_class"][:, 2]))
    np.testing.assert_allclose(found["boundary_iou"]["2"], interval(change["boundary_iou"][:, 1]))
    json.dumps(found, allow_nan=False)


def test_a_system_does_not_differ_from_itself():
    found = difference_intervals(bootstrap_of(pictures(8)), bootstrap_of(pictures(8)), NAMES)
    values = [found["miou"], found["pixel_accuracy"], *found["boundary_iou"].values()]
    values += [found["per_class"]["sky"], found["boundary_iou_per_class"]["2"]["road"]]
    assert values == [[0, 0]] * len(values)


@pytest.mark.parametrize("count", range(8))
def test_few_pictures_give_no_interval(count):
    found = bootstrap_of(pictures(count)).intervals(NAMES)
    assert found["n_pictures"] == count
    assert found["pictures_needed"] == 6
    for value in (found["miou"], found["pixel_accuracy"], found["boundary_iou"]["1"], found["per_class"]["sky"]):
        assert (value is None) == (count < 6)
    json.dumps(found, allow_nan=False)


def test_a_class_in_few_pictures_gets_no_interval():
    with_pole = [f"clip/{index:04d}" for index in range(0, 15, 3)]  # five
    items = [
        (name, target, prediction if name in with_pole else prediction % 2) for name, target, prediction in pictures(15)
    ]
    found = bootstrap_of(items).intervals(NAMES)
    assert found["per_class"]["pole"] is None
    assert found["boundary_iou_per_class"]["1"]["pole"] is None
    assert found["per_class"]["road"] is not None
    assert found["miou"] is not None


def test_pictures_needed():
    # the range of n values misses their median when all are above it or all are below: like n coins alike
    for level in (0.5, 0.9, 0.95, 0.99):
        by_coins = next(n for n in range(1, 20) if 1 - 2 * stats.binom.pmf(n, n, 0.5) >= level)
        assert pictures_needed(level) == by_coins
    assert pictures_needed() == 6


def test_weights_are_poisson_and_independent():
    draws = np.array([poisson_weights(f"picture {index}", 1000) for index in range(200)])
    assert draws.dtype == np.int64
    values, counts = np.unique(np.minimum(draws, 6), return_counts=True)
    assert values.tolist() == [0, 1, 2, 3, 4, 5, 6]
    expected = np.append(stats.poisson(1).pmf(np.arange(6)), stats.poisson(1).sf(5)) * draws.size
    assert stats.chisquare(counts, expected).pvalue > 0.01
    correlation = np.corrcoef(draws)[np.triu_indices(200, 1)]
    assert abs(correlation.mean()) < 4 / np.sqrt(1000 * correlation.size)
    assert abs(correlation).max() < 6 / np.sqrt(1000)


def test_weights_come_from_seed_and_name_alone():
    assert poisson_weights("a", 12).tolist() == GOLDEN
    assert poisson_weights("a", 5).tolist() == GOLDEN[:5]
    assert poisson_weights("a", 12, seed=1).tolist() != GOLDEN
    assert poisson_weights("b", 12).tolist() != GOLDEN
    assert poisson_weights("straße/0.png", 3).shape == (3,)


# changing the draw would make counts of two versions that cannot be paired
GOLDEN = [0, 0, 2, 0, 1, 0, 2, 2, 2, 0, 1, 0]


def test_interval():
    values = np.append(np.arange(101.0), np.nan)
    np.testing.assert_allclose(interval(values), [2.5, 97.5])
    np.testing.assert_allclose(interval(values, 0.5), [25, 75])
    assert interval(np.array([np.nan, np.nan])) is None
    assert interval(np.array([])) is None
    for level in (0, 1, 95):
        with pytest.raises(SegfocusError, match="level between 0 and 1"):
            interval(values, level)


def test_without_boundaries():
    found = bootstrap_of(pictures(6), distances=()).intervals(NAMES)
    assert found["boundary_iou"] == found["boundary_iou_per_class"] == {}
    assert found["miou"] is not None


def test_refusals():
    tally = Bootstrap(3)
    labels = np.zeros((4, 4), np.uint8)
    with pytest.raises(SegfocusError, match="expected a name for each picture"):
        tally.update(labels, labels)
    assert not any(value.any() for value in tally.counts.values())
    with pytest.raises(SegfocusError, match="at least 2 replicates"):
        Bootstrap(3, replicates=1)
    with pytest.raises(SegfocusError, match="expected 3 class names"):
        tally.intervals(["one"])
    with pytest.raises(SegfocusError, match=r"same \(classes, distances, replicates, seed\)"):
        difference_intervals(tally, Bootstrap(3, seed=1), NAMES)
    with pytest.raises(SegfocusError):
        tally.merge(Bootstrap(3, seed=1))
    for other in (pictures(5), [*pictures(5), *pictures(1)], [("other", *picture[1:]) for picture in pictures(6)]):
        with pytest.raises(SegfocusError, match="expected the same pictures in both"):
            difference_intervals(bootstrap_of(pictures(6)), bootstrap_of(other), NAMES)


def test_a_file_name_that_is_no_text_has_weights():
    name = os.fsdecode(b"caf\xe9.png")
    assert poisson_weights(name, 10).shape == (10,)

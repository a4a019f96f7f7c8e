import json

import cv2
import numpy as np
import pytest

from segfocus.errors import SegfocusError
from segfocus.metrics.ceilings import one_vote_per_region
from segfocus.metrics.comparison import Comparison
from segfocus.metrics.confusion import mean_of_present, ratio, scores_from_confusion
from segfocus.metrics.headroom import BASE, FORNET, ROWS, Headroom, predictions_at_best
from segfocus.metrics.regions import components
from tests.metrics import slow_twins
from tests.metrics.test_ceilings import probabilities_of

NAMES = ("sky", "road", "car", "pole")


def comparisons(seed=0, importance=True):
    """Every scene as a comparison with all that headroom can use."""
    rng = np.random.default_rng(seed)
    for name, target, prediction in slow_twins.scenes(seed):
        yield Comparison(
            target,
            prediction,
            4,
            probabilities=probabilities_of(prediction, 4, seed),
            importance=rng.random((5, 7)) if importance else None,
            name=name,
        )


def headroom_of(items, **options):
    tally = Headroom(4, **options)
    for comparison in items:
        tally.add(comparison)
    return tally


def rows_of(summary):
    """{(idea, variant): rows in the order of their budgets}"""
    found = {}
    for row in summary["headroom"]["rows"]:
        found.setdefault((row["idea"], row["variant"]), []).append(row)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_each_row_is_the_score_of_its_predictions(seed):
    matrices, intersection, union = {}, {}, {}
    for comparison in comparisons(seed):
        for row, guess in predictions_at_best(comparison):
            counts = slow_twins.boundary_counts(comparison.target, guess, 4, 2)
            matrices[row] = matrices.get(row, 0) + slow_twins.confusion(comparison.target, guess, 4)
            intersection[row] = intersection.get(row, 0) + counts[0]
            union[row] = union.get(row, 0) + counts[1]
    assert tuple(matrices) == ROWS
    summary = headroom_of(comparisons(seed), distance=2).summary(NAMES)["headroom"]
    assert summary["distance"] == 2
    reported = [(BASE, summary["base"]), *zip(ROWS[1:], summary["rows"], strict=True)]
    for row, found in reported:
        scores = scores_from_confusion(matrices[row])
        assert found["miou"] == pytest.approx(scores["miou"])
        assert found["pixel_accuracy"] == pytest.approx(scores["pixel_accuracy"])
        assert found["boundary_iou"] == pytest.approx(mean_of_present(ratio(intersection[row], union[row])))
        assert row == BASE or (found["idea"], found["variant"], found["budget"]) == tuple(row)


@pytest.mark.parametrize("seed", range(6))
def test_a_larger_budget_never_has_fewer_right_pixels(seed):
    summary = headroom_of(comparisons(seed)).summary(NAMES)
    base = summary["headroom"]["base"]
    for (idea, variant), rows in rows_of(summary).items():
        accuracy = [row["pixel_accuracy"] for row in rows]
        miou = [row["miou"] for row in rows]
        assert accuracy == sorted(accuracy), (idea, variant)
        if (idea, variant) != ("ranet", "vote"):
            assert accuracy[0] >= base["pixel_accuracy"]
        if idea in ("fornet", "ovenet") or variant == "vote where right":
            assert miou == sorted(miou), (idea, variant)
            assert miou[0] >= base["miou"]
        if idea == "fornet":
            assert (rows[-1]["miou"], rows[-1]["boundary_iou"], rows[-1]["pixel_accuracy"]) == (1, 1, 1)  # K = 100 %
        if idea == "ovenet":
            assert {key: rows[0][key] for key in base} == base  # r = 0
    truth, entropy, importance = (
        [row["pixel_accuracy"] for row in rows_of(summary)["fornet", ranking]] for ranking in FORNET
    )
    assert all(best >= other for best, *others in zip(truth, entropy, importance, strict=True) for other in others)


@pytest.mark.parametrize("seed", range(20))
def test_turning_wrong_pixels_right_never_lowers_miou(seed):
    # what the monotone rows rest on, pixel by pixel; also when a class vanishes from the prediction
    rng = np.random.default_rng(seed)
    target, prediction = rng.integers(0, 4, 12), rng.integers(0, 4, 12)
    before = -1.0
    for pixel in rng.permutation(12):
        prediction[pixel] = target[pixel]
        matrix = np.zeros((4, 4), np.int64)
        np.add.at(matrix, (target, prediction), 1)
        miou = scores_from_confusion(matrix)["miou"]
        assert miou >= before
        before = miou
    assert before == 1


def test_a_perfect_prediction_has_no_headroom():
    target = np.zeros((40, 40), np.uint8)
    target[10:20, 5:30], target[30] = 1, 255
    probabilities = np.stack([target == 0, target == 1]).astype(np.float32)
    tally = Headroom(2)
    tally.update(target, target % 255, probabilities=probabilities)
    summary = tally.summary(["background", "thing"])["headroom"]
    assert summary["base"] == {"miou": 1, "boundary_iou": 1, "pixel_accuracy": 1}
    for row in summary["rows"]:
        assert {key: row[key] for key in summary["base"]} == summary["base"]


def test_the_vote_can_lose_what_was_right():
    target = np.zeros((4, 12), np.uint8)
    target[:, 8:] = 1
    prediction = target.copy()
    prediction[:, 0] = 1  # a few of the first region
    prediction[:3, 8:] = 0  # most of the second
    voted, helped = one_vote_per_region(components(target)[0], target, prediction, 2)
    assert (voted == 0).all()
    assert (helped[:, :8] == 0).all()
    np.testing.assert_array_equal(helped[:, 8:], prediction[:, 8:])


def test_rows_need_what_every_picture_brings():
    def ideas(items):
        return {(row["idea"], row["variant"]) for row in headroom_of(items).summary(NAMES)["headroom"]["rows"]}

    first, second = list(comparisons())[:2]
    labels_only = Comparison(first.target, first.prediction, 4)
    everything = {(row.idea, row.variant) for row in ROWS} - {("base", "")}
    assert ideas([first, second]) == everything
    assert ideas(list(comparisons(importance=False))[:2]) == everything - {("fornet", "importance")}
    by_labels = {("fornet", "truth"), ("ovenet", "truth"), ("ranet", "vote"), ("ranet", "vote where right")}
    assert ideas([labels_only]) == ideas([first, labels_only]) == by_labels


def test_merging_changes_nothing():
    items = list(comparisons())
    whole, part, rest = headroom_of(items), headroom_of(items[1::2]), headroom_of(items[::2])
    part.merge(rest)
    for name, value in whole.counts.items():
        assert value.dtype == np.int64
        np.testing.assert_array_equal(part.counts[name], value)
    with pytest.raises(SegfocusError):
        part.merge(Headroom(4, distance=1))


def test_no_pictures_and_nothing_labelled():
    empty = Headroom(4).summary(NAMES)["headroom"]
    assert empty["rows"] == []
    assert set(empty["base"].values()) == {None}
    tally = Headroom(4)
    tally.update(np.full((5, 7), 255, np.uint8), np.zeros((5, 7), np.uint8))
    unlabelled = tally.summary(NAMES)["headroom"]
    assert len(unlabelled["rows"]) == 13
    assert {value for row in unlabelled["rows"] for value in (row["miou"], row["boundary_iou"])} == {None}
    json.dumps(unlabelled, allow_nan=False)


def test_refusals():
    with pytest.raises(SegfocusError, match="whole pixels from 1"):
        Headroom(4, distance=0)
    with pytest.raises(SegfocusError, match="expected 4 class names"):
        Headroom(4).summary(["one"])


@pytest.mark.real_data
def test_a_strangers_predictions(shared_data):
    """ESPNet on CamVid: every fifth picture."""
    labels = sorted((shared_data / "camvid_espnet" / "labels" / "val").glob("*.png"))[::5]
    tally = Headroom(11)
    for path in labels:
        target = cv2.imread(str(shared_data / "camvid" / "masks" / "val" / path.name), cv2.IMREAD_UNCHANGED)
        target[target == 11] = 255
        values = np.load(shared_data / "camvid_espnet" / "probabilities" / "val" / f"{path.stem}.npz")["probabilities"]
        prediction = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        tally.update(target, prediction, probabilities=values.astype(np.float32) / 255)
    rows = rows_of(tally.summary([str(index) for index in range(11)]))
    miou = {key: [row["miou"] for row in found] for key, found in rows.items()}
    truth, entropy = miou["fornet", "truth"], miou["fornet", "entropy"]
    assert all(best >= second > 0.74 for best, second in zip(truth, entropy, strict=True))
    assert miou["ovenet", "truth"][-1] < truth[2]  # a quarter of the regions holds nearly all errors
    assert miou["threshnet", "class bias"][-1] > miou["threshnet", "class bias"][0] + 0.1

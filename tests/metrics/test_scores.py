import json
import subprocess
import sys

import numpy as np
import pytest

import segfocus.metrics
from segfocus.errors import SegfocusError
from segfocus.metrics.boundary import boundary_iou
from segfocus.metrics.comparison import Comparison
from segfocus.metrics.confusion import confusion_matrix, scores_from_confusion
from segfocus.metrics.scores import Counts
from tests.metrics import slow_twins

NAMES = ("sky", "road", "pole", "car", "absent")


def counted(pairs) -> Counts:
    counts = Counts(5)
    for _, target, prediction in pairs:
        counts.update(target, prediction)
    return counts


def test_summary_is_the_dataset_level_score():
    pairs = [pair for pair in slow_twins.scenes(3) if pair[1].size > 100]
    summary = counted(pairs).summary(NAMES)
    matrix = sum(slow_twins.confusion(target, prediction, 5) for _, target, prediction in pairs)
    scores = scores_from_confusion(matrix)
    assert summary["miou"] == scores["miou"]
    assert summary["pixel_accuracy"] == scores["pixel_accuracy"]
    assert summary["mean_accuracy"] == scores["mean_accuracy"]
    assert summary["per_class"] == dict(zip(NAMES, [*map(float, scores["iou"][:4]), None], strict=True))
    for distance in (1, 3, 5):
        parts = [slow_twins.boundary_counts(target, prediction, 5, distance) for _, target, prediction in pairs]
        intersection, union = np.sum(parts, 0)
        values = intersection[:4] / union[:4]
        assert summary["boundary_iou"][str(distance)] == pytest.approx(values.mean(), rel=1e-12)
        assert list(summary["boundary_iou_per_class"][str(distance)].values()) == [*values, None]
    assert summary["classes"] == list(NAMES)
    assert summary["n_pictures"] == len(pairs)
    assert summary["ignore"] == 255
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_order_and_merging_change_nothing():
    pairs = list(slow_twins.scenes(4))
    whole = counted(pairs)
    parts = [counted(pairs[::-3]), counted(pairs[-2::-3]), counted(pairs[-3::-3])]
    for part in parts[1:]:
        parts[0].merge(part)
    assert parts[0].summary(NAMES) == whole.summary(NAMES)


def test_no_pictures_and_no_distances():
    counts = Counts(5, ())
    assert counts.summary(NAMES)["miou"] is None
    _, target, prediction = next(slow_twins.scenes(0))
    counts.update(target, prediction)
    assert counts.summary(NAMES)["boundary_iou"] == {}
    assert counts.summary(NAMES)["n_pictures"] == 1


def test_a_refused_picture_leaves_the_counts_as_they_were():
    counts = counted(slow_twins.scenes(0))
    before = counts.summary(NAMES)
    target = np.zeros((8, 8), np.uint8)
    with pytest.raises(SegfocusError, match="prediction: expected train ids"):
        counts.update(target, np.full_like(target, 9))
    assert counts.summary(NAMES) == before


def test_refusals():
    with pytest.raises(SegfocusError, match="expected 5 class names, got 2: a, b"):
        Counts(5).summary(["a", "b"])
    with pytest.raises(SegfocusError, match="expected counts made alike"):
        Counts(5).merge(Counts(4))
    with pytest.raises(SegfocusError, match="boundary distances"):
        Counts(5, (0,))


def test_takes_classes():
    from segfocus.data.classes import Classes

    classes = Classes.from_dict({"classes": {0: "sky", 1: "road"}})
    assert Counts(2).summary(classes)["classes"] == ["sky", "road"]


def test_the_numpy_core_does_not_import_torch():
    code = (
        "import sys, segfocus.metrics as m; m.confusion_matrix; m.boundary_counts; m.Counts; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names():
    for name in segfocus.metrics.__all__:
        assert getattr(segfocus.metrics, name).__name__ == name
    assert dir(segfocus.metrics) == list(segfocus.metrics.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'iou'"):
        segfocus.metrics.iou  # noqa: B018


@pytest.mark.real_data
def test_public_network_outputs(shared_data):
    """The ESPNet outputs' published mIoU with void ignored."""
    from segfocus.data.pictures import read_mask

    classes = [
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "signsymbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ]
    counts = Counts(11)
    for file in sorted((shared_data / "camvid_espnet/labels/val").glob("*.png")):
        truth = read_mask(shared_data / "camvid/masks/val" / file.name).astype(np.uint8)
        truth[truth == 11] = 255
        counts.update(truth, read_mask(file).astype(np.uint8))
    summary = counts.summary(classes)
    assert summary["n_pictures"] == 101
    assert round(summary["miou"], 4) == 0.6930
    assert round(summary["pixel_accuracy"], 4) == 0.9328
    assert round(summary["per_class"]["pole"], 3) == 0.077


def test_boundary_iou_of_one_pair_is_that_of_counts():
    _, target, prediction = next(slow_twins.scenes(2))
    counts = Counts(4)
    counts.update(target, prediction)
    np.testing.assert_array_equal(counts.boundary_iou()[1], boundary_iou(target, prediction, 4, 3))
    np.testing.assert_array_equal(counts.confusion, confusion_matrix(target, prediction, 4))


def test_a_class_name_twice_is_refused():
    with pytest.raises(SegfocusError, match="expected different class names, got a, a"):
        Counts(2).summary(["a", "a"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"baseline": np.full((20, 40), 7, np.uint8)}, "prediction: expected train ids 0 to 1, got 7"),
        ({"importance": np.zeros((1, 2, 3))}, "expected importance as floats rows x columns, got float64"),
        ({"importance": np.zeros((2, 3), int)}, "expected importance as floats rows x columns, got int64"),
        ({"probabilities": np.zeros((2, 20, 40), np.uint8)}, r"expected probabilities of shape .* got uint8"),
    ],
)
def test_what_comes_beside_the_labels_is_checked(given, words):
    labels = np.zeros((20, 40), np.uint8)
    with pytest.raises(SegfocusError, match=words):
        Comparison(labels, labels, 2, **given)


@pytest.mark.parametrize("wrong", [-0.5, 1.5, np.nan])
def test_one_value_that_is_no_probability_is_found(wrong):
    """Also where it is not the largest of its pixel."""
    labels, values = np.zeros((20, 40), np.uint8), np.full((2, 20, 40), 0.5, np.float32)
    values[1, 3, 4] = wrong
    comparison = Comparison(labels, labels, 2, probabilities=values)
    with pytest.raises(SegfocusError, match="expected values from 0 to 1"):
        _ = comparison.probabilities

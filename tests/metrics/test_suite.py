import json

import numpy as np
import pytest
import torch

from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.metrics import Comparison, Counts, SegmentationScores, Suite, TallyMetric
from segfocus.metrics.suite import GROUPS

CLASSES = Classes.from_dict(
    {
        "classes": {
            0: {"name": "road", "category": "flat"},
            1: {"name": "pole", "thin": True, "category": "object"},
            2: {"name": "car", "instances": True, "category": "vehicle"},
            3: {"name": "van", "instances": True, "category": "vehicle"},
        },
        "ignore": [255],
    }
)
TWO = Classes.of(["background", "crack"], thin=["crack"])


def pictures(classes: Classes = CLASSES, count: int = 6) -> list[dict]:
    rng = np.random.default_rng(0)
    n = classes.num_classes
    found = []
    for index in range(count):
        target = np.kron(rng.integers(0, n, (5, 6)), np.ones((6, 6))).astype(np.uint8)
        target[rng.integers(0, 30)] = 1
        target[:3, :7] = 255
        logits = rng.normal(size=(n, *target.shape)) + 2 * (np.arange(n)[:, None, None] == target)
        probabilities = np.exp(logits) / np.exp(logits).sum(0)
        instances = np.where(
            (target >= 2) & (target < 255), np.kron(np.arange(30).reshape(5, 6), np.ones((6, 6))) + 1, 0
        )
        found.append(
            {
                "target": target,
                "prediction": probabilities.argmax(0).astype(np.uint8),
                "probabilities": probabilities.astype(np.float32),
                "instances": instances.astype(np.int64),
                "importance": rng.random((4, 5)),
                "name": f"picture {index}",
            }
        )
    return found


def everything(classes: Classes = CLASSES) -> Suite:
    return Suite(classes, probabilities=True, instances=True, importance=True)


def whole(classes: Classes = CLASSES) -> Suite:
    suite = everything(classes)
    for picture in pictures(classes):
        suite.update(**picture)
    return suite


@pytest.mark.parametrize("classes", [CLASSES, TWO], ids=["four classes", "two classes"])
def test_order_and_parts_change_no_count(classes):
    expected = whole(classes)
    order = np.random.default_rng(3).permutation(6)
    parts = [everything(classes) for _ in range(3)]
    for place, index in enumerate(order):
        parts[place % 3].update(**pictures(classes)[index])
    merged = everything(classes)
    for part in parts:
        merged.merge(part)
    for name, value in expected.counts.items():
        assert value.dtype == np.int64, name
        np.testing.assert_array_equal(merged.counts[name], value, err_msg=name)
    assert merged.summary() == expected.summary()


def test_every_group_of_scores_comes_out_as_strict_json():
    four, two = whole().summary(), whole(TWO).summary()
    assert json.loads(json.dumps(four, allow_nan=False)) == four
    assert four["left_out"] == {"binary": "no two-class task"}
    assert "left_out" not in two
    for key in (
        "miou",
        "regions",
        "trimap",
        "boundary_f",
        "mba",
        "thin",
        "instance",
        "calibration",
        "intervals",
        "headroom",
        "importance",
    ):
        assert key in four, key
    assert "binary" in two
    assert four["thin"].keys() == {"pole"}
    assert set(four["boundary_iou"]) == {"1", "3", "5", "2%"}
    assert set(four["per_category"]) == {"flat", "object", "vehicle"}


def test_memory_does_not_grow_with_pictures():
    suite = everything()
    before = sum(value.nbytes for value in suite.counts.values())
    for picture in pictures():
        suite.update(**picture)
    assert sum(value.nbytes for value in suite.counts.values()) == before


def test_groups_are_chosen_and_what_they_lack_is_said():
    assert set(Suite(CLASSES, "basic").tallies) == {"overlap"}
    assert set(Suite(CLASSES, ["regions", "thin"]).tallies) == {"overlap", "regions", "thin"}
    labels_alone = Suite(CLASSES)
    assert labels_alone.left_out == {
        "instances": "no instances",
        "calibration": "no probabilities",
        "binary": "no two-class task",
        "importance": "no importance",
    }
    assert set(GROUPS) == {*labels_alone.tallies, *labels_alone.left_out}
    with pytest.raises(SegfocusError, match="expected probabilities for 'calibration', got none"):
        Suite(CLASSES, ["calibration"])
    with pytest.raises(SegfocusError, match="unknown group 'region'; did you mean regions"):
        Suite(CLASSES, ["region"])
    with pytest.raises(SegfocusError, match="made alike"):
        Suite(CLASSES, "basic").merge(Suite(CLASSES, ["thin"]))
    # a picture without what the others have is refused, and nothing of it is counted
    suite = everything()
    with pytest.raises(SegfocusError, match=r"expected an instance map|expected probabilities"):
        suite.update(pictures()[0]["target"], pictures()[0]["prediction"], name="a")
    assert all(not value.any() for value in suite.counts.values())


def test_difference_of_two_predictions():
    before, after = Suite(CLASSES), Suite(CLASSES)
    for picture in pictures():
        better = np.where(np.arange(30)[:, None] < 10, picture["target"] % 255, picture["prediction"])
        options = {"target": picture["target"], "name": picture["name"]}
        before.update(prediction=picture["prediction"], **options)
        after.update(prediction=better.astype(np.uint8), **options)
    change = after.difference(before)
    expected = after.summary()["miou"] - before.summary()["miou"]
    assert change["miou"]["value"] == pytest.approx(expected)
    low, high = change["miou"]["interval"]
    assert 0 < low < expected < high
    assert change["mean_accuracy"]["interval"][0] > 0
    by_class = change["boundary_iou_per_class"]["3"]["car"]
    first, second = (suite.summary()["boundary_iou_per_class"]["3"]["car"] for suite in (before, after))
    assert by_class["value"] == pytest.approx(second - first)
    assert by_class["interval"][0] < by_class["value"] < by_class["interval"][1]
    same = before.difference(before)
    assert same["miou"] == {"value": 0, "interval": [0, 0]}
    assert Suite(CLASSES, "basic").difference(Suite(CLASSES, "basic"))["miou"] == {"value": None, "interval": None}


def test_any_tally_as_a_torchmetric():
    samples = pictures()
    stacked = {
        key: torch.from_numpy(np.stack([sample[key] for sample in samples]))
        for key in ("prediction", "target", "probabilities", "instances", "importance")
    }
    names = [sample["name"] for sample in samples]
    metric = SegmentationScores(CLASSES, groups="all", probabilities=True, instances=True, importance=True)
    for part in (slice(0, 4), slice(4, 6)):
        metric.update(
            stacked["prediction"][part],
            stacked["target"][part],
            stacked["probabilities"][part],
            stacked["instances"][part],
            names[part],
            importance=stacked["importance"][part],
        )
    assert metric.compute() == whole().summary()
    single = TallyMetric(Counts(4), CLASSES)
    single.update(stacked["prediction"][0], stacked["target"][0])
    single.update(stacked["prediction"][1:], stacked["target"][1:])
    counts = Counts(4)
    for sample in samples:
        counts.add(Comparison(sample["target"], sample["prediction"], 4))
    assert single.compute() == counts.summary(CLASSES)
    single.reset()
    assert single.tally().summary(CLASSES)["n_pictures"] == 0
    with pytest.raises(SegfocusError, match=r"try Classes\.of"):
        SegmentationScores(["a", "b"], groups="all")


def test_shares_of_the_diagonal_are_rounded_and_at_least_one():
    picture = pictures()[0]
    by_share, by_distance = Counts(4, (), (0.02, 0.1)), Counts(4, (1, 5))
    for counts in (by_share, by_distance):  # 30 x 36 px: the diagonal is 46.9 px
        counts.update(picture["target"], picture["prediction"])
    np.testing.assert_array_equal(by_share.boundary_iou(), by_distance.boundary_iou())
    assert by_share.bands.names == ("2%", "10%")
    with pytest.raises(SegfocusError, match="expected shares of the diagonal"):
        Counts(4, (), (1.5,))

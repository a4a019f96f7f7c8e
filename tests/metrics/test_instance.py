import json

import cv2
import numpy as np
import pytest

from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.metrics.comparison import Comparison
from segfocus.metrics.confusion import ratio
from segfocus.metrics.instance import (
    CITYSCAPES_SIZES,
    InstanceScores,
    instance_kind,
    known_sizes,
    objects,
    read_instances,
)
from tests.metrics.cityscapes import CLASSES, official, official_scores, write_frame

STREET = Classes.from_dict(
    {
        "classes": {
            0: {"name": "road", "raw": [7], "category": "flat"},
            1: {"name": "person", "raw": [24], "category": "human", "instances": True},
            2: {"name": "rider", "raw": [25], "category": "human", "instances": True},
            3: {"name": "car", "raw": [26, 29], "category": "vehicle", "instances": True},
        },
        "ignore": [0, 255],
    }
)


def scene(seed: int, classes: Classes = STREET, shape=(60, 80), count: int = 12):
    """Raw labels and Cityscapes instances with overlapping objects, a crowd and void; and a poor prediction."""
    random = np.random.default_rng(seed)
    raw = np.full(shape, classes.raw[0][0], np.int32)
    instances = raw.copy()
    things = [value for values, mark in zip(classes.raw, classes.instances, strict=True) if mark for value in values]
    for number in range(count):
        top, left = random.integers(0, shape[0] - 2), random.integers(0, shape[1] - 2)
        bottom, right = top + random.integers(1, 25), left + random.integers(1, 25)
        value = things[random.integers(len(things))]
        raw[top:bottom, left:right] = value
        instances[top:bottom, left:right] = value if number == 3 else value * 1000 + number
    void = np.zeros(shape, bool)
    void[: shape[0] // 6, : shape[1] // 4] = True
    raw[void] = instances[void] = classes.ignore[0]
    first = [values[0] for values in classes.raw]
    noise = random.choice(first, shape)
    prediction = np.where(random.random(shape) < 0.1, noise, np.roll(raw, 2, 1))
    prediction = np.where(np.isin(prediction, first), prediction, first[-1])  # merged and void ids are not predicted
    return raw, instances, prediction


def comparison_of(raw, instances, prediction, classes=STREET, kind="auto") -> Comparison:
    target = classes.encode(raw)
    normalised = read_instances(instances, target, classes, kind)
    return Comparison(target, classes.encode(prediction), classes.num_classes, instances=normalised)


def tally_of(scenes, classes=STREET, sizes=None) -> InstanceScores:
    tally = InstanceScores(classes, sizes)
    for found in scenes:
        tally.add(comparison_of(*found, classes=classes))
    return tally


def slow_iiou(scenes, classes, sizes):
    """Object by object, in floats, as the paper writes it."""
    n = classes.num_classes
    categories = [name for name in dict.fromkeys(classes.category) if name]
    found, whole, false_positives = np.zeros((3, n))
    by_category = {name: np.zeros(3) for name in categories}
    for raw, instances, prediction in scenes:
        target, guess = classes.encode(raw), classes.encode(prediction)
        for value in np.unique(instances[instances >= 1000]):
            mask = (instances == value) & (target != 255)
            if not mask.any():
                continue
            index = np.bincount(target[mask]).argmax()
            mask &= target == index
            weight = sizes[classes.names[index]] / mask.sum()
            found[index] += weight * (guess[mask] == index).sum()
            whole[index] += weight * mask.sum()
            members = [i for i in range(n) if classes.category[i] == classes.category[index]]
            by_category[classes.category[index]][:2] += (
                weight * np.isin(guess[mask], members).sum(),
                weight * mask.sum(),
            )
        for index in range(n):
            false_positives[index] += ((guess == index) & (target != index) & (target != 255)).sum()
        for name in categories:
            members = [i for i in range(n) if classes.category[i] == name]
            wrong = np.isin(guess, members) & ~np.isin(target, [*members, 255])
            by_category[name][2] += wrong.sum()
    per_class = ratio(found, whole + false_positives)
    per_category = {name: float(ratio(a, b + c)) for name, (a, b, c) in by_category.items()}
    return per_class, per_category


def test_by_hand():
    """Two persons of 4 and 2 px; half of the first and all of the second found; 3 px of road called person."""
    truth = np.array([[1, 1, 1, 1, 0, 1, 1, 0, 0, 0]], np.uint8)
    guess = np.array([[1, 1, 0, 0, 0, 1, 1, 1, 1, 1]], np.uint8)
    instances = np.array([[5, 5, 5, 5, 0, 6, 6, 0, 0, 0]])
    tally = InstanceScores(STREET)
    tally.update(truth, guess, instances=instances)
    scores = tally.summary(STREET)["instance"]
    assert scores["mean_sizes"] == {"person": 3.0}
    assert scores["per_class"] == {"road": None, "person": 3 * 1.5 / (3 * 2 + 3), "rider": None, "car": None}
    assert scores["iiou"] == 0.5
    assert scores["per_category"] == {"flat": None, "human": 0.5, "vehicle": None}
    assert scores["sizes_from"] == "the truth given"
    given = InstanceScores(STREET, {"person": 30, "rider": 1, "car": 1})
    given.update(truth, guess, instances=instances)
    assert given.summary(STREET)["instance"]["per_class"]["person"] == pytest.approx(45 / 63, rel=1e-12)
    assert given.summary(STREET)["instance"]["sizes_from"] == "the caller"


@pytest.mark.parametrize("sizes", [None, {"person": 55.5, "rider": 7.0, "car": 210.0}])
def test_equals_the_slow_definition(sizes):
    scenes = [scene(seed) for seed in range(6)]
    tally = tally_of(scenes, sizes=sizes)
    scores = tally.summary(STREET)["instance"]
    if sizes is None:
        areas = {name: [] for name in STREET.names}
        for raw, instances, _ in scenes:
            target = STREET.encode(raw)
            for value in np.unique(instances[(instances >= 1000) & (target != 255)]):
                mask = (instances == value) & (target != 255)
                areas[STREET.names[np.bincount(target[mask]).argmax()]].append(mask.sum())
        sizes = {name: np.mean(areas[name]) for name in ("person", "rider", "car")}
        assert scores["mean_sizes"] == pytest.approx(sizes, rel=1e-12)
    per_class, per_category = slow_iiou(scenes, STREET, {**sizes, "road": 0})
    assert [*scores["per_class"].values()][1:] == pytest.approx(per_class[1:].tolist(), abs=1e-11)
    assert scores["per_category"]["human"] == pytest.approx(per_category["human"], abs=1e-11)
    assert scores["per_category"]["vehicle"] == pytest.approx(per_category["vehicle"], abs=1e-11)
    assert scores["iiou"] == pytest.approx(per_class[1:].mean(), abs=1e-11)
    assert scores["per_class"]["road"] is scores["per_category"]["flat"] is None
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def assert_official(pairs, scenes):
    expected = official_scores(pairs)
    tally = tally_of(scenes, CLASSES, known_sizes(CLASSES, "cityscapes"))
    found = tally.summary(CLASSES)["instance"]
    assert found["sizes_from"] == "Cityscapes"
    for name, value in found["per_class"].items():
        assert (np.nan if value is None else value) == pytest.approx(
            expected["classInstScores"][name], abs=1e-9, nan_ok=True
        )
    for name, value in found["per_category"].items():
        assert (np.nan if value is None else value) == pytest.approx(
            expected["categoryInstScores"][name], abs=1e-9, nan_ok=True
        )
    assert found["iiou"] == pytest.approx(expected["averageScoreInstClasses"], abs=1e-9)
    assert found["category_iiou"] == pytest.approx(expected["averageScoreInstCategories"], abs=1e-9)
    confusion = tally.counts["confusion"]
    hits = confusion.diagonal()
    iou = ratio(hits, confusion.sum(0) + confusion.sum(1) - hits)
    for name, value in zip(CLASSES.names, iou, strict=True):
        assert value == pytest.approx(expected["classScores"][name], abs=1e-12, nan_ok=True)
    for category in {name for name in CLASSES.category if name}:
        member = np.array([name == category for name in CLASSES.category])
        hits = confusion[member][:, member].sum()
        union = confusion[member].sum() + confusion[:, member].sum() - hits
        assert float(ratio(hits, union)) == pytest.approx(expected["categoryScores"][category], abs=1e-12, nan_ok=True)


def test_generated_scenes_score_as_cityscapesscripts_says(tmp_path):
    scenes = [scene(seed, CLASSES, shape=(90, 120), count=25) for seed in range(4)]
    assert_official([write_frame(tmp_path, f"a_{i:06}_000019", *found) for i, found in enumerate(scenes)], scenes)


@pytest.mark.real_data
def test_cityscapes_frames_score_as_cityscapesscripts_says(shared_data, tmp_path):
    pairs, scenes = [], []
    random = np.random.default_rng(0)
    raw_ids = np.array([values[0] for values in CLASSES.raw])
    for number, file in enumerate(sorted(shared_data.glob("samples/cityscapes/gtFine/*/*/*_labelIds.png"))):
        labels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        instances = cv2.imread(str(file).replace("labelIds", "instanceIds"), cv2.IMREAD_UNCHANGED)
        prediction = np.roll(labels, (number, 4), (0, 1))
        noise = cv2.resize(
            raw_ids[random.integers(0, 19, (64, 128))].astype(np.uint8), labels.shape[::-1], None, 0, 0, 0
        )
        prediction = np.where(random.random(labels.shape) < 0.1, noise, prediction)
        prediction = np.where(np.isin(prediction, raw_ids), prediction, 7).astype(np.uint8)
        guess = tmp_path / f"{number}.png"
        cv2.imwrite(str(guess), prediction)
        pairs.append((guess, file))
        scenes.append((labels, instances, prediction))
    assert len(pairs) == 4
    assert_official(pairs, scenes)


def test_the_constants_are_those_of_cityscapesscripts():
    assert official.args.avgClassSize == CITYSCAPES_SIZES
    assert known_sizes(CLASSES, "cityscapes") == CITYSCAPES_SIZES
    assert known_sizes(CLASSES, "plain") is None
    assert known_sizes(Classes.of(["a", "b"]), "cityscapes") is None


def test_perfect_predictions_score_one_even_where_the_maps_disagree():
    raw, instances, _ = scene(1)
    instances = np.roll(instances, 1, 0)
    target = STREET.encode(raw)
    tally = InstanceScores(STREET)
    tally.update(target, target, instances=read_instances(instances, target, STREET, "cityscapes"))
    scores = tally.summary(STREET)["instance"]
    assert {value for value in scores["per_class"].values() if value is not None} == {1.0}
    assert scores["iiou"] == scores["category_iiou"] == 1.0


def test_an_object_is_the_pixels_of_its_most_common_class():
    target = np.array([[1, 1, 1, 2, 255], [2, 2, 1, 1, 0]], np.uint8)
    guess = np.array([[1, 2, 0, 2, 1], [2, 2, 1, 2, 0]], np.uint8)
    instances = np.array([[9, 9, 9, 9, 9], [2**40, 2**40, 2**40, 2**40, 0]])
    owner, predicted = objects(Comparison(target, guess, 4, instances=instances))
    np.testing.assert_array_equal(owner, [1, 1])  # the second object: a tie, the smaller train id
    np.testing.assert_array_equal(predicted, [[1, 1, 1, 0], [0, 1, 1, 0]])
    small = np.where(instances > 9, -3, instances)
    owner, predicted = objects(Comparison(target, guess, 4, instances=small))
    np.testing.assert_array_equal(predicted, [[0, 1, 1, 0], [1, 1, 1, 0]])


def test_void_objects_and_pictures_without_objects_add_nothing():
    target = np.full((4, 5), 255, np.uint8)
    tally = InstanceScores(STREET)
    tally.update(target, np.zeros_like(target), instances=np.full((4, 5), 3))
    tally.update(np.zeros_like(target), np.zeros_like(target), instances=np.zeros((4, 5), np.uint8))
    scores = tally.summary(STREET)["instance"]
    assert scores["iiou"] is scores["category_iiou"] is None
    assert set(scores["per_class"].values()) == {None}
    assert scores["mean_sizes"] == {}


def test_a_class_that_is_only_predicted_scores_zero():
    target = np.zeros((2, 6), np.uint8)
    guess = target.copy()
    guess[0, :2] = 3
    tally = InstanceScores(STREET, {"person": 1.0, "rider": 1.0, "car": 1.0})
    tally.update(target, guess, instances=np.zeros((2, 6), int))
    scores = tally.summary(STREET)["instance"]
    assert scores["per_class"] == {"road": None, "person": None, "rider": None, "car": 0.0}
    assert scores["per_category"] == {"flat": None, "human": None, "vehicle": 0.0}
    assert scores["iiou"] == 0.0


def test_without_marked_classes_all_owners_of_objects_are_scored():
    plain = Classes.from_dict(
        {"classes": {0: {"name": "ground", "category": "rest"}, 1: {"name": "nucleus", "category": "cells"}}}
    )
    target = np.array([[0, 1, 1, 0, 1, 0]], np.uint8)
    guess = np.array([[0, 1, 0, 0, 1, 1]], np.uint8)
    for sizes in (None, {"nucleus": 1.5}):
        tally = InstanceScores(plain, sizes)
        tally.update(target, guess, instances=np.array([[0, 1, 1, 0, 2, 0]]))
        scores = tally.summary(plain)["instance"]
        assert scores["per_class"] == {"ground": None, "nucleus": 1.5 * 1.5 / (1.5 * 2 + 1)}
        assert scores["per_category"] == {"rest": None, "cells": 1.5 * 1.5 / (1.5 * 2 + 1)}


def test_classes_without_a_category():
    classes = Classes.of(["ground", "nucleus"])
    target = np.array([[0, 1, 1]], np.uint8)
    tally = InstanceScores(classes)
    tally.update(target, target, instances=np.array([[0, 1, 1]]))
    scores = tally.summary(["ground", "nucleus"])["instance"]
    assert scores["per_class"] == {"ground": None, "nucleus": 1.0}
    assert scores["per_category"] == {}
    assert scores["category_iiou"] is None


def test_order_and_merging_change_nothing():
    scenes = [scene(seed) for seed in range(7)]
    whole, first, second = tally_of(scenes), tally_of(scenes[4::-1]), tally_of(scenes[5:])
    first.merge(second)
    assert first.summary(STREET) == whole.summary(STREET)
    with pytest.raises(SegfocusError, match=r"got InstanceScores of .* and InstanceScores of"):
        first.merge(InstanceScores(STREET, CITYSCAPES_SIZES))


def test_reading_instance_maps():
    target = STREET.encode(np.array([[7, 24, 26], [26, 255, 29]]))
    cityscapes = np.array([[7, 24003, 26], [26000, 11, 29001]], np.uint16)
    assert instance_kind(cityscapes, target, STREET) == "cityscapes"
    for kind in ("auto", "cityscapes"):
        read = read_instances(cityscapes, target, STREET, kind)
        np.testing.assert_array_equal(read, [[0, 24003, 0], [26000, 0, 29001]])
        assert read.dtype == np.uint16
    plain = np.array([[0, 1, 2], [1000, 0, 3]])
    assert instance_kind(plain, target, STREET) == "plain"
    np.testing.assert_array_equal(read_instances(plain, target, STREET), plain)
    crowd = np.array([[7, 24, 26], [26, 3000, 29]], np.uint16)
    assert instance_kind(crowd, target, STREET) is None  # void may hold anything
    np.testing.assert_array_equal(read_instances(crowd, target, STREET), [[0, 0, 0], [0, 3000, 0]])
    np.testing.assert_array_equal(read_instances(crowd, target, STREET, "plain"), crowd)
    bytes_ = np.array([[1, 0, 0], [0, 255, 2]], np.uint8)
    np.testing.assert_array_equal(read_instances(bytes_, target, STREET), bytes_)
    np.testing.assert_array_equal(read_instances(bytes_, target, STREET, "cityscapes"), np.zeros((2, 3)))
    colors = Classes.from_dict(
        {"classes": {0: {"name": "a", "raw": [[0, 9, 0]]}, 1: {"name": "b", "raw": [[1, 1, 2]]}}}
    )
    assert instance_kind(plain, np.zeros((2, 3), np.uint8), colors) == "plain"


def test_refusals():
    target = np.zeros((2, 3), np.uint8)
    with pytest.raises(SegfocusError, match="unknown kind of instances 'plian'; did you mean plain"):
        read_instances(target, target, STREET, "plian")
    with pytest.raises(SegfocusError, match=r"expected integers \(2, 3\) like the labels, got float64"):
        read_instances(np.zeros((2, 3)), target, STREET)
    with pytest.raises(SegfocusError, match=r"got uint8 \(3, 2\)"):
        instance_kind(target.T, target, STREET)
    with pytest.raises(SegfocusError, match="expected values from 0, got -1"):
        read_instances(np.full((2, 3), -1), target, STREET)
    with pytest.raises(SegfocusError, match="a mean size for every class with instances, got none for rider"):
        InstanceScores(STREET, {"person": 1.0, "car": 2.0})
    with pytest.raises(SegfocusError, match="expected mean sizes of a, b, got car"):
        InstanceScores(Classes.of(["a", "b"]), {"car": 1.0})
    with pytest.raises(SegfocusError, match="mean sizes above 0 px, got nan for car"):
        InstanceScores(STREET, {"person": 1.0, "rider": 2.0, "car": float("nan")})
    with pytest.raises(SegfocusError, match="expected an instance map"):
        InstanceScores(STREET).update(target, target)

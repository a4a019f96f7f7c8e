import numpy as np
import pytest

from segfocus.errors import SegfocusError
from segfocus.metrics.changes import Changes, changes
from segfocus.metrics.comparison import Comparison
from segfocus.metrics.regions import component_bins, distance_bins, thickness_bins


def scene(seed: int = 0):
    rng = np.random.default_rng(seed)
    target = np.kron(rng.integers(0, 3, (5, 6)), np.ones((7, 7))).astype(np.uint8)
    before = np.where(rng.random(target.shape) < 0.7, target, rng.integers(0, 3, target.shape)).astype(np.uint8)
    after = np.where(rng.random(target.shape) < 0.8, target, rng.integers(0, 3, target.shape)).astype(np.uint8)
    target[:4, :9] = 255
    return target, before, after


def test_pixel_by_pixel():
    target, before, after = scene()
    found = Comparison(target, after, 3, baseline=before)
    tally = Changes(3)
    tally.add(found)
    scores = tally.summary(["a", "b", "c"])["changed"]
    bins = {
        "distance": distance_bins(target),
        "thickness": thickness_bins(target),
        "component_size": component_bins(target),
    }
    expected = dict.fromkeys(("fixed", "broken", "still_wrong"), 0)
    per_class = {name: dict(expected) for name in "abc"}
    per_region = {name: {kind: [0] * 6 for kind in expected} for name in bins}
    for place in np.ndindex(target.shape):
        truth = target[place]
        if truth == 255:
            continue
        was, now = before[place] == truth, after[place] == truth
        kind = {(False, True): "fixed", (True, False): "broken", (False, False): "still_wrong"}.get((was, now))
        if kind:
            expected[kind] += 1
            per_class["abc"[truth]][kind] += 1
            for name, map_ in bins.items():
                per_region[name][kind][map_[place]] += 1
    assert {kind: scores[kind] for kind in expected} == expected
    assert scores["per_class"] == per_class
    for name, parts in per_region.items():
        assert {kind: scores["per_region"][name][kind] for kind in parts} == parts
    assert expected["fixed"] > 0 < expected["broken"]


def test_the_difference_in_right_pixels_is_fixed_minus_broken():
    target, before, after = scene(1)
    tally = Changes(3)
    tally.add(Comparison(target, after, 3, baseline=before))
    scores = tally.summary(["a", "b", "c"])["changed"]
    right = [Comparison(target, guess, 3).confusion.trace() for guess in (before, after)]
    assert scores["fixed"] - scores["broken"] == right[1] - right[0]


def test_void_is_no_change_and_a_baseline_is_needed():
    target, before, after = scene(2)
    assert (changes(Comparison(target, after, 3, baseline=before))[:4, :9] == 255).all()
    with pytest.raises(SegfocusError, match="expected a baseline prediction, got none"):
        changes(Comparison(target, after, 3))
    with pytest.raises(SegfocusError, match="one size"):
        Comparison(target, after, 3, baseline=before[:-1])

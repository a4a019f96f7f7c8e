"""Best and implied thresholds of patches, against a loop over patches and thresholds."""

import numpy as np
import pytest

from segfocus.errors import SegfocusError
from segfocus.metrics.patch_thresholds import PatchThresholds, class_thresholds

STEPS = [step / 20 for step in range(1, 21)]


def example(seed: int, classes: int, size=(29, 38)):
    rng = np.random.default_rng(seed)
    base = rng.random((classes, *size), np.float32)
    base[:, :16, :16] = 0.001  # a patch that no threshold says anything about
    base[0, :16, :16] = 1
    base /= base.sum(0)
    target, labels = (rng.integers(0, classes, size).astype(np.uint8) for _ in range(2))
    keep = rng.random(size) < 0.5
    leaning = (base * np.array([0.5] + [1] * (classes - 1))[:, None, None]).argmax(0)
    target[keep] = leaning[keep]
    labels[rng.random(size) < 0.7] = 0
    target[rng.random(size) < 0.1] = 255
    return target, base.astype(np.float32), labels


def slow_threshold(p, mask, labelled) -> float:
    best = {}
    for step in STEPS:
        found = p > np.float32(step)
        hits, either = (found & mask & labelled).sum(), ((found | mask) & labelled).sum()
        best[step] = (hits + 1) / (either + 1)
    top = max(best.values())
    return min((step for step in STEPS if best[step] == top), key=lambda step: (round(abs(step - 0.5), 9), step))


def slow_summary(examples, classes: int, patch: int) -> dict:
    best, implied, off, followed, changed, explained = [], [], 0, 0, 0, 0
    for target, base, labels in examples:
        for c in range(1, 2) if classes == 2 else range(classes):
            for top in range(0, target.shape[0], patch):
                for left in range(0, target.shape[1], patch):
                    part = np.s_[top : top + patch, left : left + patch]
                    p, labelled = base[c][part], target[part] != 255
                    wanted = slow_threshold(p, target[part] == c, labelled)
                    taken = slow_threshold(p, labels[part] == c, labelled)
                    turned = labelled & ((labels[part] == c) != (base[:, *part].argmax(0) == c))
                    changed += turned.sum()
                    explained += (turned & ((p > np.float32(taken)) == (labels[part] == c))).sum()
                    if (p[labelled] > 0.05).any():
                        best.append(wanted)
                        implied.append(taken)
                        off += wanted != 0.5
                        followed += (wanted - 0.5) * (taken - 0.5) > 0
    return {
        "patch": patch, "thresholds": STEPS, "patches": len(best),
        "best": [best.count(step) for step in STEPS], "implied": [implied.count(step) for step in STEPS],
        "best_off": np.mean(np.array(best) != 0.5), "implied_off": np.mean(np.array(implied) != 0.5),
        "followed": followed / off, "changed": changed, "explained": explained / changed,
    }  # fmt: skip


@pytest.mark.parametrize(("classes", "patch"), [(2, 8), (2, 64), (3, 8)])
def test_equals_a_loop_over_patches(classes, patch):
    examples = [example(seed, classes) for seed in range(2)]
    counts = PatchThresholds(classes, patch)
    for item in examples:
        counts.add(*item)
    expected = slow_summary(examples, classes, patch)
    found = counts.summary()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value), key
    if patch == 8:
        assert 0 < found["followed"] < 1
        assert 0 < found["explained"] < 1


def test_a_refiner_that_cuts_at_the_best_thresholds_follows_them_all():
    """Background at 0.2 and the object at 0.3 on the left, at 0.8 and 0.9 on the right."""
    target = np.zeros((16, 32), np.uint8)
    target[4:12, 4:12] = target[4:12, 20:28] = 1
    p = np.where(target == 1, 0.3, 0.2).astype(np.float32)
    p[:, 16:] += np.float32(0.6)
    counts = PatchThresholds(2, 16)
    counts.add(target, np.stack([1 - p, p]), target)
    found = counts.summary()
    assert (found["patches"], found["best_off"], found["followed"], found["explained"]) == (2, 1, 1, 1)
    assert [found["thresholds"][place] for place in np.flatnonzero(found["best"])] == [0.25, 0.8]
    assert found["best"] == found["implied"]
    part = class_thresholds(1, target, p, target, 16)
    assert part.counted.all()
    assert part.best.tolist() == [[0.25, pytest.approx(0.8)]]


def test_the_base_itself_implies_a_half_everywhere_and_empty_pictures_nothing():
    target, base, _ = example(0, 2)
    counts = PatchThresholds(2, 8)
    assert {counts.summary()[key] for key in ("best_off", "implied_off", "followed", "explained")} == {None}
    counts.add(target, base, base.argmax(0).astype(np.uint8))
    found = counts.summary()
    assert found["changed"] == 0
    assert found["explained"] is None
    assert found["implied_off"] == 0
    assert found["best_off"] > 0.5
    everything_void = PatchThresholds(2, 8)
    everything_void.add(np.full_like(target, 255), base, target)
    assert everything_void.summary()["patches"] == 0


def test_refusals():
    target, base, labels = example(0, 2)
    counts = PatchThresholds(2, 8)
    with pytest.raises(SegfocusError, match="expected maps of 2 x 29 x 38, got 2 x 29 x 37; try"):
        counts.add(target, base[..., 1:], labels)
    with pytest.raises(SegfocusError, match="expected target and prediction of one size"):
        counts.add(target, base, labels[1:])
    with pytest.raises(SegfocusError, match=r"expected numbers in \[0, 1\]"):
        counts.add(target, base * 3, labels)
    with pytest.raises(SegfocusError, match="expected at least two classes, got 1"):
        PatchThresholds(1, 8)
    assert counts.summary()["patches"] == 0

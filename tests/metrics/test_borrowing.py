"""Where offsets point, against a loop over pixels."""

import math

import numpy as np
import pytest

from segfocus.errors import SegfocusError
from segfocus.metrics.borrowing import Borrowing, seed_pixels


def example(seed: int, size=(13, 18), stride=4):
    rng = np.random.default_rng(seed)
    grid = tuple(-(-side // stride) for side in size)
    target = np.kron(rng.integers(0, 3, (4, 6)), np.ones((4, 4), int))[: size[0], : size[1]].astype(np.uint8)
    target[rng.random(size) < 0.1] = 255
    initial = np.where(rng.random(size) < 0.3, rng.integers(0, 3, size), np.where(target == 255, 0, target))
    offsets = rng.normal(0, 5, (2, *grid)).astype(np.float32)
    return target, initial.astype(np.uint8), offsets, rng.random(grid).astype(np.float32)


def slow(examples, stride=4):
    """The same questions, pixel by pixel."""
    rows = {"wrong before": [], "right before": []}
    trust, lengths = {True: [], False: []}, []
    for target, initial, offsets, confidence in examples:
        height, width = target.shape
        for (row, column), truth in np.ndenumerate(target):
            if truth == 255:
                continue
            cell = (row // stride, column // stride)
            x, y = (float(axis[cell]) for axis in offsets)
            seed = (min(max(row + round(y), 0), height - 1), min(max(column + round(x), 0), width - 1))
            part = "right before" if initial[row, column] == truth else "wrong before"
            same = None if target[seed] == 255 else bool(target[seed] == truth)
            rows[part].append((same, initial[seed] == truth, float(confidence[cell])))
            if same is not None:
                trust[same].append(float(confidence[cell]))
            lengths.append(math.hypot(x, y))
    parts = [
        {
            "part": part,
            "pixels": len(found),
            "same_class": np.mean([same for same, _, _ in found if same is not None]),
            "would_be_right": np.mean([right for _, right, _ in found]),
            "confidence": np.mean([sure for _, _, sure in found]),
        }
        for part, found in rows.items()
    ]
    return parts, {"same_class": np.mean(trust[True]), "other_class": np.mean(trust[False])}, np.sort(lengths)


def test_equals_a_loop_over_pixels():
    examples = [example(seed) for seed in range(3)]
    counts = Borrowing(3)
    for item in examples:
        counts.add(*item)
    parts, trust, lengths = slow(examples)
    found = counts.summary()
    for expected, part in zip(parts, found["parts"], strict=True):
        assert part == pytest.approx(expected, abs=1e-6)
    assert found["confidence"] == pytest.approx(trust, abs=1e-6)
    for share in (0.5, 0.9, 0.99):
        exact = lengths[math.ceil(share * len(lengths)) - 1]
        assert 0 < found["lengths"][f"{100 * share:.0f} %"] - exact <= 0.25


def test_order_and_pictures_do_not_matter():
    examples = [example(seed, (9 + seed, 21)) for seed in range(4)]
    summaries = []
    for order in (examples, examples[::-1]):
        counts = Borrowing(3)
        for item in order:
            counts.add(*item)
        summaries.append(counts.summary())
    assert summaries[0] == summaries[1]


def test_no_offset_points_at_the_pixel_itself():
    target, initial, offsets, confidence = example(0)
    rows, columns = seed_pixels(0 * offsets, target.shape)
    assert (rows == np.arange(13)[:, None]).all()
    assert (columns == np.arange(18)).all()
    counts = Borrowing(3)
    counts.add(target, initial, 0 * offsets, confidence)
    wrong, right = counts.summary()["parts"]
    assert (wrong["would_be_right"], right["would_be_right"]) == (0, 1)
    assert (wrong["same_class"], right["same_class"]) == (1, 1)


def test_nothing_counted_gives_none():
    counts = Borrowing(3)
    assert counts.summary()["lengths"]["50 %"] is None
    target, initial, offsets, confidence = example(0)
    counts.add(np.full_like(target, 255), initial, offsets, confidence)
    assert counts.summary()["parts"][0]["same_class"] is None
    assert counts.summary()["confidence"]["other_class"] is None


def test_refuses_what_cannot_be_counted():
    target, initial, offsets, confidence = example(0)
    with pytest.raises(SegfocusError, match="one size"):
        Borrowing(3).add(target, initial[:5], offsets, confidence)
    offsets[0, 0, 0] = np.nan
    with pytest.raises(SegfocusError, match="offsets: expected finite values"):
        Borrowing(3).add(target, initial, offsets, confidence)

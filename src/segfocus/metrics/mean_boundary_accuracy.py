"""Mean boundary accuracy, mBA (Cheng et al., "CascadePSP", CVPR 2020, section 4), as its authors' evaluation has it.

Five radii r from 1 px towards (height + width) / 300 px; for each the band of a class, which is the pixels whose
ellipse of 2 r + 1 px (OpenCV's) holds both the class and something else; the accuracy in the band; the mean over the
radii; the mean over pictures.  (The paper writes radii from 3 px; the authors' code starts at 1, and so do we.)

Their code has two forms, and both are here:

    multi-class (their ADE20K numbers)   the bands of all classes together; right is the pixel's class;
    binary (their object data sets)      one class' band; right is "this class or not".

For two classes without void both are the same number.  Void borders a class like any other label and is never
counted.  A picture of one label only has no band and is left out; their code divides by zero there.

All classes at once: a pixel's label becomes one bit, and OR over the ellipse gives the set of classes near the pixel.
A class' band is where the set holds its bit and another.  The right pixels need no second pass: a pixel is wrong for
exactly two classes, the true and the predicted one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped, UInt8

from segfocus.data.classes import Classes
from segfocus.metrics.comparison import Comparison
from segfocus.metrics.confusion import ratio
from segfocus.metrics.tally import UNIT, Tally, as_units, by_name, names_of, number

_STEPS = 5
_SLAB = 128  # rows worked on at once: what is made of them stays in the processor's cache
_WORDS = {8: "<u1", 16: "<u2", 32: "<u4", 64: "<u8"}  # bits; little-endian, as `_count_bits` reads them
_MOST = 63  # classes at once, beside one bit for everything else
_OUTSIDE = 64  # what has no bit
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").astype(np.int64)


def band_radii(height: int, width: int) -> tuple[int, ...]:
    """The five radii in px for a picture of that size, as the authors' code computes them."""
    most = (width + height) / 300
    return tuple(1 + int((most - 1) / _STEPS * step) for step in range(_STEPS))


def mean_boundary_accuracy(target: np.ndarray, prediction: np.ndarray, num_classes: int) -> float:
    """mBA in [0, 1] of one pair, the multi-class form; NaN for a picture of one label.

    Args:
        target: uint8 height x width, train ids, 255 = void.
        prediction: uint8 height x width, train ids.
        num_classes: 1 to 254.

    Raises:
        SegfocusError: not uint8, unequal sizes or values outside the classes.
    """
    return _accuracies(Comparison(target, prediction, num_classes))[0]


class MeanBoundaryAccuracy(Tally):
    """mBA of all classes together and of each class.

    State: the sum over pictures of the multi-class form (`accuracy`, [1], in units of 2**-40) and their number
    (`pictures`, [1]); of the binary form, for each class over the pictures that show it, `class_accuracy` and
    `class_pictures` [classes].
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        for prefix, size in (("", 1), ("class_", num_classes)):
            self.counts[f"{prefix}accuracy"] = np.zeros(size, np.int64)
            self.counts[f"{prefix}pictures"] = np.zeros(size, np.int64)

    def count(self, comparison: Comparison) -> dict[str, np.ndarray]:
        together, per_class = _accuracies(comparison)
        found: dict[str, np.ndarray] = {}
        for prefix, values in (("", np.array([together])), ("class_", per_class)):
            found[f"{prefix}accuracy"] = as_units(np.nan_to_num(values))
            found[f"{prefix}pictures"] = np.isfinite(values).astype(np.int64)
        return found

    def summary(self, classes: Classes | Sequence[str]) -> dict[str, Any]:
        """Keys `mba` (multi-class form, mean over pictures), `mba_per_class` {name: binary form, mean over the
        pictures whose truth shows the class} and `mba_class_mean` (binary form, mean over all pairs of picture and
        class)."""
        names = names_of(classes, self.num_classes)
        total, pairs = self.counts["class_accuracy"], self.counts["class_pictures"]
        return {
            "mba": number(ratio(self.counts["accuracy"], self.counts["pictures"])[0] / UNIT),
            "mba_per_class": by_name(names, ratio(total, pairs) / UNIT),
            "mba_class_mean": number(ratio(total.sum(), pairs.sum()) / UNIT),
        }


def _accuracies(comparison: Comparison) -> tuple[float, Float64[np.ndarray, "classes"]]:
    """Mean over the radii of the accuracy in the common band, and of each class' in its own; NaN without a band."""
    radii = band_radii(*comparison.target.shape)
    order = sorted(set(radii))  # in small pictures several are the same
    present = np.flatnonzero(comparison.confusion.sum(1))
    counts = np.zeros((4, len(order), comparison.num_classes), np.int64)
    for start in range(0, len(present), _MOST):
        group = present[start : start + _MOST]
        counts[..., group] = _band_counts(comparison, order, group)
    band, inside, inside_wrong, outside_wrong = counts[:, [order.index(radius) for radius in radii]]
    together = 1 - ratio(inside_wrong.sum(1), inside.sum(1))
    return float(together.mean()), (1 - ratio(inside_wrong + outside_wrong, band)).mean(0)


def _band_counts(
    comparison: Comparison, radii: Sequence[int], group: Int64[np.ndarray, "group"]
) -> Int64[np.ndarray, "4 radii group"]:
    """The four counts of `_slab_counts` for each class of the group at each radius (ascending).

    Within the group a class goes by its place, 1, 2, ..., which is its bit; place 0 is everything else.
    """
    reach, places = max(radii), len(group) + 1
    place_of = np.zeros(256, np.uint8)
    place_of[group] = np.arange(1, places)
    truth, guess = place_of.take(comparison.target), place_of.take(comparison.prediction)
    padded = np.pad(truth, reach, constant_values=_OUTSIDE)
    bit_of = np.zeros(_OUTSIDE + 1, next(word for room, word in _WORDS.items() if places <= room))
    bit_of[:places] = [1 << place for place in range(places)]
    counts = np.zeros((4, len(radii), places), np.int64)
    for start in range(0, len(truth), _SLAB):
        rows = slice(start, start + _SLAB)
        sets = bit_of.take(padded[start : start + _SLAB + 2 * reach])
        maps = truth[rows], guess[rows], comparison.labelled[rows], comparison.wrong[rows]
        for index, near in enumerate(_unite(sets, radii)):
            counts[:, index] += _slab_counts(near, bit_of[:places], *maps)
    return counts[..., 1:]


def _slab_counts(
    near: Shaped[np.ndarray, "rows width"],
    bit_of: Shaped[np.ndarray, "places"],
    truth: UInt8[np.ndarray, "rows width"],
    guess: UInt8[np.ndarray, "rows width"],
    labelled: Bool[np.ndarray, "rows width"],
    wrong: Bool[np.ndarray, "rows width"],
) -> Int64[np.ndarray, "4 places"]:
    """For each place the labelled pixels in its band; those of its own in it; the wrong ones among these; and the
    pixels of others in it that are taken for its own."""
    places = len(bit_of)
    in_band = (near & (near - 1)).astype(bool)  # at least two bits
    in_band &= labelled
    is_wrong = in_band & wrong
    taken_for = guess[is_wrong]
    in_that_band = (near[is_wrong] & bit_of.take(taken_for)).astype(bool)
    return np.stack(
        [
            _count_bits(near[in_band], places),
            np.bincount(truth[in_band], minlength=places),
            np.bincount(truth[is_wrong], minlength=places),
            np.bincount(taken_for[in_that_band], minlength=places),
        ]
    )


def _unite(
    sets: Shaped[np.ndarray, "padded_rows padded_width"], radii: Sequence[int]
) -> list[Shaped[np.ndarray, "rows width"]]:
    """OR over OpenCV's ellipse of each radius (ascending), without the padding of the largest radius.

    Every row of an ellipse is a centred run, and the runs grow pixel by pixel: each is made once for all radii.
    """
    reach = radii[-1]
    rows, width = (size - 2 * reach for size in sets.shape)
    united = [np.zeros((rows, width), sets.dtype) for _ in radii]
    halves = [_half_runs(radius) for radius in radii]
    run = sets[:, reach : reach + width].copy()
    for half in range(reach + 1):
        if half:
            run |= sets[:, reach - half : reach - half + width]
            run |= sets[:, reach + half : reach + half + width]
        for radius, half_runs, near in zip(radii, halves, united, strict=True):
            for top in np.flatnonzero(half_runs == half) + (reach - radius):
                near |= run[top : top + rows]
    return united


def _half_runs(radius: int) -> Int64[np.ndarray, "side"]:
    """Pixels on each side of the middle one in the rows of OpenCV's ellipse."""
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return (ellipse.sum(1, dtype=np.int64) - 1) // 2


def _count_bits(words: Shaped[np.ndarray, "words"], count: int) -> Int64[np.ndarray, "count"]:
    """How many words have each of the lowest `count` bits, by a histogram of each byte."""
    parts = words.view(np.uint8).reshape(len(words), words.itemsize).T
    return np.concatenate([np.bincount(part, minlength=256) @ _BITS for part in parts])[:count]

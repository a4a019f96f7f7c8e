"""Calibration: are pixels that are 80 % sure right 80 % of the time?  NumPy and OpenCV only.

Over all labelled pixels of all pictures, with p the probabilities of a pixel, c its true class, and the largest
probability as its confidence; the predicted class here is the first of largest probability:

    ECE    sum over bins of (share of pixels) x |accuracy - mean confidence|, equal-width bins of the confidence
           (Naeini et al., AAAI 2015; Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3)
    Brier  mean of sum over classes of (p_k - [k = c])^2, from 0 to 2 (Brier, 1950)
    NLL    mean of -ln p_c, p_c not below 1e-7, so that one sure mistake costs 16.1 and not infinity

A bin holds its lower end, the last one both ends (Guo et al. write (lower, upper]; torchmetrics gives exactly 1 a bin
of its own).  The ECE is of the data set: bins are filled by all pictures before they are compared (a mean of the
pictures' ECE is larger, as small samples never match their confidence exactly).  It is also given per band of
distance to the truth's boundary, where the mistakes are.  Probabilities are taken as they are, not made to sum to 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.metrics.comparison import Comparison
from segfocus.metrics.confusion import VOID, joint_histogram, ratio
from segfocus.metrics.regions import DISTANCE_EDGES, bin_names
from segfocus.metrics.tally import SUM_UNIT, Tally, as_sum_units, number, numbers

LEAST = 1e-7
"""smallest probability of the true class that the NLL sees"""
_BANDS = len(DISTANCE_EDGES) + 1
_BLOCK = 2**15  # pixels at a time: what is computed of them stays in the processor's cache


class Calibration(Tally):
    """ECE, Brier score, NLL and the reliability diagram (see the top of this file).

    State: `pixels`, `correct` and `confidence` (units of 2**-20), each [distance bands, confidence bins], and `losses`,
    the sums of the Brier score and of the NLL (units of 2**-20).
    """

    needs = ("probabilities",)

    def __init__(self, num_classes: int, bins: int = 15) -> None:
        """
        Args:
            num_classes: 2 to 254.
            bins: of the confidence, 1 to 42.

        Raises:
            SegfocusError: bins outside that range.
        """
        super().__init__(num_classes)
        if not 1 <= bins <= VOID // _BANDS:  # band and bin share a byte
            raise SegfocusError(f"calibration: expected 1 to {VOID // _BANDS} bins, got {bins}; try 15")
        self.bins = bins
        self.counts = {name: np.zeros((_BANDS, bins), np.int64) for name in ("pixels", "correct", "confidence")}
        self.counts["losses"] = np.zeros(2, np.int64)

    def count(self, comparison: Comparison) -> dict[str, np.ndarray]:
        cells = _BANDS * self.bins
        outcomes, confidences, losses = np.zeros((cells, 2), np.int64), np.zeros(cells), np.zeros(2)
        probabilities, target, band = comparison.probabilities, comparison.target, comparison.distance_bin
        for rows in _row_blocks(target.shape):
            block, truth, labelled = probabilities[:, rows], target[rows], comparison.labelled[rows]
            confidence, correct = _most_probable(block, truth)
            place = (confidence * np.float32(self.bins)).clip(0, self.bins - 1).astype(np.uint8)
            cell = np.where(labelled, band[rows] * np.uint8(self.bins) + place, np.uint8(VOID))
            outcomes += joint_histogram(cell, correct.view(np.uint8), cells, 2)
            confidences += np.bincount(cell[labelled], confidence[labelled], cells)
            losses += _losses(block, truth, labelled)
        found = {"pixels": outcomes.sum(1), "correct": outcomes[:, 1], "confidence": as_sum_units(confidences)}
        found = {name: values.reshape(_BANDS, self.bins) for name, values in found.items()}
        return {**found, "losses": as_sum_units(losses)}

    def summary(self, classes: Classes | Sequence[str]) -> dict[str, Any]:
        """{"calibration": ...} with ece, brier, nll, mean_confidence, accuracy; bins: for each bin of the confidence
        its mean confidence and accuracy (None where it is empty) and share of all pixels; per_distance: ece, accuracy
        and mean confidence in bands of distance to the truth's boundary (`bins` names them, in px)."""
        pixels, correct = self.counts["pixels"], self.counts["correct"]
        confidence = self.counts["confidence"] / SUM_UNIT
        bins = zip(
            numbers(ratio(confidence.sum(0), pixels.sum(0))),
            numbers(ratio(correct.sum(0), pixels.sum(0))),
            numbers(ratio(pixels.sum(0), np.full(self.bins, pixels.sum()))),
            strict=True,
        )
        brier, nll = ratio(self.counts["losses"] / SUM_UNIT, np.full(2, pixels.sum()))
        return {
            "calibration": {
                "ece": number(expected_calibration_error(pixels.sum(0), correct.sum(0), confidence.sum(0))),
                "brier": number(brier),
                "nll": number(nll),
                "mean_confidence": number(ratio(confidence.sum(), pixels.sum())),
                "accuracy": number(ratio(correct.sum(), pixels.sum())),
                "bins": [{"confidence": sure, "accuracy": right, "share": share} for sure, right, share in bins],
                "per_distance": {
                    "bins": bin_names(DISTANCE_EDGES),
                    "ece": numbers(expected_calibration_error(pixels, correct, confidence)),
                    "accuracy": numbers(ratio(correct.sum(1), pixels.sum(1))),
                    "confidence": numbers(ratio(confidence.sum(1), pixels.sum(1))),
                },
            }
        }


def expected_calibration_error(
    pixels: np.ndarray, correct: np.ndarray, confidence: np.ndarray
) -> Float64[np.ndarray, "..."]:
    """ECE in [0, 1] from sums over the pixels of each bin (last axis): how many, how many right, and their
    confidence; NaN without pixels."""
    return ratio(np.abs(correct - confidence).sum(-1), pixels.sum(-1))


def _most_probable(
    probabilities: Float32[np.ndarray, "classes height width"], target: UInt8[np.ndarray, "height width"]
) -> tuple[Float32[np.ndarray, "height width"], Bool[np.ndarray, "height width"]]:
    """Largest probability of each pixel, and whether the first class that has it is the true one."""
    confidence = probabilities.max(0)
    # The first class of largest probability is the number of classes before any equals the maximum: whole planes
    # are compared, where `argmax(0)` walks pixel by pixel and takes ten times as long.
    first = np.zeros(target.shape, np.uint8)
    before = np.ones(target.shape, bool)
    for plane in probabilities:
        before &= plane != confidence
        first += before
    return confidence, first == target


def _losses(
    probabilities: Float32[np.ndarray, "classes height width"],
    target: UInt8[np.ndarray, "height width"],
    labelled: Bool[np.ndarray, "height width"],
) -> Float64[np.ndarray, "losses"]:
    """Brier score and NLL summed over the labelled pixels."""
    squares = np.einsum("chw,chw->hw", probabilities, probabilities)[labelled]
    truth = np.where(labelled, target, np.uint8(0))
    own = np.take_along_axis(probabilities, truth[None], 0)[0][labelled]
    brier = squares - 2 * own + 1  # of the true class p^2 becomes (p - 1)^2
    nll = -np.log(np.maximum(own, np.float32(LEAST)))
    return np.array([brier.sum(dtype=np.float64), nll.sum(dtype=np.float64)])


def _row_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of rows that hold about _BLOCK pixels."""
    rows = max(1, _BLOCK // max(1, shape[1]))
    yield from (slice(start, start + rows) for start in range(0, shape[0], rows))

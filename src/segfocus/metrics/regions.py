"""Where the errors are: three partitions of the labelled pixels, and the scores within each part.

All three come from the truth alone, so that every model is judged on the same pixels:

    distance        chessboard distance to the truth's nearest boundary, as the bands of `segfocus.metrics.boundary`:
                    bin "3-4" holds the pixels in the band of 4 px that are not in the band of 2 px;
    thickness       side in px of the largest square that covers the pixel, holds one label and lies in the picture;
    component size  area in px of the 8-connected component of one class that the pixel belongs to.

The distance bins run up as trimaps: all labelled pixels within d px of the truth's boundary (Kohli et al., "Robust
higher order potentials", IJCV 2009; Krähenbühl and Koltun, NIPS 2011; Chen et al., "DeepLab", TPAMI 2018).  Where
Chen et al. draw the band round Pascal VOC's void pixels, here it is the chessboard band round every change of label
and along the picture's frame, the same as for Boundary IoU.

A bin's IoU takes truth and prediction on the pixels of that bin only.  Void (255) is a label like any other when the
bins are drawn, and its pixels are never counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float64, Int32, Int64, UInt8

from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.metrics.boundary import band_level
from segfocus.metrics.comparison import Comparison
from segfocus.metrics.confusion import VOID, exact_parts, ratio, scores_from_confusion
from segfocus.metrics.tally import Tally, by_name, names_of, number, numbers

DISTANCE_EDGES = (1, 2, 4, 8, 16)
"""px; the last distance of each bin but the last"""
THICKNESS_EDGES = (2, 4, 8, 16, 32)
"""px; twice the distances, see `thickness_bins`"""
SIZE_EDGES = (16, 64, 256, 1024, 9216)
"""px of area; 1024 and 9216 are where COCO's small and medium objects end"""
PARTITIONS = {"distance": DISTANCE_EDGES, "thickness": THICKNESS_EDGES, "component_size": SIZE_EDGES}


def bin_names(edges: Sequence[int]) -> list[str]:
    """(1, 2, 4) → "1", "2", "3-4", ">4"."""
    starts = [1, *(edge + 1 for edge in edges[:-1])]
    ranges = [str(end) if start == end else f"{start}-{end}" for start, end in zip(starts, edges, strict=True)]
    return [*ranges, f">{edges[-1]}"]


def distance_bins(target: np.ndarray) -> UInt8[np.ndarray, "height width"]:
    """Bin 0 to 5 (see `DISTANCE_EDGES`) of each pixel's chessboard distance to the nearest boundary.

    A pixel beside another label or at the picture's frame is at distance 1.  Void pixels get bins too; leave them out.

    Args:
        target: uint8 height x width.
    """
    _check_map(target)
    return band_level(target, DISTANCE_EDGES)


def thickness_bins(target: np.ndarray) -> UInt8[np.ndarray, "height width"]:
    """Bin 0 to 5 (see `THICKNESS_EDGES`) of the side of the largest square of one label that covers each pixel.

    A pixel has a square of 2 r + 1 px round it exactly when it lies outside the band of r px.  So growing what lies
    outside that band by r px gives all pixels thicker than 2 r px, for every label at once.

    Args:
        target: uint8 height x width.
    """
    beyond = distance_bins(target)
    bins = np.zeros_like(beyond)
    for index, radius in enumerate(DISTANCE_EDGES):
        centres = (beyond > index).view(np.uint8)
        bins += cv2.dilate(centres, np.ones((2 * radius + 1,) * 2, np.uint8))
    return bins


def components(
    target: np.ndarray,
) -> tuple[Int32[np.ndarray, "height width"], Int64[np.ndarray, "components"], UInt8[np.ndarray, "components"]]:
    """The 8-connected components of all classes.

    Args:
        target: uint8 height x width, 255 = void.

    Returns:
        The number of each pixel's component, counted from 1, with 0 for void; and by that number the area in px and
        the class of each component.  Entry 0 stands for void: its pixels and 255.
    """
    from skimage.measure import label  # heavier to import than all else here

    _check_map(target)
    numbered = np.asarray(label(target, background=VOID, connectivity=2)).astype(np.int32)
    sizes = np.bincount(numbered.ravel(), minlength=1)
    classes = np.full(sizes.size, VOID, np.uint8)
    classes[numbered] = target  # every pixel of a component writes the same class
    return numbered, sizes.astype(np.int64), classes


def component_bins(target: np.ndarray) -> UInt8[np.ndarray, "height width"]:
    """Bin 0 to 5 (see `SIZE_EDGES`) of the area of each pixel's component; any bin for void.

    Args:
        target: uint8 height x width, 255 = void.
    """
    numbered, sizes, _ = components(target)
    return size_bins(sizes).take(numbered)


def confusion_per_bin(
    bins: np.ndarray, target: np.ndarray, prediction: np.ndarray, num_bins: int, num_classes: int
) -> Int64[np.ndarray, "bins truth guess"]:
    """A confusion matrix for each bin: labelled pixels by bin, true class and predicted class.

    Args:
        bins: uint8 height x width, 0 to num_bins - 1.
        target: uint8 height x width, train ids; void drops out.
        prediction: uint8 height x width, train ids.
    """
    shape = (num_bins, num_classes, num_classes)
    ranges = [end for size in shape for end in (0, size)]
    total = np.zeros(shape, np.int64)
    for parts in exact_parts(bins, target, prediction):
        total += cv2.calcHist(parts, [0, 1, 2], None, list(shape), ranges).astype(np.int64)
    return total


class RegionErrors(Tally):
    """Errors by distance to the boundary, by thickness and by component size; trimap scores.

    State: for each of `PARTITIONS` a confusion matrix per bin, [bins, truth, guess]; `component_count` and
    `component_found`, [classes, bins]: the true components by class and size, and those of them that are found.  A
    component is found when at least half of its pixels are predicted as its class.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        for partition, edges in PARTITIONS.items():
            self.counts[partition] = np.zeros((len(edges) + 1, num_classes, num_classes), np.int64)
        for name in ("component_count", "component_found"):
            self.counts[name] = np.zeros((num_classes, len(SIZE_EDGES) + 1), np.int64)

    def count(self, comparison: Comparison) -> dict[str, np.ndarray]:
        numbered, sizes, classes = comparison.components
        bin_of = size_bins(sizes)
        bins = {
            "distance": comparison.distance_bin,
            "thickness": comparison.thickness_bin,
            "component_size": bin_of.take(numbered),
        }
        right = np.bincount(np.where(comparison.wrong, 0, numbered).ravel(), minlength=sizes.size)
        is_found = 2 * right >= sizes
        is_found[0], is_class = False, classes != VOID
        return {
            **{
                partition: confusion_per_bin(
                    bins[partition], comparison.target, comparison.prediction, len(edges) + 1, self.num_classes
                )
                for partition, edges in PARTITIONS.items()
            },
            "component_count": self._by_class_and_bin(classes[is_class], bin_of[is_class]),
            "component_found": self._by_class_and_bin(classes[is_found], bin_of[is_found]),
        }

    def summary(self, classes: Classes | Sequence[str]) -> dict[str, Any]:
        """Keys `regions` and `trimap`.

        regions: for each of `PARTITIONS` lists with one value a bin: `bins` (names), `pixels` (share of all labelled
        pixels), `error_share` (share of all wrong pixels), `error_rate` (wrong share of the bin's pixels), `miou`,
        and by class name `iou_per_class` and `recall_per_class`; component_size has `count_per_class` (components)
        and `found_per_class` (share of them that is found) as well.

        trimap: `miou`, `accuracy` and `iou_per_class` of all labelled pixels within "1", "2", ..., "16" px of the
        truth's boundary.
        """
        names = names_of(classes, self.num_classes)
        regions = {name: _partition_scores(self.counts[name], edges, names) for name, edges in PARTITIONS.items()}
        count, found = self.counts["component_count"], self.counts["component_found"]
        regions["component_size"]["count_per_class"] = dict(zip(names, count.tolist(), strict=True))
        regions["component_size"]["found_per_class"] = _rows_by_name(names, ratio(found, count))
        return {"regions": regions, "trimap": self._trimap(names)}

    def _trimap(self, names: Sequence[str]) -> dict[str, Any]:
        within = self.counts["distance"].cumsum(0)[:-1]
        scores = {str(edge): scores_from_confusion(matrix) for edge, matrix in zip(DISTANCE_EDGES, within, strict=True)}
        return {
            "miou": {edge: number(score["miou"]) for edge, score in scores.items()},
            "accuracy": {edge: number(score["pixel_accuracy"]) for edge, score in scores.items()},
            "iou_per_class": {edge: by_name(names, score["iou"]) for edge, score in scores.items()},
        }

    def _by_class_and_bin(self, classes: np.ndarray, bins: np.ndarray) -> np.ndarray:
        shape = self.counts["component_count"].shape
        flat = classes.astype(np.int64) * shape[1] + bins
        return np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)


def _partition_scores(matrices: np.ndarray, edges: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
    """Scores of each bin from its confusion matrix: [bins, truth, guess]."""
    scores = [scores_from_confusion(matrix) for matrix in matrices]
    truth, hits = matrices.sum(2), matrices.diagonal(axis1=1, axis2=2)
    pixels = truth.sum(1)
    wrong = pixels - hits.sum(1)
    return {
        "bins": bin_names(edges),
        "pixels": numbers(_shares(pixels)),
        "error_share": numbers(_shares(wrong)),
        "error_rate": numbers(ratio(wrong, pixels)),
        "miou": numbers([score["miou"] for score in scores]),
        "iou_per_class": _rows_by_name(names, np.transpose([score["iou"] for score in scores])),
        "recall_per_class": _rows_by_name(names, ratio(hits, truth).T),
    }


def _shares(counts: np.ndarray) -> Float64[np.ndarray, "bins"]:
    return ratio(counts, np.full_like(counts, counts.sum()))


def _rows_by_name(names: Sequence[str], rows: np.ndarray) -> dict[str, list[float | None]]:
    return {name: numbers(row) for name, row in zip(names, rows, strict=True)}


def size_bins(sizes: np.ndarray) -> UInt8[np.ndarray, "components"]:
    """Bin 0 to 5 (see `SIZE_EDGES`) of each area in px."""
    return np.searchsorted(SIZE_EDGES, sizes).astype(np.uint8)


def _check_map(target: np.ndarray) -> None:
    if target.dtype != np.uint8 or target.ndim != 2 or not target.size:
        raise SegfocusError(
            f"target: expected uint8 labels height x width, got {target.dtype} of shape {target.shape}; "
            "try labels.astype(np.uint8) after mapping to train ids"
        )

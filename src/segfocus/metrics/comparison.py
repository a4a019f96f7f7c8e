"""One picture's truth and prediction, with the maps that several scores need computed once."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Int64, Shaped, UInt8

from segfocus.errors import SegfocusError
from segfocus.metrics.confusion import VOID, confusion_matrix

_SLACK = 1e-3  # rounding of softmax in half precision


class Comparison:
    """Truth and prediction of one picture, checked.

    Raises:
        SegfocusError: not uint8, empty, sizes that differ, values that are no classes, or probabilities, instances or
            importance of another size or kind.  (The values of probabilities are looked at on first use.)
    """

    def __init__(
        self,
        target: np.ndarray,
        prediction: np.ndarray,
        num_classes: int,
        *,
        probabilities: np.ndarray | None = None,
        instances: np.ndarray | None = None,
        importance: np.ndarray | None = None,
        baseline: np.ndarray | None = None,
        name: str = "",
    ) -> None:
        """
        Args:
            target: uint8 height x width, train ids, 255 = void.
            prediction: uint8 height x width, train ids; where the truth is void any value is accepted.
            num_classes: 2 to 254.
            probabilities: floats in [0, 1], classes x height x width (also of a binary task: background, foreground).
            instances: integers, height x width; see `segfocus.metrics.instance`.
            importance: floats in [0, 1] on a grid that covers the picture, as a method gives it.
            baseline: another prediction of the picture, uint8 height x width.
            name: the picture's, by which resampling recognises it.
        """
        self.num_classes = num_classes
        self.name = name
        self.confusion = confusion_matrix(target, prediction, num_classes)
        """int64 [truth, prediction]"""
        self.target: UInt8[np.ndarray, "height width"] = np.ascontiguousarray(target)
        self.prediction: UInt8[np.ndarray, "height width"] = np.where(target == VOID, target, prediction)
        """void where the truth is void"""
        shape = (num_classes, *target.shape)
        if probabilities is not None and (probabilities.shape != shape or probabilities.dtype.kind != "f"):
            raise SegfocusError(
                f"{name or 'probabilities'}: expected probabilities of shape {shape}, got {probabilities.dtype} "
                f"{probabilities.shape}; try one channel of floats a class, at the label's size"
            )
        if instances is not None and (instances.shape != target.shape or instances.dtype.kind not in "iu"):
            raise SegfocusError(
                f"{name or 'instances'}: expected integers {target.shape}, got {instances.dtype} {instances.shape}"
            )
        if importance is not None and (importance.ndim != 2 or not importance.size or importance.dtype.kind != "f"):
            raise SegfocusError(
                f"{name or 'importance'}: expected importance as floats rows x columns, got {importance.dtype} "
                f"{importance.shape}; try one picture at a time"
            )
        self._probabilities = None if probabilities is None else np.asarray(probabilities, np.float32)
        self._instances = instances
        self.importance: Float[np.ndarray, "rows columns"] | None = importance
        self.baseline: UInt8[np.ndarray, "height width"] | None = None
        if baseline is not None:
            confusion_matrix(target, baseline, num_classes)  # refuses what is no prediction
            self.baseline = np.where(target == VOID, target, baseline)
        self._boundary: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @functools.cached_property
    def probabilities(self) -> Float32[np.ndarray, "classes height width"]:
        """float32; SegfocusError where none were given, or where they do not lie in [0, 1]."""
        if self._probabilities is None:
            raise SegfocusError(f"{self.name or 'picture'}: expected probabilities for these scores, got none")
        extremes = [(plane.min(), plane.max()) for plane in self._probabilities]
        low, high = np.min(extremes), np.max(extremes)
        if not (low >= -_SLACK and high <= 1 + _SLACK):  # NaN fails, too
            raise SegfocusError(
                f"{self.name or 'probabilities'}: expected values from 0 to 1, got {low} to {high}; "
                "try sigmoid or softmax of the logits"
            )
        return self._probabilities

    @property
    def has_probabilities(self) -> bool:
        return self._probabilities is not None

    @property
    def instances(self) -> Shaped[np.ndarray, "height width"]:
        """Integers; SegfocusError where none were given."""
        if self._instances is None:
            raise SegfocusError(f"{self.name or 'picture'}: expected an instance map for these scores, got none")
        return self._instances

    @property
    def has_instances(self) -> bool:
        return self._instances is not None

    @functools.cached_property
    def labelled(self) -> Bool[np.ndarray, "height width"]:
        """Pixels that are counted: not void."""
        return self.target != VOID

    @functools.cached_property
    def wrong(self) -> Bool[np.ndarray, "height width"]:
        """Labelled pixels with another class."""
        return self.target != self.prediction

    @functools.cached_property
    def distance_bin(self) -> UInt8[np.ndarray, "height width"]:
        """`segfocus.metrics.regions.distance_bins` of the truth."""
        from segfocus.metrics.regions import distance_bins

        return distance_bins(self.target)

    @functools.cached_property
    def thickness_bin(self) -> UInt8[np.ndarray, "height width"]:
        """`segfocus.metrics.regions.thickness_bins` of the truth."""
        from segfocus.metrics.regions import thickness_bins

        return thickness_bins(self.target)

    @functools.cached_property
    def components(
        self,
    ) -> tuple[Int32[np.ndarray, "height width"], Int64[np.ndarray, "components"], UInt8[np.ndarray, "components"]]:
        """`segfocus.metrics.regions.components` of the truth."""
        from segfocus.metrics.regions import components

        return components(self.target)

    def boundary_counts(
        self, distances: Sequence[int]
    ) -> tuple[Int64[np.ndarray, "distances classes"], Int64[np.ndarray, "distances classes"]]:
        """`segfocus.metrics.boundary.boundary_counts` of the pair, each distance computed once."""
        missing = [distance for distance in distances if distance not in self._boundary]
        if missing:
            from segfocus.metrics.boundary import boundary_counts

            found = boundary_counts(self.target, self.prediction, self.num_classes, missing)
            self._boundary.update(zip(missing, zip(*found, strict=True), strict=True))
        both = np.array([self._boundary[distance] for distance in distances], np.int64)
        both = both.reshape(len(distances), 2, self.num_classes)
        return both[:, 0], both[:, 1]

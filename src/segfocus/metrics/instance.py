"""iIoU: IoU in which small objects weigh as much as large ones.  NumPy only.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016, section 4.1:

    iIoU = iTP / (iTP + FP + iFN)

where the true positives and the false negatives of each object are weighted by (mean size of the class) / (size of
the object); false positives have no object and are not weighted.  With S the mean size of a class in pixels, N its
number of objects and F the sum over its objects of the share that was found, iTP = S F and iTP + iFN = S N, so

    iIoU of a class     =  S F / (S N + FP)
    iIoU of a category  =  sum of S F' / (sum of S N + FP'), summed over its classes,

with F' the share predicted as any class of the category and FP' the pixels outside the category that are predicted
as one of them.  Every state is a sum over objects or pixels, and the mean sizes enter at the end.

Where this differs from cityscapesScripts (the scores are the same on Cityscapes):
    An object is those pixels of one instance value that carry the class most of them have; void pixels are never
    counted.  (There the instance map alone decides; in Cityscapes the two maps agree.)
    The value 1000 is an object, too (there only above 1000; the raw class 1 is void in Cityscapes).
    Where a data set has no published mean sizes, they are those of the truth given.
    Where the classes file marks no class with `instances: true`, all classes that own objects are scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer, Shaped

from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError, nearest
from segfocus.metrics.comparison import Comparison
from segfocus.metrics.confusion import VOID, mean_of_present, ratio
from segfocus.metrics.tally import UNIT, Tally, as_units, by_name, names_of, number

CITYSCAPES_SIZES: Mapping[str, float] = MappingProxyType(
    {
        "bicycle": 4672.3249222261,
        "caravan": 36771.8241758242,
        "motorcycle": 6298.7200839748,
        "rider": 3930.4788056518,
        "bus": 35732.1511111111,
        "train": 67583.7075812274,
        "car": 12794.0202738185,
        "person": 3462.4756337644,
        "truck": 27855.1264367816,
        "trailer": 16926.9763313609,
    }
)
"""mean size in px of the objects of the Cityscapes training set at 1024 x 2048, as in cityscapesScripts 2.3"""

_FACTOR = 1000
"""Cityscapes' instance maps hold (raw class) x 1000 + (number of the object), or the raw class alone"""
_TABLE = 2**20
_NO_CLASS = VOID - 1


class InstanceScores(Tally):
    """iIoU of classes and categories (see the top of this file).

    State: objects and their pixels a class, the found shares of the objects (2**-40) by class and by category, and
    the confusion matrix.  Pictures come with an instance map as `read_instances` gives it.
    """

    needs = ("instances",)

    def __init__(self, classes: Classes, sizes: Mapping[str, float] | None = None) -> None:
        """
        Args:
            classes: those with `instances` are scored, or all that own objects where none is marked; a category is
                scored when all its classes are.
            sizes: mean size in px of the objects by class name (`known_sizes`); None takes those of the truth.

        Raises:
            SegfocusError: a marked class without a size, sizes of no class at all, or one that is not above 0.
        """
        super().__init__(classes.num_classes)
        self.categories = classes.category
        self.marked = classes.instances
        self.sizes = None if sizes is None else dict(sizes)
        if sizes is not None:
            _check_sizes(classes, sizes)
            if not any(self.marked):
                self.marked = tuple(name in sizes for name in classes.names)
        per_class = ("objects", "object_pixels", "found_shares", "found_category_shares")
        self.counts = {name: np.zeros(self.num_classes, np.int64) for name in per_class}
        self.counts["confusion"] = np.zeros((self.num_classes, self.num_classes), np.int64)

    @property
    def settings(self) -> tuple[Any, ...]:
        return (*super().settings, self.categories, self.marked, self.sizes)

    def count(self, comparison: Comparison) -> dict[str, np.ndarray]:
        owner, predicted = objects(comparison)
        sizes = predicted.sum(1)
        found = predicted[np.arange(len(owner)), owner] / sizes
        found_category = (predicted * self._same_category()[owner]).sum(1) / sizes
        per_object = {
            "objects": np.ones_like(sizes),
            "object_pixels": sizes,
            "found_shares": as_units(found),
            "found_category_shares": as_units(found_category),
        }
        totals = {name: self._per_class(owner, values) for name, values in per_object.items()}
        return {**totals, "confusion": comparison.confusion}

    def summary(self, classes: Classes | Sequence[str]) -> dict[str, Any]:
        """{"instance": ...} with iiou (mean over the classes that have one), per_class {name: iIoU}, category_iiou,
        per_category, mean_sizes {name: px} and sizes_from ("Cityscapes", "the truth given" or "the caller").

        A class without objects in the truth scores 0 once it is predicted, None before.
        """
        names = names_of(classes, self.num_classes)
        sizes = self.mean_sizes(names)
        per_class, per_category = self.class_iiou(sizes), self.category_iiou(sizes)
        known = {name: number(size) for name, size in zip(names, sizes, strict=True) if not np.isnan(size)}
        return {
            "instance": {
                "iiou": number(mean_of_present(per_class)),
                "per_class": by_name(names, per_class),
                "category_iiou": number(mean_of_present(np.array([*per_category.values()], np.float64))),
                "per_category": by_name([*per_category], per_category.values()),
                "mean_sizes": known,
                "sizes_from": self._origin(),
            }
        }

    def mean_sizes(self, names: Sequence[str]) -> Float64[np.ndarray, "classes"]:
        """Mean size in px of the objects of each scored class; NaN where there is none."""
        if self.sizes is None:
            return np.where(self._scored(), ratio(self.counts["object_pixels"], self.counts["objects"]), np.nan)
        given = [self.sizes[name] if mark else np.nan for name, mark in zip(names, self.marked, strict=True)]
        return np.array(given, np.float64)

    def class_iiou(self, sizes: Float64[np.ndarray, "classes"]) -> Float64[np.ndarray, "classes"]:
        """iIoU in [0, 1] of each class with these mean sizes; NaN for classes that are not scored or absent."""
        confusion = self.counts["confusion"]
        false_positives = confusion.sum(0) - confusion.diagonal()
        found, whole = self._weighted(sizes, "found_shares")
        return np.where(self._scored(), ratio(found, whole + false_positives), np.nan)

    def category_iiou(self, sizes: Float64[np.ndarray, "classes"]) -> dict[str, float]:
        """iIoU in [0, 1] of each category; NaN for those that have a class without objects of its own, or absent."""
        confusion = self.counts["confusion"]
        absent = confusion.sum(1) == 0
        with_objects = self._scored() if any(self.marked) else self._scored() | absent
        found, whole = self._weighted(sizes, "found_category_shares")
        scores = {}
        for category in dict.fromkeys(name for name in self.categories if name is not None):
            member = np.array([name == category for name in self.categories])
            false_positives = confusion[~member][:, member].sum()
            score = ratio(found[member].sum(), whole[member].sum() + false_positives)
            scored = with_objects[member].all() and self._scored()[member].any()
            scores[category] = float(score) if scored else float("nan")
        return scores

    def _weighted(self, sizes: np.ndarray, shares: str) -> tuple[np.ndarray, np.ndarray]:
        """S F and S N of each class; 0 for a class without objects."""
        weights = np.where(self._scored() & (self.counts["objects"] > 0), sizes, 0.0)
        return weights * self.counts[shares] / UNIT, weights * self.counts["objects"]

    def _scored(self) -> Bool[np.ndarray, "classes"]:
        return np.array(self.marked) if any(self.marked) else self.counts["objects"] > 0

    def _same_category(self) -> Bool[np.ndarray, "classes classes"]:
        return np.array([[a is not None and a == b for b in self.categories] for a in self.categories])

    def _per_class(self, owner: np.ndarray, values: np.ndarray) -> Int64[np.ndarray, "classes"]:
        total = np.zeros(self.num_classes, np.int64)
        np.add.at(total, owner, values)
        return total

    def _origin(self) -> str:
        if self.sizes is None:
            return "the truth given"
        return "Cityscapes" if self.sizes == CITYSCAPES_SIZES else "the caller"


def objects(comparison: Comparison) -> tuple[Int64[np.ndarray, "objects"], Int64[np.ndarray, "objects classes"]]:
    """Class of every object of a picture, and how many of its pixels are predicted as each class.

    An object is those labelled pixels of one instance value (other than 0) that carry the class most of them have
    (the smallest train id among equals).
    """
    inside = comparison.labelled & (comparison.instances != 0)
    truth, guess = comparison.target[inside], comparison.prediction[inside]
    values, count = _renumbered(comparison.instances[inside])
    pixels = _table(values, truth, count, comparison.num_classes)
    owner = pixels.argmax(1)
    own = truth == owner[values]
    return owner, _table(values[own], guess[own], count, comparison.num_classes)


def read_instances(
    raw: np.ndarray, target: np.ndarray, classes: Classes, kind: str = "auto"
) -> Integer[np.ndarray, "height width"]:
    """An instance map as stored, as `Comparison` takes it: 0 = no single object, any other value = one object.

    Args:
        raw: integers, height x width.
        target: uint8 height x width, train ids, 255 = void.
        classes: their raw values are what Cityscapes' encoding builds on.
        kind: "cityscapes": value v >= 1000 is an object of the raw class v // 1000, a smaller one no single object
            (a crowd, or a class without objects); "plain": every value but 0 is an object; "auto": what
            `instance_kind` finds, "cityscapes" where it cannot tell.  A data set should decide once.

    Raises:
        SegfocusError: not integers of the label's size, negative values, or an unknown kind.
    """
    if kind not in ("auto", "cityscapes", "plain"):
        raise SegfocusError(f"unknown kind of instances '{kind}'; {nearest(kind, ['auto', 'cityscapes', 'plain'])}")
    _check_map(raw, target)
    if kind == "plain" or (kind == "auto" and instance_kind(raw, target, classes) == "plain"):
        return raw
    return np.where(raw >= _FACTOR, raw, raw.dtype.type(0))


def instance_kind(raw: np.ndarray, target: np.ndarray, classes: Classes) -> str | None:
    """How an instance map is encoded: "cityscapes" where every labelled pixel's value is its raw class r or
    1000 r + k and at least one is the latter; None where all are raw classes, which either kind may hold.

    Raises:
        SegfocusError: not integers of the label's size, or negative values.
    """
    _check_map(raw, target)
    integers = [(value, index) for index, values in enumerate(classes.raw) for value in values if type(value) is int]
    table = np.full(max((value for value, _ in integers), default=0) + 2, _NO_CLASS, np.uint8)
    for value, index in integers:
        table[value] = index
    raw = raw.astype(np.int64, copy=False)
    numbered = raw >= _FACTOR
    raw_class = np.minimum(np.where(numbered, raw // _FACTOR, raw), len(table) - 1)
    labelled = target != VOID
    if (labelled & (table[raw_class] != target)).any():
        return "plain"
    return "cityscapes" if (labelled & numbered).any() else None


def known_sizes(classes: Classes, kind: str) -> dict[str, float] | None:
    """Published mean object sizes: Cityscapes' for its kind of instance map and marked classes that it names; None
    for every other data set.  They hold at Cityscapes' own 1024 x 2048."""
    marked = [name for name, mark in zip(classes.names, classes.instances, strict=True) if mark]
    known = kind == "cityscapes" and marked and set(marked) <= set(CITYSCAPES_SIZES)
    return dict(CITYSCAPES_SIZES) if known else None


def _renumbered(values: Shaped[np.ndarray, "pixels"]) -> tuple[Int64[np.ndarray, "pixels"], int]:
    """The values as 0, 1, 2, ... in ascending order, and how many there are."""
    if values.size and (values.min() < 0 or values.max() >= _TABLE):
        distinct, numbers = np.unique(values, return_inverse=True)
        return numbers.astype(np.int64, copy=False), len(distinct)
    # small values need no sorting
    present = np.zeros(_TABLE, bool)
    present[values] = True
    return (np.cumsum(present) - 1)[values], int(present.sum())


def _table(first: np.ndarray, second: np.ndarray, rows: int, columns: int) -> Int64[np.ndarray, "_ _"]:
    """How often (first, second) takes each value in [0, rows) x [0, columns)."""
    return np.bincount(first * columns + second, minlength=rows * columns).reshape(rows, columns)


def _check_map(raw: np.ndarray, target: np.ndarray) -> None:
    if raw.dtype.kind not in "iu" or raw.shape != target.shape:
        raise SegfocusError(
            f"instances: expected integers {target.shape} like the labels, got {raw.dtype} {raw.shape}; "
            "try one 8- or 16-bit channel a map"
        )
    if raw.dtype.kind == "i" and raw.size and raw.min() < 0:
        raise SegfocusError(f"instances: expected values from 0, got {raw.min()}; try 0 where there is no object")


def _check_sizes(classes: Classes, sizes: Mapping[str, float]) -> None:
    marked = [name for name, mark in zip(classes.names, classes.instances, strict=True) if mark]
    if missing := [name for name in marked if name not in sizes]:
        raise SegfocusError(
            f"expected a mean size for every class with instances, got none for {missing[0]}; "
            "try no sizes, which takes those of the truth"
        )
    if not set(sizes) & set(classes.names):
        raise SegfocusError(f"expected mean sizes of {', '.join(classes.names)}, got {', '.join(sizes) or 'none'}")
    if wrong := [name for name, size in sizes.items() if not size > 0]:
        raise SegfocusError(f"expected mean sizes above 0 px, got {sizes[wrong[0]]} for {wrong[0]}")

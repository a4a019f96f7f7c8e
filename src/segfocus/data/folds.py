"""Folds of a split: `train:2of5` is the second of five parts of train, `train:not2of5` the other four."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from segfocus.data.published import recording
from segfocus.errors import SegfocusError

if TYPE_CHECKING:
    from segfocus.data.dataset import SegmentationDataset

_FOLD = re.compile(r"(not)?(\d+)of(\d+)")


class Fold(NamedTuple):
    """One of several parts of a split, or all others."""

    number: int
    """from 1"""
    count: int
    others: bool
    """all parts but this one"""

    def __str__(self) -> str:
        return f"{'not' if self.others else ''}{self.number}of{self.count}"


def split_and_fold(text: str) -> tuple[str, Fold | None]:
    """`train:not2of5` -> ("train", Fold(2, 5, others=True)); a split without a fold -> (itself, None).

    Raises:
        SegfocusError: anything else behind a colon, fewer than two folds, or no such fold.
    """
    split, colon, words = text.partition(":")
    if not colon:
        return split, None
    found = _FOLD.fullmatch(words)
    if found is None or not (int(found[3]) >= 2 and 1 <= int(found[2]) <= int(found[3])):
        raise SegfocusError(
            f"split: expected a fold such as {split}:2of5, or {split}:not2of5 for the other four, got '{text}'"
        )
    return split, Fold(int(found[2]), int(found[3]), found[1] is not None)


def fold_numbers(names: Sequence[str], count: int) -> dict[str, int]:
    """Name -> number of its fold, from 1: the same on every machine, folds as equal in size as can be.

    All parts of one photograph (`segfocus.data.published.recording`) share a fold, unless there are fewer photographs
    than folds, as where all names are alike before their last hyphen.  In the order of their SHA-256 each goes to the
    smallest fold so far, so another picture more can move others.

    Raises:
        SegfocusError: fewer names than folds.
    """
    if len(names) < count:
        raise SegfocusError(f"folds: expected at least {count} pictures for {count} folds, got {len(names)}; try fewer")
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(recording(name), []).append(name)
    if len(groups) < count:
        groups = {name: [name] for name in names}
    sizes = [0] * count
    numbers: dict[str, int] = {}
    for key in sorted(groups, key=lambda each: hashlib.sha256(each.encode()).digest()):
        smallest = sizes.index(min(sizes))
        sizes[smallest] += len(groups[key])
        numbers |= dict.fromkeys(groups[key], smallest + 1)
    return numbers


def of_fold(dataset: SegmentationDataset, fold: Fold) -> SegmentationDataset:
    """The dataset with the pictures of a fold alone.

    Raises:
        SegfocusError: fewer pictures than folds, or pictures that are no files.
    """
    if any(pair.mask is None for pair in dataset.pairs):
        raise SegfocusError("folds: expected pictures and masks on disk, got a data set without; try another split")
    names = [pair.name for pair in dataset.pairs]
    numbers = fold_numbers(names, fold.count)
    return dataset.only(i for i, name in enumerate(names) if (numbers[name] == fold.number) != fold.others)

"""Data sets in published splits, images/SPLIT and masks/SPLIT, and the division of train for a base and its refiner."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from segfocus.data.classes import Classes
from segfocus.data.pairs import Pair, pair_folders
from segfocus.errors import SegfocusError
from segfocus.recipe import DataConfig

_log = logging.getLogger("segfocus")

HOLDOUT_SHARE = 1 / 3
"""share (at least) of the training pictures in the split `holdout`; the rest is `fit`"""
TUNING_SPLITS = {
    "fit": "two thirds of train, told by their names, for a base",
    "holdout": "the other third of train, for the base's validation and its refiner",
}
VAL_IS_HOLDOUT = {"val": "the same as holdout: none is published"}
LAYOUT = ("images/{split}", "masks/{split}")


def split_pairs(
    config: DataConfig, split: str, layouts: Sequence[tuple[str, str]] = (LAYOUT,), has_val: bool = False
) -> list[Pair]:
    """Pairs of a split in the order of their names.

    `fit` and `holdout` divide train by `held_out`; so does val, which is `holdout`, where none is published.

    Args:
        config: its `name` leads the messages, its `root` holds the folders.
        layouts: (pictures, masks) below the root with {split} for the published split; the first that is there counts.
        has_val: whether a val of its own is published.

    Raises:
        SegfocusError: no root, none of the layouts, unpaired pictures, or too few to divide.
    """
    if not config.root:
        raise SegfocusError(f"{config.name}: expected the folder of the dataset, got none; try --data.root DIR")
    root = Path(config.root)
    if not root.is_dir():
        raise SegfocusError(f"{config.name}: expected data.root to be a folder, got {root}, which is none")
    if split == "val" and not has_val:
        if config.train_split == "train":
            _log.warning(
                "%s has no val of its own: its holdout, a part of train, stands in; try --data.train_split fit",
                config.name,
            )
        split = "holdout"
    published = "train" if split in TUNING_SPLITS else split
    named = [(pictures.format(split=published), masks.format(split=published)) for pictures, masks in layouts]
    present = [layout for layout in named if all((root / folder).is_dir() for folder in layout)]
    if not present:
        expected = ", or ".join(f"{pictures} and {masks}" for pictures, masks in named)
        raise SegfocusError(
            f"{root}: expected {expected}, got {'neither' if len(named) > 1 else 'not both'}; "
            "try the folder above or below as data.root"
        )
    pictures, masks = present[0]
    found = pair_folders(root / pictures, root / masks)
    if split not in TUNING_SPLITS:
        return found
    outside = held_out([pair.name for pair in found])
    if len(outside) == len(found):
        raise SegfocusError(
            f"{root / pictures}: expected several recordings to hold some out, got one; try --data.train_split train"
        )
    return [pair for pair in found if (pair.name in outside) == (split == "holdout")]


def held_out(names: Sequence[str], share: float = HOLDOUT_SHARE) -> set[str]:
    """Names of `holdout`: whole recordings, in the order of their SHA-256, until they hold the share of all names.

    A recording is all names alike before their last hyphen: 11116, 11116-1 and 11116-2 show one photograph in parts.
    """
    recordings: dict[str, list[str]] = {}
    for name in names:
        recordings.setdefault(recording(name), []).append(name)
    outside: set[str] = set()
    for key in sorted(recordings, key=lambda each: hashlib.sha256(each.encode()).digest()):
        if len(outside) >= share * len(names):
            break
        outside |= set(recordings[key])
    return outside


def recording(name: str) -> str:
    """What the names of one photograph's parts have in common: all before the last hyphen of the file's name."""
    return re.sub(r"(?<=[^/])-[^-/]*$", "", name)


def binary_classes(foreground: str, *, thin: bool) -> Classes:
    """background (raw 0) and one class (raw 255); nothing is ignored."""
    return Classes.from_dict({"classes": {0: "background", 1: {"name": foreground, "raw": [255], "thin": thin}}})

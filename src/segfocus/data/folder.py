"""Your own pictures and masks: paired by relative path without extension, the kind of masks recognised and said."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segfocus.data.classes import IGNORE, Classes
from segfocus.data.pairs import Pair, pair_folders
from segfocus.data.pictures import mask_kind, read_mask
from segfocus.errors import SegfocusError
from segfocus.recipe import DataConfig

if TYPE_CHECKING:
    from segfocus.data.dataset import SegmentationDataset

_log = logging.getLogger("segfocus")
_MOST_CLASSES = 254


def classes(config: DataConfig) -> Classes:
    """Classes found in the masks when no classes file is given (every mask is read once).

    Masks that hold only 0 and 255 give background and foreground.  Otherwise each value but 255, which is ignored,
    becomes a class named class_VALUE.

    Raises:
        SegfocusError: RGB masks (which need a classes file), one value only, or too many values.
    """
    listed = pairs(config, "all")
    if config.val_images:
        listed += pairs(config, "val")
    return classes_of_masks([pair.mask for pair in listed if pair.mask is not None], config.max_pixels)


def classes_of_masks(masks: Sequence[Path], max_pixels: int) -> Classes:
    """Classes found in masks, at least one; see `classes`."""
    found: set[int] = set()
    for path in masks:
        mask = read_mask(path, max_pixels)
        if mask.ndim == 3:
            colors = np.unique(mask.reshape(-1, 3), axis=0)[:3].tolist()
            raise SegfocusError(
                f"{path}: expected integer masks where no classes file is given, got an RGB mask "
                f"(colours such as {', '.join(map(str, colors))}); try --data.classes FILE with these as raw values"
            )
        found |= _values(mask)
        if len(found) > _MOST_CLASSES + 1:
            raise SegfocusError(
                f"{path}: expected at most {_MOST_CLASSES} mask values where no classes file is given, got more "
                "up to here; try masks without lossy compression or smoothing, or --data.classes FILE"
            )
    kind = mask_kind(masks[0])
    if found == {0, IGNORE}:
        _log.warning("masks hold only 0 and 255: 255 is read as class foreground, 0 as class background")
        return Classes.from_dict({"classes": {0: "background", 1: {"name": "foreground", "raw": [IGNORE]}}})
    values = sorted(found - {IGNORE})
    if len(values) < 2:
        raise SegfocusError(
            f"{masks[0].parent}: expected masks of at least two classes, got only the value "
            f"{', '.join(map(str, sorted(found)))}; try --data.classes FILE to say what masks may hold"
        )
    ignored = "; 255 is ignored" if IGNORE in found else ""
    shown = ", ".join(map(str, values[:12])) + (" ..." if len(values) > 12 else "")
    _log.info("no classes file: %s masks hold the classes %s%s", kind, shown, ignored)
    table = {train_id: {"name": f"class_{value}", "raw": [value]} for train_id, value in enumerate(values)}
    return Classes.from_dict({"classes": table, "ignore": [IGNORE]})


def pairs(config: DataConfig, split: str) -> list[Pair]:
    """Pairs of a split.

    `all`: every pair of data.images; `val`: data.val_images where given, else the pairs of data.images whose names'
    hashes lie in the lowest data.val_share of all hashes, so about that share; `train`: the rest.  The sides are the
    same on every machine and for every seed, and a picture keeps its side as others are added.  Only where all would
    fall on one side, the pair of the lowest hash is held out, or that of the highest trained on.

    Raises:
        SegfocusError: folders missing or not given, no pairs, pictures without masks, or too few to hold some out.
    """
    if split == "val" and config.val_images:
        if not config.val_masks:
            raise SegfocusError(
                "folder: expected data.val_masks beside data.val_images, got none; try --data.val_masks"
            )
        return pair_folders(config.val_images, config.val_masks)
    if config.val_masks and not config.val_images:
        raise SegfocusError("folder: expected data.val_images beside data.val_masks, got none; try --data.val_images")
    if not config.images or not config.masks:
        missing = "data.images" if not config.images else "data.masks"
        raise SegfocusError(f"folder: expected data.images and data.masks, got no {missing}; try --{missing} FOLDER")
    found = pair_folders(config.images, config.masks)
    if split == "all" or config.val_images:
        return found
    held_out = names_held_out([pair.name for pair in found], config.val_share)
    return [pair for pair in found if (pair.name in held_out) == (split == "val")]


def dataset(
    config: DataConfig, split: str, classes: Classes, transform: Callable[..., Any] | None, seed: int
) -> SegmentationDataset:
    """The split as a dataset; see `pairs`.  Says which kind of masks the classes file is applied to."""
    from segfocus.data.dataset import SegmentationDataset

    found = pairs(config, split)
    if config.classes and found[0].mask is not None:
        kind = mask_kind(found[0].mask)
        how = {
            "palette": "their colours are read" if classes.reads_colors else "their palette indices are read",
            "RGB": "their colours are read",
        }.get(kind, "their values are read")
        _log.info("%s: %s masks, %s through %s", split, kind, how, config.classes)
    return SegmentationDataset(found, classes, transform, seed, config.max_pixels)


def names_held_out(names: list[str], share: float) -> set[str]:
    """Names below a threshold of their hashes, whatever other names there are; see `pairs`."""
    if not 0 < share < 1:
        raise SegfocusError(f"data.val_share: expected a share between 0 and 1, got {share}; try 0.15")
    if len(names) < 2:
        raise SegfocusError(
            f"folder: expected at least two pairs to hold one out for validation, got {len(names)}; "
            "try --data.val_images and --data.val_masks"
        )
    places = {name: int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") for name in names}
    by_place = sorted(names, key=places.__getitem__)
    count = sum(place < share * 2**64 for place in places.values())
    return set(by_place[: min(len(names) - 1, max(1, count))])


def _values(mask: np.ndarray) -> set[int]:
    if mask.dtype == np.uint8:
        return set(np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist())
    return set(np.unique(mask).tolist())

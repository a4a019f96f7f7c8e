"""The doctor: looks at every picture and mask before training does, and says what is wrong and what to type next.

Imports no torch.  `examine` reads each file once, in threads; memory grows by about 1 kB a picture.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from segfocus.data.classes import Classes
from segfocus.data.doctor import advice, checks, listing
from segfocus.data.doctor.census import MOST_VALUES, Census
from segfocus.data.doctor.findings import ClassRow, Findings, Place, Problem, Suggestions
from segfocus.data.doctor.listing import Item
from segfocus.data.doctor.look import Look, look_at
from segfocus.data.pictures import MAX_PIXELS
from segfocus.errors import SegfocusError

__all__ = ["ClassRow", "Findings", "Place", "Problem", "Suggestions", "examine"]


def examine(
    images: str | Path,
    masks: str | Path,
    classes: Classes | None = None,
    *,
    val_images: str | Path | None = None,
    val_masks: str | Path | None = None,
    image_suffix: str = "",
    mask_suffix: str = "",
    max_pixels: int = MAX_PIXELS,
    typed: Mapping[str, str] | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> Findings:
    """Examine pictures and masks, paired by relative path without extension (and suffix).

    A file that cannot be read, a mask that does not fit, ... is a problem in the result; the others are examined all
    the same.  Splits are the validation folders given, else top-level folders called train, val, test or the like,
    else what `train fornet-folder` would hold out.

    Args:
        classes: raw mask values to train ids; None: every value is a class, as `train` would have it.
        val_images, val_masks: validation pairs in folders of their own.
        image_suffix, mask_suffix: endings of the names to strip before pairing; other files are left out.
        max_pixels: larger pictures are a problem and are not decoded.
        typed: recipe keys of the data section that the suggested command repeats ('data.classes' -> file).
        threads: 1 or more; None: one a core, at most 8.
        progress: show a progress bar on terminals.

    Raises:
        SegfocusError: a folder is missing or holds no pictures, not one pair, one of val_images and val_masks alone.
    """
    if (val_images is None) != (val_masks is None):
        raise SegfocusError("expected validation pictures and masks, got one of them; try --val-images and --val-masks")
    suffixes = (image_suffix, mask_suffix)
    items, unpaired = listing.find_pairs(Path(images), Path(masks), *suffixes)
    val_items = None
    if val_images is not None and val_masks is not None:
        val_items, more = listing.find_pairs(Path(val_images), Path(val_masks), *suffixes)
        unpaired += more
    division = listing.divide(items, val_items)
    items = division.items
    census = Census(classes)
    for look in tqdm(
        _looks(items, classes, max_pixels, threads),
        "examine",
        len(items),
        unit="pair",
        file=sys.stderr,
        leave=False,
        disable=None if progress else True,
    ):
        census.add(look)
    known = classes or advice.found_classes(census)
    rows, ignored = advice.class_rows(census, known) if known is not None else ((), None)
    problems = checks.in_order([*unpaired, *checks.problems_of(census, known, rows, items)])
    ready = not any(each.level == "error" for each in problems) and not any(suffixes)
    folders = {"data.images": str(images), "data.masks": str(masks), **(typed or {})} | _split_folders(
        Path(images), Path(masks), division.folders
    )
    return Findings(
        splits={name: split.pairs for name, split in census.splits.items()},
        split_by=division.how,
        pictures={
            "sizes": [[*size, count] for size, count in census.sizes.most_common()],
            "kinds": dict(census.picture_kinds.most_common()),
        },
        masks={
            "kinds": dict(census.mask_kinds.most_common()),
            "values": [
                [value, seen.pixels, seen.files] for value, seen in sorted(census.raw.items(), key=_in_order_of_value)
            ][:MOST_VALUES],
        },
        classes=rows,
        ignored=ignored,
        problems=tuple(problems),
        suggestions=advice.suggest(census, known, rows, folders, ready),
    )


def _looks(items: list[Item], classes: Classes | None, max_pixels: int, threads: int | None) -> Iterator[Look]:
    """Looks in the order of the items; only a few pairs are in memory at a time."""
    count = threads or min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(count) as pool:
        waiting: deque = deque()
        try:
            for item in items:
                waiting.append(pool.submit(look_at, item, classes, max_pixels))
                if len(waiting) > 2 * count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # Ctrl-C: what has not begun need not
            for each in waiting:
                each.cancel()


def _split_folders(images: Path, masks: Path, folders: Mapping[str, str]) -> dict[str, str]:
    """data.images, ... of a training command where the splits are subfolders: training never sees the test pictures."""
    found: dict[str, str] = {}
    for split, prefix in (("train", ""), ("val", "val_")):
        if "train" in folders and split in folders:
            found[f"data.{prefix}images"] = str(images / folders[split])
            found[f"data.{prefix}masks"] = str(masks / folders[split])
    return found


def _in_order_of_value(entry: tuple) -> tuple:
    value = entry[0]
    return value if isinstance(value, tuple) else (value,) * 3

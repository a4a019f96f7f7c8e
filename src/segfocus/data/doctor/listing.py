"""Which files belong together, and to which split, found without giving up at the first one that does not fit."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from segfocus.data.doctor.findings import MOST_PLACES, Level, Place, Problem
from segfocus.data.folder import names_held_out
from segfocus.data.matching import guess_suffixes
from segfocus.data.pictures import PICTURE_EXTENSIONS, list_pictures
from segfocus.errors import SegfocusError
from segfocus.recipe import DataConfig

_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
_SPLITS |= {"test": "test", "testing": "test"}
_ORDER = ("train", "val", "test")


@dataclass(frozen=True)
class Item:
    """A picture, its mask and where they belong."""

    name: str
    """path relative to the pictures' folder, without extension and suffix"""
    picture: Path
    mask: Path
    split: str = "all"


def find_pairs(
    images: Path, masks: Path, image_suffix: str = "", mask_suffix: str = ""
) -> tuple[list[Item], list[Problem]]:
    """All pairs of two folders in the order of their names, and what does not pair.

    Raises:
        SegfocusError: a folder is missing, both are the same, one has no pictures, or not a single pair is found
            (then the endings that would make pairs are named).
    """
    if image_suffix == mask_suffix and images.is_dir() and masks.is_dir() and os.path.samefile(images, masks):
        raise SegfocusError(
            f"expected pictures and masks in two folders, got {images} for both; try another --masks, or --mask-suffix "
            "where masks lie beside their pictures"
        )
    pictures, problems = _names(images, image_suffix, "--image-suffix")
    partners, more = _names(masks, mask_suffix, "--mask-suffix")
    problems += more
    both = [name for name in pictures if name in partners]
    if not both:
        raise SegfocusError(_no_pairs(images, masks, list(pictures), list(partners)))
    if missing := [pictures[name] for name in pictures if name not in partners]:
        text = f"{many(len(missing), 'picture')} without a mask of the same name; try to add masks or move these away"
        problems.append(problem("error", "picture-without-mask", text, missing))
    if extra := [partners[name] for name in partners if name not in pictures]:
        text = f"{many(len(extra), 'mask')} without a picture of the same name; training leaves them out"
        problems.append(problem("warning", "mask-without-picture", text, extra))
    return [Item(name, pictures[name], partners[name]) for name in both], problems


@dataclass(frozen=True)
class Division:
    """Items in the order of their splits, train first."""

    items: list[Item]
    how: str
    """how the splits were told apart, in words"""
    folders: dict[str, str] = field(default_factory=dict)
    """split -> top-level folder, where those are the splits"""


def divide(items: list[Item], val_items: list[Item] | None) -> Division:
    """Items with their splits.

    The validation items given; else the top-level folders called train, val, test or the like (train2017 too); else
    the share of the names that `train fornet-folder` would hold out.
    """
    if val_items is not None:
        return Division([*_with_split(items, "train"), *_with_split(val_items, "val")], "validation pictures given")
    top = {item.name: item.name.split("/")[0] for item in items if "/" in item.name}
    known = {name: _SPLITS.get(re.sub(r"[\W_]*\d*$", "", folder.lower())) for name, folder in top.items()}
    if len(set(known.values()) - {None}) > 1:
        splits = {item.name: known.get(item.name) or top.get(item.name, "other") for item in items}
        divided = _sorted(items, splits)
        folders = {item.split: top[item.name] for item in divided if item.name in top}
        return Division(divided, f"folders {', '.join(f'{folder}/' for folder in folders.values())}", folders)
    if len(items) < 2:
        return Division(items, "a single pair")
    share = DataConfig().val_share
    outside = names_held_out([item.name for item in items], share)
    splits = {item.name: "val" if item.name in outside else "train" for item in items}
    return Division(_sorted(items, splits), f"as training would: {share:.0%} held out by name")


def shared_recordings(items: list[Item]) -> dict[str, dict[str, int]]:
    """Series of frames that lie in more than one split: 'clip_' -> {split: frames}.

    A series is all names that differ only in their last number.  Its common part must hold a digit (0016E5_,
    berlin_000012_), or it would say no more than what the camera calls every picture (IMG_), and more than a year.
    """
    series: dict[str, Counter[str]] = {}
    for item in items:
        stem = item.name.rsplit("/", 1)[-1]
        found = re.fullmatch(r"(.*\d.*?[^\d])\d+", stem)
        if found and not re.fullmatch(r"\D*(19|20)\d\d\D*", found[1]):
            series.setdefault(found[1], Counter())[item.split] += 1
    return {name: dict(splits) for name, splits in sorted(series.items()) if len(splits) > 1}


def problem(level: Level, code: str, text: str, files: Iterable[Path | Place]) -> Problem:
    """A problem with its files."""
    places = [file if isinstance(file, Place) else Place(str(file)) for file in files]
    return Problem(level, code, text, tuple(places[:MOST_PLACES]), len(places))


def many(count: int, noun: str) -> str:
    """'1 mask', '2 masks', '3 classes'."""
    if count == 1 or (noun.endswith("s") and not noun.endswith("ss")):
        return f"{count} {noun}"
    return f"{count} {noun}{'es' if noun.endswith('ss') else 's'}"


def _names(folder: Path, suffix: str, option: str) -> tuple[dict[str, Path], list[Problem]]:
    """Relative path without extension and suffix -> file."""
    names: dict[str, Path] = {}
    twice: list[Place] = []
    left_out: list[Path] = []
    for path in list_pictures(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if suffix and not name.endswith(suffix):
            left_out.append(path)
        elif (name := name.removesuffix(suffix)) in names:
            twice.append(Place(str(path), f"beside {names[name].name}"))
        else:
            names[name] = path
    if not names:
        if left_out:
            raise SegfocusError(
                f"{option}: expected names that end in '{suffix}', got {len(left_out)} files such as "
                f"{left_out[0].name}; try another ending"
            )
        raise SegfocusError(f"{folder}: expected pictures ({', '.join(sorted(PICTURE_EXTENSIONS))}), got none")
    problems = []
    if twice:
        text = f"{many(len(twice), 'name')} with two files, which differ only in their extension; try to remove one"
        problems.append(problem("error", "same-name-twice", text, twice))
    if left_out:
        text = f"{len(left_out)} files in {folder} do not end in '{suffix}' and are left out"
        problems.append(problem("note", "other-endings", text, left_out))
    return names, problems


def _no_pairs(images: Path, masks: Path, pictures: list[str], partners: list[str]) -> str:
    text = (
        f"no pairs: expected masks in {masks} called like the pictures in {images} (such as '{pictures[0]}', any "
        f"extension), got {len(partners)} masks such as '{partners[0]}'"
    )
    if endings := guess_suffixes(pictures, partners):
        options = zip(("--image-suffix", "--mask-suffix"), endings, strict=True)
        return f"{text}; try {' '.join(f'{option}={end}' for option, end in options if end)}"
    stems = {name.rsplit("/", 1)[-1] for name in pictures}
    if stems & {name.rsplit("/", 1)[-1] for name in partners}:
        return f"{text}; the names agree but not the subfolders: try a folder above or below"
    return f"{text}; try to rename one of the two"


def _with_split(items: list[Item], split: str) -> list[Item]:
    return [Item(item.name, item.picture, item.mask, split) for item in items]


def _sorted(items: list[Item], splits: dict[str, str]) -> list[Item]:
    divided = [Item(item.name, item.picture, item.mask, splits[item.name]) for item in items]
    places = {name: place for place, name in enumerate(_ORDER)}
    return sorted(divided, key=lambda item: (places.get(item.split, len(places)), item.split))

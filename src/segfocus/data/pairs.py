"""Pairing pictures with their masks by relative path without extension."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from segfocus.data.pictures import PICTURE_EXTENSIONS, list_pictures
from segfocus.errors import SegfocusError

_log = logging.getLogger("segfocus")
_SHOWN = 5


@dataclass(frozen=True)
class Pair:
    """A picture, its mask, and the name results are written under."""

    picture: Path
    mask: Path | None
    name: str
    """path relative to the pictures' folder, with / and without extension"""


def relative_names(folder: Path) -> dict[str, Path]:
    """Relative path without extension -> file, of every picture below a folder, sorted by path.

    Raises:
        SegfocusError: no such folder, or two files differ only in their extension.
    """
    names: dict[str, Path] = {}
    for path in list_pictures(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in names:
            raise SegfocusError(
                f"{folder}: expected one file called '{name}', got {names[name].name} and {path.name}; remove one"
            )
        names[name] = path
    return names


def pair_folders(pictures: str | Path, masks: str | Path) -> list[Pair]:
    """Pairs of all pictures below one folder with the masks below another.

    Masks without a picture are left out with a warning.

    Raises:
        SegfocusError: a folder is missing, no pair is found, or pictures lack their mask (the first are listed).
    """
    pictures, masks = Path(pictures), Path(masks)
    found, partners = relative_names(pictures), relative_names(masks)
    if not found:
        endings = ", ".join(sorted(PICTURE_EXTENSIONS))
        raise SegfocusError(f"{pictures}: expected pictures ({endings}), got none")
    missing = [name for name in found if name not in partners]
    if len(missing) == len(found):
        example = f", such as '{next(iter(partners))}'" if partners else ""
        raise SegfocusError(
            f"no pairs: expected masks in {masks} called like the pictures in {pictures} (such as '{missing[0]}', "
            f"any extension), got {len(partners)} masks{example}; try to rename one of the two"
        )
    if missing:
        raise SegfocusError(
            f"{masks}: expected a mask for each of {len(found)} pictures, got none for {len(missing)}: "
            f"{_listed(missing)}; try to add them or to move the pictures away"
        )
    if extra := [name for name in partners if name not in found]:
        _log.warning("%s: %d masks have no picture and are left out: %s", masks, len(extra), _listed(extra))
    return [Pair(path, partners[name], name) for name, path in found.items()]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")

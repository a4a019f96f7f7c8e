"""The pictures of the leaderboard: those that are scored, and those by which refiners are fitted."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from segfocus.data.classes import Classes
from segfocus.data.folds import fold_numbers
from segfocus.errors import SegfocusError
from segfocus.files import writing
from segfocus.recipe import DataConfig

if TYPE_CHECKING:
    from segfocus.data.maps import MapsDataset

_FIT = 1
"""fold of two by whose pictures refiners are fitted, where no others are given for that"""


class Mapped(NamedTuple):
    """What the files of one picture hold."""

    probabilities: Float32[np.ndarray, "classes height width"]
    """in [0, 1]"""
    truth: UInt8[np.ndarray, "height width"]
    """train ids, 255 = void"""
    picture: UInt8[np.ndarray, "height width 3"] | None
    """None where there are no pictures"""


class Folders(NamedTuple):
    """Where files are that match by relative path without extension."""

    maps: Path
    masks: Path
    images: Path | None = None


class Part:
    """Some of the pictures of three folders, by name."""

    def __init__(self, dataset: MapsDataset, folders: Folders, names: Iterable[str] | None = None) -> None:
        """
        Args:
            dataset: all of them.
            folders: where they are.
            names: those of this part; None: all.
        """
        self.dataset = dataset
        self.folders = folders
        self._index = {pair.name: index for index, pair in enumerate(dataset.pairs)}
        self.names = list(self._index) if names is None else list(names)

    @classmethod
    def open(cls, folders: Folders, classes: str | Path | Classes | None, logits: bool) -> Part:
        """All maps of a folder; `classes`: a file or the name of known ones, those of another part, or None: found in
        the masks.

        Raises:
            SegfocusError: folders missing or empty, maps without mask or picture (listed), classes that cannot be read.
        """
        from segfocus.data import open_dataset
        from segfocus.data.maps import MapsDataset

        known = classes if isinstance(classes, Classes) else None
        config = DataConfig(
            name="maps",
            maps=str(folders.maps),
            masks=str(folders.masks),
            images=None if folders.images is None else str(folders.images),
            classes=None if known is not None or classes is None else str(classes),
            logits=logits,
        )
        dataset = open_dataset(config, "all", classes=known)
        assert isinstance(dataset, MapsDataset)
        return cls(dataset, folders)

    @property
    def classes(self) -> Classes:
        return self.dataset.classes

    def __len__(self) -> int:
        return len(self.names)

    def only(self, names: Iterable[str]) -> Part:
        """These pictures alone."""
        return Part(self.dataset, self.folders, names)

    def split(self) -> tuple[Part, Part]:
        """(pictures to fit by, pictures to score): halves told by the names, parts of one photograph together.

        Raises:
            SegfocusError: fewer than two pictures.
        """
        numbers = fold_numbers(self.names, 2)
        fit, scored = ([name for name in self.names if (numbers[name] == _FIT) == wanted] for wanted in (True, False))
        return self.only(fit), self.only(scored)

    def read(self, name: str) -> Mapped:
        """The files of one picture.

        Raises:
            SegfocusError: a file that cannot be read or does not fit the others (it is named).
        """
        sample = self.dataset[self._index[name]]
        picture = None
        if self.dataset.pictures is not None:
            picture = np.ascontiguousarray((sample["image"] * 255).round().byte().permute(1, 2, 0).numpy())
        return Mapped(sample["probabilities"].numpy(), sample["target"].byte().numpy(), picture)

    def readable(self, progress: Iterable[str]) -> tuple[Part, list[str]]:
        """The part without the pictures whose files cannot be read, and one line for each of those."""
        good, failures = [], []
        for name in progress:
            try:
                self.read(name)
            except SegfocusError as error:
                failures.append(str(error))
            else:
                good.append(name)
        return self.only(good), failures

    def pairs(self, most: int | None = None) -> Iterator[Mapped]:
        """All pictures, or `most` of them, evenly among their names."""
        names = self.names
        if most is not None and most < len(names):
            names = [names[index * len(names) // most] for index in range(most)]
        return (self.read(name) for name in names)

    def digest(self) -> str:
        """Changes with names, sizes and times of the files."""
        found = hashlib.sha256()
        for name in self.names:
            for path in self._files(name):
                state = path.stat()
                found.update(f"{name}\0{path.suffix}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
        return found.hexdigest()

    def linked(self, folder: Path) -> Folders:
        """Folders that hold this part alone: links to its files, or copies where the system has no links.

        Raises:
            SegfocusError: the folder cannot be written.
        """
        if len(self.names) == len(self.dataset.pairs):
            return self.folders
        kinds = ("maps", "masks", "images")
        with writing(folder):
            for name in self.names:
                for kind, path in zip(kinds, self._files(name), strict=False):
                    link = folder / kind / f"{name}{path.suffix}"
                    if not os.path.lexists(link):
                        link.parent.mkdir(parents=True, exist_ok=True)
                        _link(path.resolve(), link)
        return Folders(folder / "maps", folder / "masks", None if self.folders.images is None else folder / "images")

    def _files(self, name: str) -> list[Path]:
        """Map, mask, and picture where there are pictures."""
        index = self._index[name]
        pair = self.dataset.pairs[index]
        assert pair.mask is not None
        pictures = [] if self.dataset.pictures is None else [self.dataset.pictures[index]]
        return [pair.picture, pair.mask, *pictures]


def _link(path: Path, link: Path) -> None:
    try:
        link.symlink_to(path)
    except OSError:  # not allowed to this user, or a file system without links
        shutil.copy2(path, link)

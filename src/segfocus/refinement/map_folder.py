"""A folder of probability maps with their masks and pictures: all that fitting and comparing refiners needs."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import yaml
from jaxtyping import Float32, UInt8, UInt16

from segfocus.data.classes import Classes
from segfocus.data.pairs import Pair
from segfocus.errors import SegfocusError, nearest
from segfocus.files import write_atomically, write_bytes, write_json, write_text

FORMATS = {"png16": ".png", "npz": ".npz", "npy": ".npy"}
"""how maps are stored -> file name ending; all hold 16-bit values, 65535 = 1"""
RECORD = "maps.json"
CLASSES = "classes.yaml"


class Places(NamedTuple):
    """Folders that belong together, each None where it is not known."""

    maps: Path
    masks: Path | None = None
    images: Path | None = None
    classes: Path | None = None
    """a classes file"""


def places(maps: str | Path, masks: str | Path | None = None, images: str | Path | None = None) -> Places:
    """The folders that are meant: of the whole folder of `export_maps` as `maps` those inside it that are not given.

    Its classes file counts for its own masks only.
    """
    given = Path(maps)
    if read_record(given) is not None:
        given, masks, images = given / "maps", masks or given / "masks", images or given / "images"
    masks = None if masks is None else Path(masks)
    own = masks is not None and masks.name == "masks" and read_record(masks.parent) is not None
    classes = masks.parent / CLASSES if own and masks is not None else None
    return Places(given, masks, None if images is None else Path(images), classes)


def to_16_bits(probabilities: Float32[np.ndarray, "*shape"]) -> UInt16[np.ndarray, "*shape"]:
    """Probabilities in [0, 1] as 0 to 65535, halves down: above 0.5 stays above, 0.5 itself does not come above."""
    return np.ceil(probabilities.astype(np.float64) * 65535 - 0.5).astype(np.uint16)


class MapFolder:
    """OUT/maps/NAME, OUT/masks/NAME.png (train ids, 255 void), OUT/images/NAME, OUT/classes.yaml and OUT/maps.json.

    Args:
        out: the folder; made by `begin`.
        kind: one of `FORMATS`.  png16 holds the foreground of two classes, the others all classes in the array
            "probabilities" (npz) or alone (npy).
        classes: of the maps.

    Raises:
        SegfocusError: unknown kind, or png16 for three classes or more.
    """

    def __init__(self, out: Path, kind: str, classes: Classes) -> None:
        if kind not in FORMATS:
            raise SegfocusError(f"format: unknown '{kind}'; {nearest(kind, FORMATS)}")
        if kind == "png16" and classes.num_classes > 2:
            raise SegfocusError(f"format: expected npz or npy for {classes.num_classes} classes, got png16; try npz")
        self.out = out
        self.kind = kind
        self.classes = classes
        self.record: dict[str, Any] = {}

    def begin(self, settings: dict[str, Any], pairs: list[Pair], made: dict[str, Any], overwrite: bool) -> None:
        """Take the folder for the maps of these settings: a new one, one that they have begun, or with `overwrite`
        one of other maps, which are removed.

        Args:
            settings: what decides the maps, JSON safe; `made`: what else the record says.

        Raises:
            SegfocusError: it holds other maps or other files, or cannot be written.
        """
        settings = json.loads(json.dumps({**settings, "format": self.kind}))
        names = [pair.name for pair in pairs]
        record = read_record(self.out)
        if record is None:
            if self.out.exists() and not (self.out.is_dir() and not any(self.out.iterdir())):
                got = "holds other files" if self.out.is_dir() else "is a file"
                raise SegfocusError(f"--out: expected a new folder, got {self.out}, which {got}; try another")
        elif overwrite:
            self._remove(record)
        else:
            before = {"pictures": record.get("names"), **record["settings"]}
            wanted = {"pictures": names, **settings}
            if other := [key for key in wanted if before.get(key) != wanted[key]]:
                raise SegfocusError(
                    f"--out: expected a new folder or one of these maps, got {self.out} with other {', '.join(other)}; "
                    "try another, or --overwrite"
                )
        self.record = {**made, "settings": settings, "complete": False, "uncertain_share": None, "names": names}
        write_json(self.out / RECORD, self.record)
        own = Classes.of(self.classes.names).to_dict()  # the masks hold train ids
        for train_id, entry in self.classes.to_dict()["classes"].items():
            own["classes"][train_id] = {**entry, "raw": [train_id]}
        write_text(self.out / CLASSES, yaml.safe_dump(own, sort_keys=False))

    def files(self, pair: Pair) -> list[Path]:
        """Map, mask and picture of a pair; the map is written last."""
        picture = pair.picture.suffix if pair.picture.is_file() else ".png"
        return [
            self.out / "maps" / f"{pair.name}{FORMATS[self.kind]}",
            self.out / "masks" / f"{pair.name}.png",
            self.out / "images" / f"{pair.name}{picture}",
        ]

    def finished(self, pair: Pair) -> bool:
        """Whether all files of a pair are there, and the map is newer than the picture it was made from."""
        files = self.files(pair)
        since = pair.picture.stat().st_mtime_ns if pair.picture.is_file() else 0
        return all(file.is_file() for file in files) and files[0].stat().st_mtime_ns >= since

    def write(
        self,
        pair: Pair,
        probabilities: Float32[np.ndarray, "classes height width"],
        target: UInt8[np.ndarray, "height width"],
        picture: UInt8[np.ndarray, "height width 3"],
    ) -> None:
        """Write the files of a pair; a picture on disk is copied byte by byte.

        Raises:
            SegfocusError: the disk is full, ...
        """
        map_file, mask_file, picture_file = self.files(pair)
        write_bytes(mask_file, _png(target))
        if pair.picture.is_file():
            with write_atomically(picture_file) as temporary:
                shutil.copyfile(pair.picture, temporary)
        else:
            write_bytes(picture_file, _png(picture[..., ::-1]))
        write_bytes(map_file, self._encoded(to_16_bits(probabilities)))

    def read(self, pair: Pair) -> Float32[np.ndarray, "classes height width"]:
        """The map of a finished pair, all classes."""
        from segfocus.data.map_files import open_map

        file = open_map(self.files(pair)[0], self.classes.num_classes)
        return file.read(slice(0, file.size[0]), slice(0, file.size[1]))

    def end(self, uncertain: int, pixels: int) -> None:
        """Write into the record that the folder is complete, and which share of the pixels is uncertain."""
        self.record |= {"complete": True, "uncertain_share": uncertain / pixels if pixels else None}
        write_json(self.out / RECORD, self.record)

    def _encoded(self, values: np.ndarray) -> bytes:
        if self.kind == "png16":
            return _png(values[1])
        stream = io.BytesIO()
        if self.kind == "npz":
            np.savez_compressed(stream, probabilities=values)
        else:
            np.save(stream, values)
        return stream.getvalue()

    def _remove(self, record: dict[str, Any]) -> None:
        """Remove what the call that wrote the record wrote, and nothing else."""
        for name in record.get("names", []):
            for folder in ("maps", "masks", "images"):
                below = self.out / folder / name
                for file in below.parent.glob(f"{_literal(below.name)}.*") if below.parent.is_dir() else ():
                    if file.with_suffix("").name == below.name:
                        file.unlink()
        for number in range(1, 1 + (record.get("settings", {}).get("folds") or 0)):
            if (self.out / "runs" / f"fold_{number}" / "recipe.yaml").is_file():
                shutil.rmtree(self.out / "runs" / f"fold_{number}")
        (self.out / RECORD).unlink()


def read_record(folder: Path) -> dict[str, Any] | None:
    """What the folder of `export_maps` says of itself; None where there is no such record."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and "settings" in record else None


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _png(values: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", np.ascontiguousarray(values), [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise SegfocusError(f"a picture of {values.shape[1]}x{values.shape[0]} px does not fit into a PNG file")
    return data.tobytes()

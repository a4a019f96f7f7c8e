"""Small folders of maps, masks and pictures, and a leaderboard made of them without a process for each row."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from segfocus.refinement.compare import compare
from segfocus.refinement.parts import Folders

NAMES = tuple("abcdefghijkl")
SIZE = (40, 56)


def truth_of(index: int, num_classes: int = 2) -> np.ndarray:
    """Blocks of classes; some void."""
    rng = np.random.default_rng(index)
    blocks = rng.integers(0, num_classes, (SIZE[0] // 8, SIZE[1] // 8))
    target = np.kron(blocks, np.ones((8, 8), int)).astype(np.uint8)
    target[: 2 + index % 3, :5] = 255
    return target


def map_of(index: int, num_classes: int = 2) -> np.ndarray:
    """A blurred, noisy, over-careful version of the truth, float32 [classes, height, width]."""
    rng = np.random.default_rng(100 + index)
    target = truth_of(index, num_classes)
    wanted = np.stack([cv2.GaussianBlur((target == k).astype(np.float32), (0, 0), 2) for k in range(num_classes)])
    logits = 4 * wanted + 0.5 * rng.normal(size=wanted.shape).astype(np.float32)
    logits[0] += 1.2
    values = np.exp(logits)
    return (values / values.sum(0)).astype(np.float32)


def make_folders(root: Path, num_classes: int = 2, names=NAMES, pictures: bool = True) -> Folders:
    """Masks of train ids and 255, maps as npy, grey pictures."""
    for kind in ("maps", "masks", "images"):
        (root / kind).mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        target = truth_of(index, num_classes)
        np.save(root / "maps" / f"{name}.npy", map_of(index, num_classes))
        cv2.imwrite(str(root / "masks" / f"{name}.png"), target)
        grey = 60 + 40 * np.where(target == 255, 0, target).astype(np.uint8)
        cv2.imwrite(str(root / "images" / f"{name}.png"), np.repeat(grey[:, :, None], 3, 2))
    return Folders(root / "maps", root / "masks", root / "images" if pictures else None)


def compared(folders: Folders, out: Path, methods, monkeypatch: pytest.MonkeyPatch, page: bool = False, **options):
    """A leaderboard; peak memory is not measured, which would take a process for each row, and the page is made only
    where it is looked at."""
    if not page:
        monkeypatch.setattr("segfocus.refinement.page.write_page", lambda *_: None)
    monkeypatch.setattr("segfocus.refinement.rows.peak_memory", no_memory)
    maps, masks, images = folders
    options = {"images": images, "device": "cpu", "progress": False, **options}
    return compare(maps, masks, out=out, methods=methods, **options)


def no_memory(*_) -> dict:
    return {"bytes": 12345, "kind": "resident set"}


def row_of(results: dict, name: str) -> dict:
    return next(row for row in results["rows"] if row["name"] == name)


def refuse(*_):
    raise AssertionError("made again")

"""Small data sets on disk, and ways to break them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from segfocus.data.classes import Classes

SIZE = (64, 80)
CLASSES = Classes.of(["ground", "house", "wire"])
PALETTE = np.array([[60, 120, 60], [180, 60, 40], [20, 20, 60]])


def labels_of(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Ground, houses and a thin wire, which crosses every scene; a corner is ignored."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(size, np.uint8)
    for _ in range(4):
        y, x = rng.integers(0, size[0] - 20), rng.integers(0, size[1] - 25)
        labels[y : y + rng.integers(14, 24), x : x + rng.integers(14, 24)] = 1
    cv2.line(labels, (0, int(rng.integers(size[0]))), (size[1], int(rng.integers(size[0]))), 2, 2)
    labels[:5, :9] = 255
    return labels


def picture_of(labels: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed + 1000)
    colors = PALETTE[np.minimum(labels, 2)] + rng.integers(-20, 20, 3)
    blobs = cv2.resize(rng.normal(0, 40, (8, 10)).astype(np.float32), labels.shape[::-1])
    return np.clip(colors + blobs[..., None], 0, 255).astype(np.uint8)


def save(path: Path, values: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)
    return path


def write_scenes(root: Path, splits: dict[str, int] | None = None, table: tuple[int, ...] = (0, 1, 2)) -> Path:
    """images/SPLIT/NAME.png and masks/SPLIT/NAME.png; `table` gives the raw value of each class."""
    seed = 0
    raw = np.arange(256, dtype=np.uint8)
    raw[: len(table)] = table
    for split, count in (splits or {"train": 8, "val": 4}).items():
        for _ in range(count):
            labels = labels_of(seed)
            save(root / "images" / split / f"{'abcdefghijklmnop'[seed]}.png", picture_of(labels, seed))
            save(root / "masks" / split / f"{'abcdefghijklmnop'[seed]}.png", raw[labels])
            seed += 1
    return root


def two_classes(root: Path) -> Path:
    """Masks of 0 and 255 only."""
    write_scenes(root)
    for path in (root / "masks").rglob("*.png"):
        save(path, np.where(np.array(Image.open(path)) == 1, 255, 0).astype(np.uint8))
    return root


def masks_of(root: Path, split: str = "*") -> list[Path]:
    return sorted(root.glob(f"masks/{split}/*"))


def images_of(root: Path, split: str = "*") -> list[Path]:
    return sorted(root.glob(f"images/{split}/*"))

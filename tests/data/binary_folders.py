"""Tiny folders as the binary data sets are published."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from segfocus.recipe import DataConfig


def write_pictures(folder: Path, names: Iterable[str]) -> None:
    folder.mkdir(parents=True)
    for name in names:
        Image.new("RGB", (8, 6)).save(folder / f"{name}.png")


def write_masks(folder: Path, names: Iterable[str], mask: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for name in names:
        Image.fromarray(mask).save(folder / f"{name}.png")


def half_mask() -> np.ndarray:
    """6x8, 255 in the left half."""
    mask = np.zeros((6, 8), np.uint8)
    mask[:, :4] = 255
    return mask


def write_split(root: Path, split: str, names: Iterable[str], pictures="images/{}", masks="masks/{}") -> None:
    names = list(names)
    write_pictures(root / pictures.format(split), names)
    write_masks(root / masks.format(split), names, half_mask())


def names_of(config: DataConfig, split: str) -> list[str]:
    from segfocus.data import open_dataset

    return [pair.name for pair in open_dataset(config, split).pairs]

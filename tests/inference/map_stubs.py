"""Refiners of one line, and maps on disk for them."""

from pathlib import Path

import cv2
import numpy as np
import tifffile
import torch
from PIL import Image
from torch import nn

from segfocus.inference.refiner import MapRefiner
from segfocus.methods.base import Refiner
from segfocus.output import Output

SIZE = (21, 30)


class Sharpener(Refiner):
    """Moves every probability's logit up by `shift`, of three or more classes the last one's."""

    grid = 4

    def __init__(self, num_classes: int = 2, shift: float = 1.0) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.shift = nn.Parameter(torch.tensor(shift))
        self.seen: list[tuple[int, ...]] = []

    def forward(self, probabilities, image=None):
        self.seen.append(tuple(probabilities.shape))
        if self.num_classes == 2:
            return Output(probabilities[:, 1:].clamp(1e-6, 1 - 1e-6).logit() + self.shift)
        logits = probabilities.clamp(min=1e-6).log()
        return Output(torch.cat([logits[:, :-1], logits[:, -1:] + self.shift], 1))

    def loss(self, output, target):
        return {"zero": output.logits.sum() * 0}


class Painter(Sharpener):
    """Takes the picture's red for the foreground."""

    reads_picture = True

    def forward(self, probabilities, image=None):
        return Output(image[:, :1].clamp(1e-6, 1 - 1e-6).logit() + 0 * probabilities[:, 1:] * self.shift)


def sharpened(foreground, shift=1.0):
    foreground = foreground.astype(np.float64).clip(1e-6, 1 - 1e-6)
    return 1 / (1 + (1 - foreground) / foreground * np.exp(-shift))


def make_refiner(model=None, **options):
    return MapRefiner(model or Sharpener(), device="cpu", **{"window": (8, 8), **options})


def make_map(path: Path, seed=0, size=SIZE, dtype=np.float32) -> np.ndarray:
    """Writes a map of the foreground; returns its probabilities."""
    values = np.random.default_rng(seed).random(size)
    scale = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1
    stored = (values * scale).astype(dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, stored)
    elif path.suffix == ".npz":
        np.savez_compressed(path, probabilities=stored)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, stored, compression="zlib", rowsperstrip=4)
    else:
        cv2.imwrite(str(path), stored)
    return stored.astype(np.float64) / scale


def make_picture(path: Path, seed=0, size=SIZE) -> np.ndarray:
    picture = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return picture


def make_maps(folder: Path) -> Path:
    """Three maps, one of each kind of file that keeps its kind."""
    for seed, name in enumerate(("a.npy", "deep/er/b.png", "c.d.tif")):
        make_map(folder / name, seed, dtype=np.uint16)
    return folder


def files_below(out: Path) -> list[str]:
    """All files, hidden ones too."""
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


ALL = [
    "labels/a.png",
    "labels/c.d.png",
    "labels/deep/er/b.png",
    "predictions.json",
    "probabilities/a.npy",
    "probabilities/c.d.tif",
    "probabilities/deep/er/b.png",
]
"""what is written for `make_maps`"""

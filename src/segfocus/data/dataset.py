"""SegmentationDataset: pairs of files and classes -> samples, with randomness that depends on nothing but numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from segfocus.data.classes import IGNORE, Classes
from segfocus.data.pairs import Pair as Pair
from segfocus.data.pictures import MAX_PIXELS, picture_size, read_mask, read_picture
from segfocus.data.transforms import evaluation_transform
from segfocus.errors import SegfocusError


class Sample(TypedDict):
    """What a dataset gives for a key."""

    image: Float[Tensor, "3 height width"]
    """RGB in [0, 1], float32"""
    target: Int64[Tensor, "height width"]
    """train ids, 255 = ignore"""
    name: str


class SegmentationDataset(Dataset[Sample]):
    """Pictures with masks on disk.

    A key is an index, or (epoch, index): the augmentation is a function of (seed, epoch, index) alone, whichever
    worker draws it, so that a resumed run sees what an uninterrupted one would have seen.  An index alone means
    epoch 0.  The caller's random state is left as it was.

    Args:
        pairs: pictures and masks; a pair without mask has a target of 255 everywhere.
        classes: raw mask values -> train ids.
        transform: (tv_tensors.Image uint8 CHW, tv_tensors.Mask uint8 HW) -> (image, mask), random numbers from
            torch's global generator; None converts only.
        seed: of the augmentation.
        max_pixels: larger pictures are refused.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        classes: Classes,
        transform: Callable[..., Any] | None = None,
        seed: int = 0,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.pairs = list(pairs)
        self.classes = classes
        self.transform = transform or evaluation_transform()
        self.seed = seed
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """One transformed sample.

        Raises:
            SegfocusError: a file cannot be read, sizes differ, or a mask value is not mapped (the file is named).
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        picture, labels = self.read(index)
        image = tv_tensors.Image(torch.from_numpy(picture).permute(2, 0, 1))
        mask = tv_tensors.Mask(torch.from_numpy(labels))
        with torch.random.fork_rng(devices=[]):
            # The generator itself: torch.manual_seed would also reseed the accelerators of this process.
            torch.default_generator.manual_seed(sample_seed(self.seed, epoch, index % len(self)))
            image, mask = self.transform(image, mask)
        return {
            "image": image.as_subclass(Tensor),
            "target": mask.as_subclass(Tensor).long(),
            "name": self.pairs[index].name,
        }

    def read(self, index: int) -> tuple[UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width"]]:
        """Picture (RGB) and train ids as stored, without transform."""
        pair = self.pairs[index]
        picture = read_picture(pair.picture, self.max_pixels)
        if pair.mask is None:
            return picture, np.full(picture.shape[:2], IGNORE, np.uint8)
        mask = read_mask(pair.mask, self.max_pixels, colors=self.classes.reads_colors)
        if mask.shape[:2] != picture.shape[:2]:
            raise SegfocusError(
                f"{pair.mask}: expected the size of its picture {pair.picture}, {_size(picture)} (height x width), "
                f"got {_size(mask)}; try to export the mask at the picture's size"
            )
        return picture, self.classes.encode(mask, str(pair.mask))

    def only(self, indices: Iterable[int]) -> SegmentationDataset:
        """A data set of these pictures alone, otherwise the same."""
        part = copy.copy(self)
        part.pairs = [self.pairs[index] for index in indices]
        return part

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of a picture in pixels, without decoding it."""
        return picture_size(self.pairs[index].picture)

    def one_size(self) -> bool:
        """Whether all pictures have the same height and width."""
        first = self.size(0)
        return all(self.size(index) == first for index in range(1, len(self)))

    def pixel_counts(self) -> np.ndarray:
        """Labelled pixels of each class over all masks, int64 [classes]; reads every mask once."""
        counts = np.zeros(256, np.int64)
        for index, pair in enumerate(self.pairs):
            if pair.mask is None:
                labels = self.read(index)[1]
            else:
                raw = read_mask(pair.mask, self.max_pixels, colors=self.classes.reads_colors)
                labels = self.classes.encode(raw, str(pair.mask))
            counts += np.bincount(labels.ravel(), minlength=256)
        return counts[: self.classes.num_classes]


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """A 63-bit seed that differs for every (seed, epoch, index), all from 0."""
    state = np.random.SeedSequence((seed, epoch, index)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def _size(values: np.ndarray) -> str:
    return f"{values.shape[0]}x{values.shape[1]}"

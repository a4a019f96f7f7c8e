"""DRIVE: photographs of the retina, background and vessel, 20 train and 20 test of 565 x 584.

Staal, Abramoff, Niemeijer, Viergever, van Ginneken: Ridge-based vessel segmentation in color images of the retina,
IEEE Transactions on Medical Imaging 2004.  For research.  Vessels are about 8.7 % of all pixels.

Outside the round field of view nothing is labelled: those pixels are ignored, as papers score the set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from segfocus.data.classes import IGNORE, Classes
from segfocus.data.dataset import SegmentationDataset
from segfocus.data.pairs import Pair, pair_folders
from segfocus.data.pictures import read_mask
from segfocus.data.published import LAYOUT, binary_classes, split_pairs
from segfocus.errors import SegfocusError
from segfocus.recipe import DataConfig

SECOND_OBSERVER = "test_second"
"""split of the test pictures with another person's masks: how far people agree"""
_SECOND_LAYOUT = ("images/test", "masks2/test")


class DriveDataset(SegmentationDataset):
    """Pictures and masks, and 255 (ignore) wherever a picture's field of view is 0.

    Args:
        pairs, classes, transform, seed, max_pixels: as for `SegmentationDataset`.
        fields: name of a pair -> the picture of its field of view (0 outside, anything else inside).
    """

    def __init__(self, pairs: list[Pair], fields: Mapping[str, Path], *arguments: Any) -> None:
        super().__init__(pairs, *arguments)
        self.fields = fields

    def read(self, index: int) -> tuple[UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width"]]:
        """Picture (RGB) and train ids as stored, 255 outside the field of view.

        Raises:
            SegfocusError: as `SegmentationDataset`, or a field of view of another size.
        """
        picture, labels = super().read(index)
        path = self.fields[self.pairs[index].name]
        field = read_mask(path, self.max_pixels)
        if field.shape != labels.shape:
            raise SegfocusError(
                f"{path}: expected one grey channel of its picture's size {labels.shape[0]}x{labels.shape[1]} (height "
                f"x width), got {'x'.join(map(str, field.shape))}; try the field of view of the same picture"
            )
        return picture, np.where(field == 0, np.uint8(IGNORE), labels)

    def pixel_counts(self) -> np.ndarray:
        """Labelled pixels of each class inside the fields of view, int64 [classes]."""
        counts = np.zeros(256, np.int64)
        for index in range(len(self)):
            counts += np.bincount(self.read(index)[1].ravel(), minlength=256)
        return counts[: self.classes.num_classes]


def classes(config: DataConfig | None = None) -> Classes:
    """background and vessel (thin)."""
    return binary_classes("vessel", thin=True)


def pairs(config: DataConfig, split: str) -> list[Pair]:
    """Pairs of a split: train and test as published; fit, holdout (also called val) as in `split_pairs`.

    Found below `config.root` as images/SPLIT + masks/SPLIT; test_second takes masks2/test.

    Raises:
        SegfocusError: as `split_pairs`.
    """
    return split_pairs(config, split, [_SECOND_LAYOUT if split == SECOND_OBSERVER else LAYOUT])


def dataset(
    config: DataConfig, split: str, classes: Classes, transform: Callable[..., Any] | None, seed: int
) -> DriveDataset:
    """The split as a dataset, with the fields of view of fov/SPLIT; see `pairs`.

    Raises:
        SegfocusError: as `pairs`, no such folder, or a picture without its field of view.
    """
    found = pairs(config, split)
    published = "test" if split in ("test", SECOND_OBSERVER) else "train"
    root = Path(config.root or "")
    if not (root / "fov" / published).is_dir():
        raise SegfocusError(
            f"{root}: expected fov/{published} with the fields of view, got none; try to put the set's pictures called "
            "mask there"
        )
    views = pair_folders(root / "images" / published, root / "fov" / published)
    fields = {pair.name: pair.mask for pair in views if pair.mask is not None}
    return DriveDataset(found, fields, classes, transform, seed, config.max_pixels)

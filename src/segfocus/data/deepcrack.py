"""DeepCrack: photographs of concrete and asphalt, background and crack, 300 train and 237 test of 544 x 384.

Liu, Yao, Lu, Xie, Li: DeepCrack: a deep hierarchical feature learning architecture for crack segmentation,
Neurocomputing 2019.  For non-commercial research and education only; so are weights trained on it.

Cracks are 2.9 % of the pixels of train and 4.3 % of those of test.  Many pictures are parts of one photograph, of
which some lie on both sides of the published split (11158 of train and 11216 of test even show the same).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from segfocus.data.classes import Classes
from segfocus.data.pairs import Pair
from segfocus.data.published import LAYOUT, binary_classes, split_pairs
from segfocus.recipe import DataConfig

if TYPE_CHECKING:
    from segfocus.data.dataset import SegmentationDataset

LAYOUTS = (LAYOUT, ("{split}_img", "{split}_lab"))


def classes(config: DataConfig | None = None) -> Classes:
    """background and crack (thin)."""
    return binary_classes("crack", thin=True)


def pairs(config: DataConfig, split: str) -> list[Pair]:
    """Pairs of a split: train and test as published; fit, holdout (also called val) as in `split_pairs`.

    Found below `config.root` as images/SPLIT + masks/SPLIT, or as SPLIT_img + SPLIT_lab.

    Raises:
        SegfocusError: as `split_pairs`.
    """
    return split_pairs(config, split, LAYOUTS)


def dataset(
    config: DataConfig, split: str, classes: Classes, transform: Callable[..., Any] | None, seed: int
) -> SegmentationDataset:
    """The split as a dataset; see `pairs`."""
    from segfocus.data.dataset import SegmentationDataset

    return SegmentationDataset(pairs(config, split), classes, transform, seed, config.max_pixels)

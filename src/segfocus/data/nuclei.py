"""Nuclei of the Data Science Bowl 2018: microscopy, background and nucleus, 256 to 1388 pixels a side.

Caicedo et al.: Nucleus segmentation across imaging experiments, Nature Methods 2019; the training stage's pictures
with mended masks (CC0), one mask a picture: nuclei that touch are one blob.  No public split has labels beyond
them: train, val and test are whatever lies in those folders.  Names tell nothing of who took a picture: fit and
holdout may share an experiment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from segfocus.data.classes import Classes
from segfocus.data.pairs import Pair
from segfocus.data.published import binary_classes, split_pairs
from segfocus.recipe import DataConfig

if TYPE_CHECKING:
    from segfocus.data.dataset import SegmentationDataset


def classes(config: DataConfig | None = None) -> Classes:
    """background and nucleus."""
    return binary_classes("nucleus", thin=False)


def pairs(config: DataConfig, split: str) -> list[Pair]:
    """Pairs of a split, images/SPLIT + masks/SPLIT below `config.root`; fit and holdout as in `split_pairs`.

    Raises:
        SegfocusError: as `split_pairs`.
    """
    return split_pairs(config, split, has_val=True)


def dataset(
    config: DataConfig, split: str, classes: Classes, transform: Callable[..., Any] | None, seed: int
) -> SegmentationDataset:
    """The split as a dataset; see `pairs`."""
    from segfocus.data.dataset import SegmentationDataset

    return SegmentationDataset(pairs(config, split), classes, transform, seed, config.max_pixels)

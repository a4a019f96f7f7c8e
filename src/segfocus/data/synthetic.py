"""Generated street scenes as a dataset: exact labels, any number, no download.  `scenes` draws them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from segfocus.data.classes import Classes
from segfocus.data.dataset import Pair, SegmentationDataset
from segfocus.data.scenes import NAMES, draw_scene
from segfocus.errors import SegfocusError
from segfocus.recipe import DataConfig

_COLORS = (
    (120, 170, 220), (96, 80, 112), (190, 170, 190), (150, 80, 60), (70, 130, 50),
    (40, 70, 170), (220, 50, 60), (230, 200, 90), (240, 120, 20),
)  # fmt: skip
_INSTANCES = ("vehicle", "person", "pole", "sign")


class SyntheticDataset(SegmentationDataset):
    """Scenes drawn on demand; a scene is a function of (scene_seed, split, index), whatever the augmentation's seed.

    Args:
        length: number of scenes.
        size: height and width in pixels.
        split: train, val or test; they share no scene.
        classes, transform, seed: as for SegmentationDataset.
        scene_seed: another one gives other scenes.
    """

    def __init__(
        self,
        length: int,
        size: tuple[int, int],
        split: str,
        classes: Classes | None = None,
        transform: Callable[..., Any] | None = None,
        seed: int = 0,
        scene_seed: int = 0,
    ) -> None:
        names = [f"{split}_{index:05d}" for index in range(length)]
        pairs = [Pair(Path(name), None, name) for name in names]
        super().__init__(pairs, classes or synthetic_classes(), transform, seed)
        self.scene_size = size
        self.split = split
        self.scene_seed = scene_seed

    def read(self, index: int) -> tuple[UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width"]]:
        return draw_scene(self.scene_seed, self.split, range(len(self))[index], self.scene_size)

    def size(self, index: int) -> tuple[int, int]:
        return self.scene_size


def synthetic_classes() -> Classes:
    """Nine classes: sky, road, pavement, building, vegetation, vehicle, person, pole (thin), sign."""
    table = {
        train_id: {"name": name, "color": list(color), "thin": name == "pole", "instances": name in _INSTANCES}
        for train_id, (name, color) in enumerate(zip(NAMES, _COLORS, strict=True))
    }
    return Classes.from_dict({"classes": table, "ignore": [255]})


def classes(config: DataConfig | None = None) -> Classes:
    """See `synthetic_classes`."""
    return synthetic_classes()


def dataset(
    config: DataConfig, split: str, classes: Classes, transform: Callable[..., Any] | None, seed: int
) -> SegmentationDataset:
    """`config.synthetic_pictures` training scenes, or a quarter as many (at least one) of another split.

    Raises:
        SegfocusError: no pictures, or sizes below 16 pixels.
    """
    size, count = config.synthetic_size, config.synthetic_pictures
    if len(size) != 2 or min(size) < 16:
        raise SegfocusError(f"data.synthetic_size: expected height and width from 16 pixels, got {size}; try 192 256")
    if count < 1:
        raise SegfocusError(f"data.synthetic_pictures: expected at least 1, got {count}; try 240")
    if classes.names != NAMES:
        raise SegfocusError(
            f"synthetic: expected its own classes {', '.join(NAMES)}, got others; leave data.classes out"
        )
    length = count if split == "train" else max(1, count // 4)
    return SyntheticDataset(length, (size[0], size[1]), split, classes, transform, seed)

"""Pictures, masks, classes and generated scenes.  `DATASETS` names the readers; importing this imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from segfocus.data.classes import Classes
from segfocus.data.folds import of_fold, split_and_fold
from segfocus.data.known import load_classes
from segfocus.data.published import TUNING_SPLITS, VAL_IS_HOLDOUT
from segfocus.errors import SegfocusError, nearest
from segfocus.recipe import DataConfig

if TYPE_CHECKING:
    from segfocus.data.dataset import SegmentationDataset


@dataclass(frozen=True)
class Reader:
    """One entry of `DATASETS`: what it reads and where its functions `classes` and `dataset` live."""

    module: str
    summary: str
    splits: dict[str, str]
    """name of a split -> what it holds"""


DATASETS: dict[str, Reader] = {
    "folder": Reader(
        "segfocus.data.folder",
        "your own pictures and masks (data.images, data.masks, data.classes)",
        {
            "train": "data.images, less what is held out",
            "val": "data.val_images, or a fixed share (data.val_share) of data.images",
            "all": "every pair of data.images",
        },
    ),
    "camvid": Reader(
        "segfocus.data.camvid",
        "CamVid, 11 classes (data.root: images/SPLIT + masks/SPLIT, or SPLIT + SPLITannot)",
        {
            "train": "as published",
            "val": "as published (one clip inside a training video)",
            "test": "as published",
            "fit": "train without the frames 0001TP*",
            "holdout": "the frames 0001TP* of train",
        },
    ),
    "deepcrack": Reader(
        "segfocus.data.deepcrack",
        "DeepCrack, background and crack (data.root: images/SPLIT + masks/SPLIT, or SPLIT_img + SPLIT_lab)",
        {"train": "as published", "test": "as published"} | TUNING_SPLITS | VAL_IS_HOLDOUT,
    ),
    "drive": Reader(
        "segfocus.data.drive",
        "DRIVE, background and retinal vessel, void outside the field of view (data.root: images, masks, fov / SPLIT)",
        {"train": "as published", "test": "as published"}
        | TUNING_SPLITS
        | VAL_IS_HOLDOUT
        | {"test_second": "test with the second observer's masks (masks2/test)"},
    ),
    "nuclei_dsb2018": Reader(
        "segfocus.data.nuclei",
        "nuclei of the Data Science Bowl 2018, background and nucleus (data.root: images/SPLIT + masks/SPLIT)",
        {name: f"images/{name} + masks/{name}" for name in ("train", "val", "test")} | TUNING_SPLITS,
    ),
    "maps": Reader(
        "segfocus.data.maps",
        "probability maps of any network, to be refined (data.maps, data.masks, data.images where they are read)",
        {
            "train": "the maps, less what is held out",
            "val": "a fixed share (data.val_share) of them",
            "all": "every map",
        },
    ),
    "synthetic": Reader(
        "segfocus.data.synthetic",
        "generated street scenes with exact labels, no download",
        {
            "train": "data.synthetic_pictures scenes",
            "val": "a quarter as many others",
            "test": "a quarter as many others",
        },
    ),
}


WITHOUT_READER = ("cityscapes", "acdc", "ade20k", "pascal_context", "coco_stuff")
"""data sets that recipes of papers name, and whose folders nothing here reads yet"""


def open_dataset(
    config: DataConfig,
    split: str,
    transform: Callable[..., Any] | None = None,
    seed: int = 0,
    classes: Classes | None = None,
) -> SegmentationDataset:
    """The pictures of one split.

    `transform` None keeps pictures at their own size; `seed` is that of the augmentation (the split itself never
    depends on it); `classes` overrides the reader's own (a checkpoint's classes, or to avoid finding them twice).
    `train:2of5` is the second of five folds of train, `train:not2of5` the other four; see `segfocus.data.folds`.

    Raises:
        SegfocusError: unknown reader or split (nearest names offered), or whatever is wrong with the files.
    """
    split, fold = split_and_fold(split)
    module = _module(config, split)
    if classes is None:
        classes = dataset_classes(config)
    dataset = module.dataset(config, split, classes, transform, seed)
    return dataset if fold is None else of_fold(dataset, fold)


def dataset_classes(config: DataConfig) -> Classes:
    """The classes file of `config`, or the reader's own classes where none is given.

    Raises:
        SegfocusError: unknown reader, or a classes file that cannot be read.
    """
    if config.classes:
        if config.name not in WITHOUT_READER:
            _module(config)
        return load_classes(config.classes)
    return _module(config).classes(config)


def _module(config: DataConfig, split: str | None = None) -> Any:
    reader = DATASETS.get(config.name)
    if config.name in WITHOUT_READER:
        raise SegfocusError(
            f"no reader for {config.name} yet; try --data.name folder with --data.images and --data.masks, "
            "and --data.classes as the recipe has it"
        )
    if reader is None:
        raise SegfocusError(f"unknown dataset '{config.name}'; {nearest(config.name, DATASETS)}")
    if split is not None and split not in reader.splits:
        raise SegfocusError(f"unknown split '{split}' of dataset '{config.name}'; {nearest(split, reader.splits)}")
    return import_module(reader.module)

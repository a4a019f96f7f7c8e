"""What is refused before a run writes anything: values that cannot work, and masks that do not fit."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from segfocus.data.pictures import picture_size
from segfocus.errors import SegfocusError
from segfocus.inference.augment import check_scales
from segfocus.inference.focus import check_focus
from segfocus.inference.sliding import check_window
from segfocus.metrics.boundary import check_distances
from segfocus.recipe import ModelConfig, Recipe

if TYPE_CHECKING:
    from segfocus.data.dataset import SegmentationDataset
    from segfocus.methods.base import Method

_RANGES: tuple[tuple[str, Callable[[Any], bool], str, str], ...] = (
    ("training.devices", lambda value: value >= 1, "at least 1 process", "1"),
    ("training.seed", lambda value: 0 <= value < 2**32, "a whole number from 0 to 4294967295", "0"),
    ("training.validate_every", lambda value: value > 0, "epochs above 0", "1"),
    ("training.save_every", lambda value: value >= 1, "at least 1 step", "100"),
    ("training.ema_decay", lambda value: 0 <= value < 1, "0 (off) or a value below 1", "0.999"),
    ("data.batch_size", lambda value: value >= 1, "at least 1 picture", "8"),
    ("data.workers", lambda value: value >= 0, "0 (none) or more loader processes", "2"),
    ("optimizer.learning_rate", lambda value: value > 0, "a value above 0", "0.001"),
    ("optimizer.weight_decay", lambda value: value >= 0, "0 (none) or more", "0.01"),
    ("optimizer.momentum", lambda value: 0 <= value < 1, "a value from 0 to below 1", "0.9"),
    ("optimizer.warmup_steps", lambda value: value >= 0, "0 (none) or more steps", "100"),
    ("optimizer.clip_norm", lambda value: value >= 0, "0 (off) or more", "1"),
)


def check(recipe: Recipe) -> None:
    """Refuse values that cannot work in any run.

    Raises:
        SegfocusError: the first such value, in one line.
    """
    _check_length(recipe)
    for key, fits, expected, example in _RANGES:
        section, name = key.split(".")
        value = getattr(getattr(recipe, section), name)
        if not math.isfinite(value) or not fits(value):
            raise SegfocusError(f"{key}: expected {expected}, got {value}; try {example}")
    batch, devices = recipe.data.batch_size, recipe.training.devices
    if batch % devices:
        raise SegfocusError(
            f"data.batch_size: expected a multiple of the {devices} processes, got {batch}; "
            f"try {max(1, batch // devices) * devices}"
        )
    if recipe.evaluation.window is not None:
        check_window(recipe.evaluation.window, recipe.evaluation.stride)
    check_scales(recipe.evaluation.scales)
    check_focus(None, recipe.evaluation.focus, recipe.evaluation.adaptive)
    check_distances(recipe.evaluation.boundary_distances)
    _check_frozen(recipe.model)
    _check_method(recipe)


def _check_method(recipe: Recipe) -> None:
    """Refiners see maps, all other methods see pictures; and some refiners are not trained."""
    from segfocus.methods import method_class
    from segfocus.methods.base import Refiner

    name, maps = recipe.model.method, recipe.data.name == "maps"
    cls = method_class(name)
    if not issubclass(cls, Refiner):
        if maps:
            raise SegfocusError(
                f"data.name maps: expected a method that refines maps, got {name}; try --model.method threshnet"
            )
        return
    if cls.fitting != "trained":
        raise SegfocusError(
            f"method {name}: expected one that is trained, got one that is not; try segfocus refine "
            f"compare --methods {name}"
        )
    if not maps:
        raise SegfocusError(
            f"method {name} refines maps: expected data.name maps, got {recipe.data.name}; try segfocus refine train"
        )
    if cls.reads_picture and not recipe.data.images:
        raise SegfocusError(f"method {name} reads pictures: expected data.images, got none; try --images FOLDER")


def _check_frozen(model: ModelConfig) -> None:
    """A frozen base that nobody trained predicts nothing."""
    base = model.options.get("base")
    base = base if isinstance(base, dict) else {}
    kind = base.get("kind", "light")
    # published weights of most kinds are a backbone's: the layers that make the logits would stay random
    published = model.pretrained and kind in ("torchvision", "segformer") and base.get("weights")
    if model.options.get("frozen") and not (published or base.get("checkpoint")):
        raise SegfocusError(
            "model.options: expected a finished base for frozen: true, got random weights; try --model.options.base "
            f"'{{kind: {kind}, checkpoint: runs/NAME/best.safetensors}}'"
        )


def _check_length(recipe: Recipe) -> None:
    length = {key: value for key in ("epochs", "steps", "minutes") if (value := getattr(recipe.training, key))}
    if len(length) != 1 or not all(value > 0 and math.isfinite(value) for value in length.values()):
        got = ", ".join(f"{key} {value}" for key, value in length.items()) or "none"
        raise SegfocusError(
            f"length of the run: expected one of training.epochs, training.steps and training.minutes, got {got}; "
            "try --training.epochs 100"
        )


def check_windows(recipe: Recipe, model: Method) -> None:
    """A refiner's windows and crops lie on its patches, and resized maps are seen whole.

    Raises:
        SegfocusError: windows or crops that do not.
    """
    from segfocus.inference.tiles import check_tiles
    from segfocus.methods.base import Refiner

    if not isinstance(model, Refiner):
        return
    check_tiles(recipe.evaluation.window, recipe.evaluation.stride, model.grid)
    for key, sides in (("data.crop", recipe.data.crop), ("data.resize", recipe.data.resize)):
        if sides is not None and any(side % model.grid for side in sides):
            raise SegfocusError(
                f"{key}: expected multiples of {model.grid} px (the refiner's patch), got {sides}; try "
                + " ".join(str(max(1, round(side / model.grid)) * model.grid) for side in sides)
            )
    if recipe.data.resize is not None and recipe.evaluation.window is not None:
        raise SegfocusError(
            f"evaluation.window: expected none where maps are resized to {recipe.data.resize}, got "
            f"{recipe.evaluation.window}; try one of the two"
        )
    if recipe.evaluation.flip or list(recipe.evaluation.scales) != [1.0]:
        raise SegfocusError("evaluation: expected neither scales nor flip for a refiner; try --evaluation.shifts true")


def check_pictures(dataset: SegmentationDataset) -> np.ndarray | None:
    """Check each picture's size (from the heads of the files) and each mask's values; shows progress if it takes long.

    Returns:
        Labelled pixels of each class, int64 [classes]; None for a dataset without mask files, which is not checked.

    Raises:
        SegfocusError: a file that cannot be read, a mask of another size than its picture, a value that is not mapped:
            the file is named.
    """
    from segfocus.data.maps import MapsDataset

    pairs = [pair for pair in dataset.pairs if pair.mask is not None]
    if not pairs:
        return None
    word = "map" if isinstance(dataset, MapsDataset) else "picture"
    for index, pair in enumerate(dataset.pairs):
        if pair.mask is None:
            continue
        picture, mask = dataset.size(index), picture_size(pair.mask)
        if picture != mask:
            raise SegfocusError(
                f"{pair.mask}: expected the size of its {word} {pair.picture}, {picture[0]}x{picture[1]} "
                f"(height x width), got {mask[0]}x{mask[1]}; try to export the mask at the {word}'s size"
            )
    counts = np.zeros(dataset.classes.num_classes, np.int64)
    for pair in tqdm(pairs, "check masks", unit="mask", delay=5, disable=None, leave=False):
        single = copy.copy(dataset)
        single.pairs = [pair]
        counts += single.pixel_counts()
    return counts

"""Recipe: every number of a run, as nested dataclasses.  Imports no torch.

The docstring below each field is its help text in the command line.  A recipe file (``recipes/*.yaml``)
is complete and flat: it states every field, inherits from nothing, and is what a run saves beside its weights.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from segfocus.errors import SegfocusError, nearest


@dataclass
class DataConfig:
    """Which pictures, and how they are cut, scaled and changed for training."""

    name: str = "folder"
    """dataset reader: see `segfocus list datasets`"""
    root: str | None = None
    """folder of a dataset with a fixed layout (camvid, ...)"""
    images: str | None = None
    """folder reader: training pictures; maps reader: pictures of the maps, for refiners that read them"""
    masks: str | None = None
    """folder and maps reader: training masks, paired by relative path without extension"""
    val_images: str | None = None
    """folder reader: validation pictures; without it a share of the training pairs, told by their names, is held out"""
    val_masks: str | None = None
    """folder reader: validation masks"""
    val_share: float = 0.15
    """folder and maps reader: share (about) of the training pairs held out for validation when nothing else is given"""
    maps: str | None = None
    """maps reader: probability maps of any network, paired with the masks by relative path without extension"""
    logits: bool = False
    """maps reader: the maps hold logits, not probabilities"""
    classes: str | None = None
    """classes file (YAML: raw mask values to names); the reader's own classes when not given"""
    train_split: str = "train"
    """split to train on"""
    val_split: str = "val"
    """split to validate on"""
    resize: list[int] | None = None
    """maps reader: height and width in pixels that maps and masks are brought to first; none: they keep their size"""
    crop: list[int] | None = None
    """training crop, height and width in pixels; none: pictures must all have one size"""
    scale: list[float] = field(default_factory=lambda: [0.5, 2.0])
    """range of the random training scale"""
    max_class_share: float = 0.75
    """a crop in which one class holds a larger share of the labelled pixels is drawn again (up to 10 times)"""
    flip: bool = True
    """mirror half of the training pictures left to right"""
    turn: bool = False
    """maps reader: also mirror upside down, and turn by quarters where crops are square"""
    jitter: float = 0.4
    """strength of the random brightness, contrast and saturation change, 0 for none"""
    batch_size: int = 8
    """pictures a step, over all processes"""
    workers: int = 2
    """loader processes"""
    max_pixels: int = 180_000_000
    """larger pictures are refused"""
    synthetic_pictures: int = 240
    """synthetic reader: training scenes (a quarter as many for validation)"""
    synthetic_size: list[int] = field(default_factory=lambda: [192, 256])
    """synthetic reader: height and width of a scene in pixels"""


@dataclass
class ModelConfig:
    """Which network."""

    method: str = "fornet"
    """see `segfocus list methods`"""
    backbone: str = "lite"
    """'lite' (segfocus' own trunk) or the name of any timm model"""
    pretrained: bool = True
    """start a timm backbone from its published weights"""
    start: str | None = None
    """start from this checkpoint: its tensors of the same name and shape; 'shipped' is the one of the package"""
    backbone_options: dict[str, Any] = field(default_factory=dict)
    """passed on to timm as they are"""
    options: dict[str, Any] = field(default_factory=dict)
    """keyword arguments of the method's constructor"""
    class_weights: Literal["none", "masks"] | list[float] = "none"
    """weights of the classes in the loss: none, a list, or 'masks': from the training masks' pixel counts"""


@dataclass
class OptimizerConfig:
    """How weights move."""

    name: Literal["adamw", "sgd"] = "adamw"
    """optimiser"""
    learning_rate: float = 1e-3
    """peak learning rate"""
    backbone_factor: float = 1.0
    """learning rate of the backbone, as a factor of the peak"""
    weight_decay: float = 0.01
    """not applied to biases and normalisation weights"""
    momentum: float = 0.9
    """SGD only"""
    schedule: Literal["poly", "cosine"] = "poly"
    """decay of the learning rate after warm-up"""
    power: float = 0.9
    """exponent of the poly schedule"""
    warmup_steps: int = 100
    """linear warm-up, in steps; at most a tenth of the run"""
    clip_norm: float = 1.0
    """largest gradient norm, 0 for no clipping"""


@dataclass
class TrainingConfig:
    """How long, in which precision, on what."""

    epochs: float | None = None
    """length of the run in passes over the training pictures"""
    steps: int | None = None
    """length of the run in optimiser steps"""
    minutes: float | None = None
    """length of the run in wall-clock minutes: a few steps are timed first, and the step count is fixed from them"""
    seed: int = 0
    """of weights, order and augmentation"""
    deterministic: bool = True
    """use deterministic algorithms where torch has them"""
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    """auto: 16-mixed or bf16-mixed on GPUs; on CPU bf16-mixed only where a timing shows it to be faster"""
    channels_last: bool = True
    """memory layout: much faster convolutions on CPUs and tensor cores"""
    ema_decay: float = 0.999
    """decay per step of the averaged weights that are validated and published, 0 for none"""
    validate_every: float = 1.0
    """epochs between validations"""
    save_every: int = 100
    """steps between resume checkpoints"""
    accelerator: str = "auto"
    """cpu, gpu, mps or auto"""
    devices: int = 1
    """processes (one per device)"""


@dataclass
class EvaluationConfig:
    """How predictions are made in validation, `evaluate` and `predict`."""

    window: list[int] | None = None
    """sliding window, height and width in pixels; none: whole pictures.  Of refiners: multiples of their patch"""
    stride: list[int] | None = None
    """step of the sliding window in pixels; none: two thirds of the window, of refiners three quarters"""
    scales: list[float] = field(default_factory=lambda: [1.0])
    """picture scales whose predictions are averaged"""
    flip: bool = False
    """average with the prediction of the mirrored picture"""
    shifts: bool = False
    """refiners: average over grids of patches moved by half a patch"""
    focus: float | None = None
    """FoR-Net: share K of the regions that are refined, 0 to 1; none: as trained"""
    adaptive: float | None = None
    """FoR-Net: the fewest regions with this share of a picture's importance, above 0 to 1; none: as trained"""
    boundary_distances: list[int] = field(default_factory=lambda: [1, 3, 5])
    """distances d of the Boundary IoU in pixels"""


@dataclass
class Recipe:
    """Every number of a run."""

    description: str = ""
    """one line: what the recipe is for"""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionary (JSON and YAML safe)."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """Build from a nested dictionary; missing fields keep their defaults.

        Raises:
            SegfocusError: unknown key (the nearest valid ones are named) or a value of the wrong type.
        """
        check_keys(values)
        parser = _parser()
        try:
            return parser.instantiate(parser.parse_object({"recipe": values})).recipe
        except SegfocusError:
            raise
        except Exception as error:  # jsonargparse's own error class is raised for every wrong value
            raise SegfocusError(_one_line(error)) from error

    def to_yaml(self) -> str:
        """The text of a complete recipe file."""
        return yaml.dump(self.to_dict(), Dumper=_RecipeDumper, sort_keys=False, width=120)


class _RecipeDumper(yaml.SafeDumper):
    """One key a line, lists on one line."""

    def represent_list(self, data: list) -> yaml.Node:
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)


_RecipeDumper.add_representer(list, _RecipeDumper.represent_list)


@functools.cache
def _parser() -> Any:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--recipe", type=Recipe, default=Recipe())
    return parser


def _one_line(error: Exception) -> str:
    return " ".join(str(error).replace("recipe.", "").split())


def recipe_keys() -> list[str]:
    """All dotted keys of a recipe, in order: 'description', 'data.name', ..."""
    keys = ["description"]
    for section in dataclasses.fields(Recipe)[1:]:
        keys += [f"{section.name}.{item.name}" for item in dataclasses.fields(type(getattr(Recipe(), section.name)))]
    return keys


def check_keys(values: dict[str, Any]) -> None:
    """Raise a SegfocusError that names the nearest valid keys when `values` holds a key no recipe has."""
    sections = {item.name for item in dataclasses.fields(Recipe)}
    valid = set(recipe_keys())
    for name, value in values.items():
        if name not in sections:
            raise SegfocusError(f"unknown recipe key '{name}'; {nearest(name, [*sections, *valid])}")
        if name == "description":
            continue
        if not isinstance(value, dict):
            raise SegfocusError(f"recipe section '{name}': expected a mapping of keys, got {type(value).__name__}")
        for key in value:
            if f"{name}.{key}" not in valid:
                raise SegfocusError(f"unknown recipe key '{name}.{key}'; {nearest(f'{name}.{key}', valid)}")


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package, sorted."""
    folder = resources.files("segfocus") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name_or_file: str | Path) -> Recipe:
    """Read a recipe that comes with the package (by name) or a YAML file (by path).

    Raises:
        SegfocusError: no such recipe (nearest names offered), not readable, not YAML, unknown keys or wrong types.
    """
    path = Path(name_or_file)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise SegfocusError(f"recipe file: expected a YAML file, got {path}, which does not exist")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SegfocusError(f"recipe {path}: expected a readable YAML file, got {_one_line(error)}") from error
    elif str(name_or_file) in recipe_names():
        text = (resources.files("segfocus") / "recipes" / f"{name_or_file}.yaml").read_text(encoding="utf-8")
    else:
        raise SegfocusError(f"unknown recipe '{name_or_file}'; {nearest(str(name_or_file), recipe_names())}")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SegfocusError(f"recipe {name_or_file}: expected YAML, got {_one_line(error)}") from error
    if not isinstance(values, dict):
        raise SegfocusError(f"recipe {name_or_file}: expected a mapping of keys, got {type(values).__name__}")
    return Recipe.from_dict(values)

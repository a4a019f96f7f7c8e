"""Finding the parameters of one row of the leaderboard; what is finished is kept and never found again."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.files import write_json
from segfocus.recipe import DataConfig, ModelConfig, Recipe
from segfocus.refinement.entrants import Entrant
from segfocus.refinement.parts import Folders, Part

if TYPE_CHECKING:
    from segfocus.methods.base import Refiner

STEPS = 1000
"""of a training, where neither steps nor minutes are given"""
_MOST_PICTURES = 40
"""by which refiners that try settings one after another choose among them"""
_DONE = "fitted.json"


@dataclass(frozen=True)
class Budget:
    """By what, and how long, rows are fitted."""

    part: Part
    folder: Path
    """of the runs: one folder a row"""
    classes_file: Path
    """the classes of the leaderboard, for the recipes"""
    logits: bool
    steps: int | None
    minutes: float | None
    """of a training, in place of steps"""
    seed: int
    device: str


def fitted(entrant: Entrant, budget: Budget) -> tuple[Path, float | None]:
    """The row's checkpoint, and the seconds it took to find (None: unknown, or none were needed).

    A training that was interrupted goes on where it stopped.

    Raises:
        SegfocusError: what fitting or training raises.
    """
    if entrant.checkpoint is not None:
        return entrant.checkpoint, None
    folder = budget.folder / entrant.name
    checkpoint = folder / "best.safetensors"
    if (folder / _DONE).is_file() and checkpoint.is_file():
        return checkpoint, json.loads((folder / _DONE).read_text(encoding="utf-8"))["seconds"]
    begin = time.monotonic()
    if entrant.fitting == "trained":
        resumed = _train(entrant, budget, folder)
        seconds = None if resumed else time.monotonic() - begin
    else:
        _count(entrant, budget, checkpoint)
        seconds = time.monotonic() - begin if entrant.fitting == "counted" else None
    write_json(folder / _DONE, {"seconds": seconds})
    return checkpoint, seconds


def _train(entrant: Entrant, budget: Budget, folder: Path) -> bool:
    """Train the row, or go on training it; whether it went on."""
    from segfocus.training.run import train

    if (folder / "recipe.yaml").is_file():
        train(out=folder, resume=True)
        return True
    train(training_recipe(entrant, budget), folder)
    return False


def training_recipe(entrant: Entrant, budget: Budget) -> Recipe:
    """The recipe of a row that is trained: the packaged one with the leaderboard's files, classes and budget."""
    from segfocus.refinement.recipes import batch_for, row_recipe

    assert entrant.method is not None
    folders = budget.part.linked(budget.folder.parent / "fit")
    images = None if folders.images is None else str(folders.images)
    steps = budget.steps or STEPS
    recipe = row_recipe(entrant.method, str(folders.maps), str(folders.masks), images, steps, budget.seed)
    batch = batch_for(recipe.data.batch_size, budget.part.classes.num_classes)
    recipe.data = dataclasses.replace(
        recipe.data, classes=str(budget.classes_file), logits=budget.logits, batch_size=batch
    )
    recipe.model = dataclasses.replace(recipe.model, options={**recipe.model.options, **entrant.options})
    if budget.minutes is not None:
        recipe.training = dataclasses.replace(recipe.training, steps=None, epochs=None, minutes=budget.minutes)
    if budget.device != "auto":
        accelerator = {"cuda": "gpu"}.get(budget.device.partition(":")[0], budget.device)
        recipe.training = dataclasses.replace(recipe.training, accelerator=accelerator)
    return recipe


def _count(entrant: Entrant, budget: Budget, checkpoint: Path) -> None:
    """Fit a row that counts, and write it as a checkpoint, as those that have nothing to find."""
    from segfocus.checkpoint import save

    assert entrant.method is not None
    recipe = Recipe(
        description=f"{entrant.title}, fitted by segfocus refine compare",
        data=_data(budget.part.folders, budget),
        model=ModelConfig(method=entrant.method, pretrained=False, options=dict(entrant.options)),
    )
    model = built(recipe.model, budget.part.classes)
    if entrant.fitting == "counted":
        if not len(budget.part):
            raise SegfocusError(f"{entrant.name}: expected pictures to fit by, got none; try --fit-maps")
        model.fit(budget.part.pairs(_MOST_PICTURES if entrant.reads_picture else None))
    save(checkpoint, model, recipe, budget.part.classes)


def built(config: ModelConfig, classes: Classes) -> Refiner:
    """A refiner with no parameters found yet."""
    from segfocus.methods import build
    from segfocus.methods.base import Refiner

    model = build(config, classes.num_classes, fetch=False)
    assert isinstance(model, Refiner)
    return model


def _data(folders: Folders, budget: Budget) -> DataConfig:
    maps, masks, images = (None if folder is None else str(folder) for folder in folders)
    return DataConfig(
        name="maps", maps=maps, masks=masks, images=images, logits=budget.logits, classes=str(budget.classes_file)
    )

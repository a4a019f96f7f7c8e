"""A training run, readable top to bottom."""

from __future__ import annotations

import copy
import dataclasses
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from segfocus.errors import SegfocusError
from segfocus.files import write_json, write_text
from segfocus.inference.focus import check_focus
from segfocus.recipe import Recipe, load_recipe
from segfocus.training.checks import check, check_pictures, check_windows
from segfocus.training.evaluation import evaluate as evaluate
from segfocus.training.folders import create_folder, existing_run, follower_folder, new_folder, told
from segfocus.training.start import start_from
from segfocus.training.state import RESUME, Plan, Progress, load_state, make_plan
from segfocus.training.surroundings import end_others, interruptible, own_process, surroundings

if TYPE_CHECKING:
    import lightning as L

    from segfocus.methods.base import Method


# lightning takes seconds to import and only training needs it: it is imported inside the functions below


def train(
    recipe: Recipe | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    name: str | None = None,
) -> Path:
    """Train a recipe and return the run's folder.

    The folder gets recipe.yaml (resolved: concrete steps, precision and class weights), environment.json, metrics.csv,
    best.safetensors (highest validation mIoU) and last.safetensors, resume.ckpt, panels/ and, when TensorBoard is
    installed, tensorboard/.

    Args:
        recipe: what to train; not needed with `resume`, which reads the folder's own.
        out: run folder; default runs/NAME-YYYYMMDD-HHMMSS, never one that exists.
        resume: go on with the run in `out` where its newest resume.ckpt stands.
        overwrite: replace the run in `out`.
        name: NAME of the default folder; default method-dataset.

    Raises:
        SegfocusError: anything a user can mend, in one line.  Recipe, files, masks and devices are checked before
            anything is written; what shows only later (a full disk, a picture cut off behind its head, a loss that is
            not finite) ends a run that can be resumed.
        KeyboardInterrupt: Ctrl-C; the state is saved and the message says how to resume.
    """
    begin = time.monotonic()
    follower = follower_folder()
    if follower is not None:
        return _fit(follower, load_recipe(follower / "recipe.yaml"), resume)
    if resume:
        folder = existing_run(out)
        recipe = load_recipe(folder / "recipe.yaml")
        check(recipe)
        return _fit(folder, recipe, resume)
    if recipe is None:
        raise SegfocusError("train: expected a recipe, got none; try segfocus.load_recipe('fornet-synthetic')")
    folder = new_folder(recipe, out, overwrite, name)
    with surroundings(recipe):
        resolved, environment = _resolve(recipe, begin)
    folder = create_folder(folder, out is not None, overwrite)
    write_json(folder / "environment.json", environment)
    write_text(folder / "recipe.yaml", resolved.to_yaml())
    return _fit(folder, resolved, resume=False)


def class_weights(pixel_counts: Any) -> list[float]:
    """Weights of the classes from their pixels [classes] in the training masks.

    Square root of median-frequency balancing: sqrt(median share / share of the class), between 0.1 and 10, where the
    median is taken over the classes that occur; 0 for a class that never occurs.

    Raises:
        SegfocusError: no pixel is labelled.
    """
    counts = np.asarray(pixel_counts, np.float64)
    present = counts > 0
    if not present.any():
        raise SegfocusError("model.class_weights masks: expected labelled pixels, got only ignored ones; try none")
    weights = np.zeros(len(counts))
    weights[present] = np.sqrt(np.median(counts[present]) / counts[present]).clip(0.1, 10)
    return [round(float(weight), 4) for weight in weights]


# ---------------------------------------------------------------------------------------------- before the first step


def _resolve(recipe: Recipe, begin: float) -> tuple[Recipe, dict[str, Any]]:
    """The recipe with concrete class weights, precision and steps, and the environment it was resolved in."""
    from segfocus.training.environment import describe_environment
    from segfocus.training.timing import choose_precision, steps_for_budget

    recipe = copy.deepcopy(recipe)
    check(recipe)
    environment = describe_environment(recipe.training.seed)
    data = _open_data(recipe)
    counts = check_pictures(data.train_dataset)
    check_pictures(data.val_dataset)
    if recipe.model.class_weights == "masks":
        recipe.model.class_weights = class_weights(data.train_dataset.pixel_counts() if counts is None else counts)
    model = _build_model(recipe, data.classes.num_classes)
    device = _device(recipe)
    if recipe.training.precision == "16-mixed" and device.type == "cpu":
        raise SegfocusError("training.precision: expected 32-true or bf16-mixed on CPU, got 16-mixed; try auto")
    if recipe.training.precision == "auto":
        precision, environment["precision_timing"] = choose_precision(model, data, recipe, device)
        recipe.training = dataclasses.replace(recipe.training, precision=precision)
    with own_process():  # Lightning refuses too many devices and unfit precisions
        _trainer(Path(), recipe, make_plan(1, 1.0, 1.0, 1), [], logger=False)
    steps = recipe.training.steps
    if recipe.training.epochs is not None:
        steps = max(1, round(recipe.training.epochs * _steps_per_epoch(recipe, data)))
    elif recipe.training.minutes is not None:
        left = 60 * recipe.training.minutes - (time.monotonic() - begin)
        steps, measured = steps_for_budget(model, data, recipe, device, left)
        environment["budget"] = {"minutes": recipe.training.minutes, "steps": steps, **measured}
    recipe.training = dataclasses.replace(recipe.training, steps=steps, epochs=None, minutes=None)
    return recipe, environment


def _open_data(recipe: Recipe) -> Any:
    from segfocus.data.module import SegmentationData

    data = SegmentationData(recipe.data, seed=recipe.training.seed)
    data.setup("fit")
    return data


def _build_model(recipe: Recipe, num_classes: int, fetch: bool = True) -> Method:
    from segfocus.methods import build

    weights = recipe.model.class_weights
    if isinstance(weights, list) and len(weights) != num_classes:
        raise SegfocusError(f"model.class_weights: expected {num_classes} values, got {len(weights)}")
    torch.manual_seed(recipe.training.seed)
    weights = weights if isinstance(weights, list) else None
    model = build(recipe.model, num_classes, class_weights=weights, fetch=fetch)
    check_windows(recipe, model)
    check_focus(model, recipe.evaluation.focus, recipe.evaluation.adaptive)
    if fetch and recipe.model.start is not None:
        logging.getLogger("segfocus").info(start_from(model, recipe.model.start))
    if recipe.training.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model


def _steps_per_epoch(recipe: Recipe, data: Any) -> float:
    return len(data.train_dataset) / recipe.data.batch_size


def _device(recipe: Recipe) -> torch.device:
    """The device that Lightning will give the first process."""
    wanted = recipe.training.accelerator
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    names = {"gpu": ["cuda", "mps"], "auto": ["cuda", "mps", "cpu"]}.get(wanted, [wanted])
    for name in names:
        if available.get(name):
            return torch.device(name)
    raise SegfocusError(
        f"training.accelerator: expected one of auto, {', '.join(key for key, here in available.items() if here)} on "
        f"this machine, got {wanted}; try cpu"
    )


# -------------------------------------------------------------------------------------------------------- the fitting


def _fit(folder: Path, recipe: Recipe, resume: bool) -> Path:
    """Train from step 0 or from the folder's resume state to the recipe's last step."""
    import lightning as L

    from segfocus.training import callbacks
    from segfocus.training.task import SegmentationTask

    assert recipe.training.steps is not None
    L.seed_everything(recipe.training.seed, workers=True, verbose=False)
    state = _load_state(folder) if resume else None
    progress = Progress(**state["progress"]) if state else Progress()
    total = recipe.training.steps
    data = _open_data(recipe)
    plan = make_plan(total, recipe.training.validate_every, _steps_per_epoch(recipe, data), recipe.training.save_every)
    data.start_step, data.total_steps = progress.step, total
    # of a resumed run all weights come from its state: nothing is fetched again
    model = _build_model(recipe, data.classes.num_classes, fetch=state is None)
    task = SegmentationTask(model, recipe, data.classes, total, progress.step)
    if state:
        _restore(task, state)
    recorder = callbacks.Recorder(folder, progress, plan)
    leader = int(os.environ.get("LOCAL_RANK", 0)) == 0
    with surroundings(recipe), own_process(), interruptible(recorder.stop, leader), told(folder):
        trainer = _trainer(folder, recipe, plan, [recorder, callbacks.Bar(progress, total)], _loggers(folder))
        if state:
            trainer.precision_plugin.load_state_dict(state["precision"])
        try:
            if plan.validates(progress.step) and progress.validated < progress.step:
                trainer.validate(task, datamodule=data, verbose=False)
            if progress.step < total:
                _count_from(trainer, progress, plan)
                trainer.fit(task, datamodule=data)
        except (callbacks.Interrupted, KeyboardInterrupt, SystemExit) as error:
            end_others(trainer)
            if isinstance(error, SystemExit) and not recorder.stop.is_set():
                raise
            raise KeyboardInterrupt(
                f"stopped after step {progress.step} of {total}; go on with: segfocus train --resume {folder}"
            ) from None
        except BaseException:
            end_others(trainer)  # they wait for this process in vain
            raise
    return folder


def _trainer(folder: Path, recipe: Recipe, plan: Plan, callbacks: list[L.Callback], logger: Any) -> L.Trainer:
    import lightning as L
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    training = recipe.training
    try:
        return L.Trainer(
            accelerator=training.accelerator,
            devices=training.devices,
            strategy="auto" if training.devices == 1 else "ddp",
            precision=training.precision,  # type: ignore[arg-type]
            max_steps=plan.total_steps,
            max_epochs=-1,  # the loader hands out the whole run in one pass
            val_check_interval=plan.validate_every,
            check_val_every_n_epoch=None,
            gradient_clip_val=recipe.optimizer.clip_norm or None,
            use_distributed_sampler=False,  # the data module shares pictures between processes without repeating any
            num_sanity_val_steps=0,
            inference_mode=False,
            logger=logger,
            callbacks=callbacks,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            log_every_n_steps=1,
            default_root_dir=folder,
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise SegfocusError(
            "training: expected devices, accelerator and precision that this machine has, got: "
            f"{' '.join(str(error).split())}; try --training.devices 1"
        ) from error


def _loggers(folder: Path) -> Any:
    from segfocus.training.tensorboard import Board

    try:
        return Board(folder, name="tensorboard", version="")
    except ModuleNotFoundError:  # TensorBoard is an extra; metrics.csv is written in any case
        return False


def _load_state(folder: Path) -> dict[str, Any] | None:
    # a run that was killed before its first save starts from its recipe
    return load_state(folder / RESUME) if (folder / RESUME).is_file() else None


def _restore(task: Any, state: dict[str, Any]) -> None:
    task.model.load_state_dict(state["model"])
    if task.average and state["average"] is not None:
        task.average.model.load_state_dict(state["average"])
    task.optimizer_state = state["optimizer"]


def _count_from(trainer: L.Trainer, progress: Progress, plan: Plan) -> None:
    """Set the counters by which Lightning knows when to stop and when to validate."""
    loop = trainer.fit_loop.epoch_loop
    loop.batch_progress.total.ready = progress.step + plan.offset
    loop.automatic_optimization.optim_progress.optimizer.step.total.completed = progress.step

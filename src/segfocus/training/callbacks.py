"""What a run writes while it trains: metrics, checkpoints, resume state, panels; and how Ctrl-C ends it."""

from __future__ import annotations

import math
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from segfocus import checkpoint
from segfocus.errors import SegfocusError
from segfocus.files import write_atomically
from segfocus.training.metrics_file import MetricsFile, score_columns
from segfocus.training.state import RESUME, Plan, Progress, load_state, save_state, write_state
from segfocus.training.task import SegmentationTask


class Interrupted(Exception):
    """Ctrl-C arrived; everything up to the last finished step is saved."""


class Recorder(L.Callback):
    """Writes metrics.csv (and TensorBoard), best, last and resume checkpoints and panels; the first process only.

    Under several processes the logged losses are those of the first one's share of each batch.
    """

    def __init__(self, folder: Path, progress: Progress, plan: Plan) -> None:
        self.folder = folder
        self.progress = progress
        self.plan = plan
        self.metrics = MetricsFile(folder / "metrics.csv")
        self.stop = threading.Event()
        """set by Ctrl-C"""
        self._inside_step = False
        self._clock = time.monotonic()
        self._waiting: list[tuple[dict[str, float], dict[str, Tensor]]] = []
        self._pictures: list[tuple[str, np.ndarray]] = []

    def on_fit_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        self._clock = time.monotonic()

    def on_train_batch_start(self, trainer: L.Trainer, task: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self._inside_step = True

    def on_train_batch_end(
        self, trainer: L.Trainer, task: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(task, SegmentationTask)
        self._inside_step = False
        self.progress.step = task.step
        if not trainer.is_global_zero:
            return
        self._tick()
        where = {
            "step": task.step,
            "epoch": round(task.step / self.plan.steps_per_epoch, 4),
            "minutes": round(self.progress.minutes, 4),
            "learning_rate": max(group["lr"] for group in trainer.optimizers[0].param_groups),
        }
        self._waiting.append((where, task.terms))
        # reading a value stalls a GPU until the step is done, so there the rows of several steps are written at once
        if task.device.type == "cpu" or len(self._waiting) >= 20:
            self._write_steps(task)
        if self.stop.is_set():
            self._save_state(task)
            raise Interrupted
        # at a validation's step the state is saved behind the validation, so that a kill between the two repeats it
        if task.step % self.plan.save_every == 0 and not self.plan.validates(task.step):
            self._save_state(task)

    def on_validation_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        self._pictures = []

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        task: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert isinstance(task, SegmentationTask)
        if not trainer.is_global_zero:
            return
        batches = int(trainer.num_val_batches[0])
        if batch_idx in {batches * part // _PANEL_PICTURES for part in range(_PANEL_PICTURES)}:
            for index in range(min(len(batch["name"]), max(1, _PANEL_PICTURES // batches))):
                self._pictures += panel_row(task, batch, outputs, index)
        if self.stop.is_set():
            self._save_state(task)
            raise Interrupted

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        assert isinstance(task, SegmentationTask)
        progress, scores = self.progress, task.val_scores
        progress.step = progress.validated = task.step
        progress.scores = scores
        miou = -1.0 if scores["miou"] is None else scores["miou"]
        better = miou > progress.best
        if better:
            progress.best, progress.best_step = miou, task.step
        if not trainer.is_global_zero:
            return
        self._tick()
        self._write_steps(task)
        self._write(task, {"step": task.step, "minutes": round(progress.minutes, 4), **score_columns(scores)})
        described = {**scores, "step": task.step, "epoch": round(task.step / self.plan.steps_per_epoch, 4)}
        for name in ("best", "last") if better else ("last",):
            checkpoint.save(self.folder / f"{name}.safetensors", task.evaluated, task.recipe, task.classes, described)
        self._save_panel(task)
        self._save_state(task)

    def on_exception(self, trainer: L.Trainer, task: L.LightningModule, exception: BaseException) -> None:
        assert isinstance(task, SegmentationTask)
        # between two steps weights, averages and optimiser belong together; inside one they may not
        expected = isinstance(exception, Interrupted | SegfocusError)
        if trainer.is_global_zero and trainer.optimizers and not self._inside_step and not expected:
            self._save_state(task)

    def _tick(self) -> None:
        now = time.monotonic()
        self.progress.minutes += (now - self._clock) / 60
        self._clock = now

    def _write_steps(self, task: SegmentationTask) -> None:
        waiting, self._waiting = self._waiting, []
        for where, terms in waiting:
            values = {name: float(term) for name, term in terms.items()}
            self._write(task, {**where, **values})
            if not math.isfinite(values["loss"]):
                raise SegfocusError(
                    f"training: expected a finite loss, got {values['loss']} at step {where['step']:.0f}; try a lower "
                    "optimizer.learning_rate, optimizer.clip_norm 1 or training.precision 32-true"
                )

    def _write(self, task: SegmentationTask, row: dict[str, Any]) -> None:
        self.metrics.write(row)
        numbers = {key: value for key, value in row.items() if key not in ("step", "minutes") and value is not None}
        for logger in task.trainer.loggers:
            logger.log_metrics(numbers, step=int(row["step"]))

    def _save_state(self, task: SegmentationTask) -> None:
        self._write_steps(task)
        path = self.folder / RESUME
        if task.trainer.optimizers:
            save_state(path, task, self.progress)
        else:  # a validation that a resume makes up for, before training goes on: only the progress is new
            state = {**load_state(path), "progress": asdict(self.progress)}
            write_state(path, state)

    def _save_panel(self, task: SegmentationTask) -> None:
        if not self._pictures:
            return
        from PIL import Image

        from segfocus.viz import panel

        rows = sum(title == "prediction" for title, _ in self._pictures)
        image = panel(self._pictures, columns=len(self._pictures) // rows)
        with write_atomically(self.folder / "panels" / f"step_{task.step:07d}.png") as temporary:
            Image.fromarray(image).save(temporary)
        self._pictures = []


_PANEL_PICTURES = 4  # rows of a panel: validation pictures, evenly spread


def panel_row(task: SegmentationTask, batch: Any, outputs: Any, index: int) -> list[tuple[str, np.ndarray]]:
    """One row of a panel: a picture of the batch, truth, prediction and, where the method has one, importance."""
    from segfocus.viz import color_map, heat_map, outline

    picture = (batch["image"][index].permute(1, 2, 0).cpu().numpy() * 255).round().clip(0, 255).astype(np.uint8)
    picture = np.ascontiguousarray(picture)
    items = [
        (str(batch["name"][index]), picture),
        ("truth", color_map(batch["target"][index].to("cpu", torch.uint8).numpy(), task.classes)),
        ("prediction", color_map(outputs["labels"][index].cpu().numpy(), task.classes)),
    ]
    if outputs["importance"] is not None:
        image = heat_map(outputs["importance"][index, 0].float().cpu().numpy(), picture=picture)
        if outputs["selected"] is not None:
            image = outline(image, outputs["selected"][index, 0].cpu().numpy())
        items.append(("importance", image))
    return items


class Bar(L.Callback):
    """Progress bar over the whole run: step, loss, validation mIoU.  On a log file: one line a minute."""

    def __init__(self, progress: Progress, total_steps: int) -> None:
        self.progress = progress
        self.total_steps = total_steps
        self._bar: Any = None
        self._loss = math.nan

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        from tqdm import tqdm

        if trainer.is_global_zero:
            pause = 0.5 if sys.stderr.isatty() else 60.0
            self._bar = tqdm(
                total=self.total_steps, initial=self.progress.step, desc="train", unit="step", mininterval=pause
            )

    def on_train_batch_end(
        self, trainer: L.Trainer, task: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(task, SegmentationTask)
        if self._bar is None:
            return
        if task.step % 10 == 0 or math.isnan(self._loss):  # reading the loss stalls a GPU
            self._loss = float(task.terms["loss"])
        shown = {"loss": f"{self._loss:.3f}"}
        if self.progress.best_step:
            last = self.progress.scores.get("miou")
            shown |= {"mIoU": "-" if last is None else f"{last:.3f}", "best": f"{self.progress.best:.3f}"}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def on_train_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, task: L.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

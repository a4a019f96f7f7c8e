"""SegmentationTask: one step, one validation batch, logs.  Everything else about a run lives elsewhere."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from segfocus.data.classes import Classes
from segfocus.metrics.torch_metrics import SegmentationScores
from segfocus.recipe import Recipe
from segfocus.training.optim import build_optimizer, learning_rate_factor, set_learning_rate
from segfocus.training.prediction import forward, in_layout, predict

if TYPE_CHECKING:
    from segfocus.methods.base import Method


class SegmentationTask(L.LightningModule):
    """Trains `model` on the sum of its loss terms; validates the averaged weights in float32.

    `step` counts finished optimiser steps of the whole run, also after a resume.
    """

    # a process may get no validation picture when there are more processes than pictures
    allow_zero_length_dataloader_with_multiple_devices = True

    def __init__(self, model: Method, recipe: Recipe, classes: Classes, total_steps: int, step: int = 0) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.classes = classes
        self.total_steps = total_steps
        self.step = step
        self.terms: dict[str, Tensor] = {}
        """loss terms of the newest step, with their sum as 'loss'"""
        self.scores = SegmentationScores(classes, recipe.evaluation.boundary_distances)
        self.val_scores: dict[str, Any] = {}
        """of the newest validation"""
        self.optimizer_state: dict[str, Any] | None = None
        """set by a resume; loaded when training starts"""
        decay = recipe.training.ema_decay
        self.average = WeightAverage(model, decay) if decay else None

    @property
    def evaluated(self) -> Method:
        """The network that is validated and published: the averaged weights, or the trained ones without averaging."""
        return self.average.model if self.average else self.model

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # Lightning's gradient scaler cannot clip the gradients of a fused optimiser
        fused = self.device.type in ("cpu", "cuda") and self.recipe.training.precision != "16-mixed"
        return build_optimizer(self.model, self.recipe.optimizer, fused=fused)

    def on_train_start(self) -> None:
        self._place_average()
        if self.optimizer_state is not None:
            self.trainer.optimizers[0].load_state_dict(self.optimizer_state)
            self.optimizer_state = None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # randomness and learning rate are functions of the step, so that a resumed run repeats an uninterrupted one
        torch.manual_seed(step_seed(self.recipe.training.seed, self.step, self.global_rank))
        factor = learning_rate_factor(self.step, self.total_steps, self.recipe.optimizer)
        set_learning_rate(self.trainer.optimizers[0], factor)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        output = forward(self.model, self._in_layout(batch))
        terms = self.model.loss(output, batch["target"])
        loss = torch.stack([term.float() for term in terms.values()]).sum()
        self.terms = {"loss": loss.detach(), **{f"loss_{name}": term.detach() for name, term in terms.items()}}
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average:
            self.average.update(self.model, self.step)
        self.step += 1

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        # Lightning's own refuses fused optimisers under bf16-mixed, although only a gradient scaler would be in the way
        if gradient_clip_val:
            nn.utils.clip_grad_norm_(self.model.parameters(), gradient_clip_val)

    def on_validation_start(self) -> None:
        self._place_average()
        self.scores.reset()
        if self.trainer.world_size > 1:
            # batch statistics differ between processes: all validate what the first one publishes
            for tensor in self.evaluated.state_dict().values():
                torch.distributed.broadcast(tensor, 0)

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor | None]:
        with torch.autocast(self.device.type, enabled=False):
            labels, output = predict(self.evaluated, self._in_layout(batch), self.recipe)
        labels = labels.to(torch.uint8)
        self.scores.update(labels, batch["target"])
        return {
            "labels": labels,
            "importance": output.importance if output else None,
            "selected": output.selected if output else None,
        }

    def on_validation_epoch_end(self) -> None:
        self.val_scores = self.scores.compute()
        self.scores.reset()

    def _in_layout(self, batch: Any) -> Any:
        return in_layout(batch, self.recipe.training.channels_last)

    def _place_average(self) -> None:
        if self.average:
            self.average.model.to(self.device)


class WeightAverage:
    """Exponential average of a network's weights; buffers (batch statistics) are copied.

    The decay grows with the step, min(decay, (1 + step) / (10 + step)), so that a short run is not ruled by its start.
    Not a module: nothing of it is trained or synchronised between processes.
    """

    def __init__(self, model: Method, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, model: Method, step: int) -> None:
        """Take in the weights after step number `step` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for averaged, current in zip(self.model.parameters(), model.parameters(), strict=True):
            averaged.lerp_(current, 1 - decay)
        for averaged, current in zip(self.model.buffers(), model.buffers(), strict=True):
            averaged.copy_(current)


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """Seed of everything random in one step of one process."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])

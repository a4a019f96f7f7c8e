"""Timing of a run before it starts: which precision is faster on this CPU, and how many steps fit a time budget."""

from __future__ import annotations

import contextlib
import copy
import math
import statistics
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from segfocus.errors import SegfocusError
from segfocus.metrics.scores import Counts
from segfocus.recipe import Recipe
from segfocus.training.optim import build_optimizer
from segfocus.training.prediction import forward, in_layout, predict

if TYPE_CHECKING:
    from segfocus.data.module import SegmentationData
    from segfocus.methods.base import Method

NEEDED_GAIN = 1.1
"""bf16 must be this many times as fast as fp32 on a CPU to be chosen"""
_RESERVE = 0.02  # of a budget, for logs, checkpoints and start-up


def choose_precision(
    model: Method, data: SegmentationData, recipe: Recipe, device: torch.device
) -> tuple[str, dict[str, Any]]:
    """('32-true' | 'bf16-mixed' | '16-mixed', what was measured).

    CUDA: bf16-mixed where the card computes it, else 16-mixed.  CPU: a few alternating training steps of this network
    on this data's own crops and batch size, in both precisions.  Elsewhere: 32-true.
    """
    if device.type == "cuda":
        return ("bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"), {}
    if device.type != "cpu":
        return "32-true", {}
    batch = default_collate([data.train_dataset[0, index] for index in _first(data, recipe)])
    seconds: dict[str, list[float]] = {"32-true": [], "bf16-mixed": []}
    steppers = {name: _Stepper(model, recipe, device, name) for name in seconds}
    for repeat in range(5):
        for name, stepper in steppers.items():
            start = time.perf_counter()
            stepper.step(batch)
            if repeat:  # the first step allocates and picks kernels
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    chosen = "bf16-mixed" if medians["32-true"] >= NEEDED_GAIN * medians["bf16-mixed"] else "32-true"
    return chosen, {"seconds_per_step": {name: round(value, 5) for name, value in medians.items()}}


def steps_for_budget(
    model: Method, data: SegmentationData, recipe: Recipe, device: torch.device, seconds: float
) -> tuple[int, dict[str, Any]]:
    """(steps that fit into `seconds` including their validations, what was measured).

    Steps run through the data's own loader after its queue has been emptied once, so that a loader slower than the
    network counts.  The timing itself is part of the budget.
    """
    begin = time.perf_counter()
    step = _seconds_per_step(model, data, recipe, device, longest=min(40.0, 0.02 * seconds))
    validation = _seconds_per_validation(model, data, recipe, device)
    left = (seconds - (time.perf_counter() - begin)) * (1 - _RESERVE)
    between = recipe.training.validate_every * len(data.train_dataset) / recipe.data.batch_size
    # the last validation, which every run makes, is outside of the division
    steps = math.floor((left - validation) / (step + validation / max(1.0, between)))
    measured = {"seconds_per_step": round(step, 5), "seconds_per_validation": round(validation, 3)}
    if steps < 1:
        raise SegfocusError(
            f"training.minutes: expected time for at least one step ({step:.2f} s) and one validation "
            f"({validation:.1f} s), got {seconds / 60:g} minutes; try a longer budget"
        )
    return steps, measured


class _Stepper:
    """Training steps on a copy of the network: the run's own weights and statistics stay untouched."""

    def __init__(self, model: Method, recipe: Recipe, device: torch.device, precision: str) -> None:
        self.model = copy.deepcopy(model).to(device).train()
        self.device = device
        self.precision = precision
        self.recipe = recipe
        self.optimizer = build_optimizer(self.model, recipe.optimizer, fused=device.type in ("cpu", "cuda"))

    def step(self, batch: dict[str, Any]) -> None:
        batch = {key: value.to(self.device) for key, value in batch.items() if isinstance(value, Tensor)}
        batch = in_layout(batch, self.recipe.training.channels_last)
        self.optimizer.zero_grad()
        with autocast(self.device, self.precision):
            terms = self.model.loss(forward(self.model, batch), batch["target"])
        torch.stack([term.float() for term in terms.values()]).sum().backward()
        if self.recipe.optimizer.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.clip_norm)
        self.optimizer.step()
        _wait(self.device)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """The context that Lightning's precision of that name runs a step in."""
    dtypes = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    if precision not in dtypes:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtypes[precision])


def _first(data: SegmentationData, recipe: Recipe) -> list[int]:
    share = max(1, recipe.data.batch_size // recipe.training.devices)
    return [index % len(data.train_dataset) for index in range(share)]


def _seconds_per_step(
    model: Method, data: SegmentationData, recipe: Recipe, device: torch.device, longest: float
) -> float:
    stepper = _Stepper(model, recipe, device, recipe.training.precision)
    share = len(_first(data, recipe))
    queue = 2 * recipe.data.workers + 2  # batches that lie ready after start-up and would flatter the loader
    with _threads(recipe.training.devices, device), _short_run(data, steps=queue + 200) as batches:
        for _ in range(queue):
            stepper.step(_part(next(batches), share))
        begin, count = time.perf_counter(), 0
        while count < 3 or (time.perf_counter() - begin < longest and count < 200):
            stepper.step(_part(next(batches), share))
            count += 1
        return (time.perf_counter() - begin) / count


def _seconds_per_validation(model: Method, data: SegmentationData, recipe: Recipe, device: torch.device) -> float:
    """Read, predict and score a few pictures one by one, scaled to all of them and shared by the processes."""
    network = copy.deepcopy(model).to(device).eval()
    counts = Counts(data.classes.num_classes, recipe.evaluation.boundary_distances)
    total = len(data.val_dataset)
    seconds = []
    with torch.no_grad():
        for index in range(min(4, total)):
            begin = time.perf_counter()
            sample = data.val_dataset[index]
            batch = {key: value[None].to(device) for key, value in dict(sample).items() if isinstance(value, Tensor)}
            labels, _ = predict(network, in_layout(batch, recipe.training.channels_last), recipe)
            counts.update(sample["target"].to(torch.uint8).numpy(), labels[0].to("cpu", torch.uint8).numpy())
            seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds) * math.ceil(total / recipe.training.devices) if seconds else 0.0


@contextlib.contextmanager
def _short_run(data: SegmentationData, steps: int) -> Iterator[Iterator[dict[str, Any]]]:
    """Batches of a run of so many steps; the data module's own plan comes back afterwards."""
    plan = data.start_step, data.total_steps
    data.start_step, data.total_steps = 0, steps
    batches = iter(data.train_dataloader())
    try:
        yield batches
    finally:
        del batches  # ends the loader's processes
        data.start_step, data.total_steps = plan


@contextlib.contextmanager
def _threads(devices: int, device: torch.device) -> Iterator[None]:
    """One process's share of the CPU's threads, as several processes will have."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(max(1, before // devices))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _part(batch: dict[str, Any], share: int) -> dict[str, Tensor]:
    return {key: value[:share] for key, value in batch.items() if isinstance(value, Tensor)}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

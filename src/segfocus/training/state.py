"""Where a run stands and what lies ahead: progress, resume state, plan."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from segfocus.errors import SegfocusError
from segfocus.files import write_bytes

if TYPE_CHECKING:
    from segfocus.training.task import SegmentationTask

RESUME = "resume.ckpt"


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    """finished optimiser steps"""
    validated: int = 0
    """step of the newest validation"""
    best: float = -1.0
    """highest validation mIoU so far"""
    best_step: int = 0
    minutes: float = 0.0
    """wall-clock minutes of training, over all resumes"""
    scores: dict[str, Any] = field(default_factory=dict)
    """of the newest validation"""


def save_state(path: Path, task: SegmentationTask, progress: Progress) -> None:
    """Write everything a resume needs: plain values and tensors only, so that `weights_only` loading reads it."""
    trainer = task.trainer
    state = {
        "progress": asdict(progress),
        "model": task.model.state_dict(),
        "average": task.average.model.state_dict() if task.average else None,
        "optimizer": trainer.optimizers[0].state_dict(),
        "precision": trainer.precision_plugin.state_dict(),
    }
    write_state(path, state)


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write a resume state.

    Raises:
        SegfocusError: the file cannot be written.
    """
    content = io.BytesIO()  # in memory first: torch has an error of its own for a full disk
    torch.save(state, content)
    write_bytes(path, content.getbuffer())


def load_state(path: Path) -> dict[str, Any]:
    """Read `save_state`'s file; never unpickles anything but tensors and plain values.

    Raises:
        SegfocusError: missing or damaged.
    """
    if not path.is_file():
        raise SegfocusError(f"resume: expected {path}, which does not exist; try training anew into another folder")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise SegfocusError(f"resume: expected a state written by segfocus, got a damaged {path}: {error}") from error


@dataclass(frozen=True)
class Plan:
    """When a run validates and saves.  Validations lie evenly and the last one falls on the last step."""

    total_steps: int
    validate_every: int
    save_every: int
    steps_per_epoch: float

    def validates(self, step: int) -> bool:
        """Whether a validation follows step number `step` (counted from 1)."""
        return step > 0 and (self.total_steps - step) % self.validate_every == 0

    @property
    def offset(self) -> int:
        """What a step counter must be ahead for validations to fall on its multiples of `validate_every`."""
        return -self.total_steps % self.validate_every


def make_plan(total_steps: int, validate_every: float, steps_per_epoch: float, save_every: int) -> Plan:
    """Validations about every `validate_every` epochs, evenly spread so that the last one follows the last step."""
    wanted = max(1, round(total_steps / (validate_every * steps_per_epoch)))
    every = -(-total_steps // min(wanted, total_steps))
    return Plan(total_steps, every, max(1, save_every), steps_per_epoch)

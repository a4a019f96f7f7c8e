"""Optimiser, parameter groups and the learning rate as a function of the step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from segfocus.errors import SegfocusError
from segfocus.recipe import OptimizerConfig

# normalisation layers whose weight may have any number of dimensions; one-dimensional weights are found by shape
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Up to four groups: (backbone | rest) x (decayed | not decayed).

    Not decayed: biases, normalisation weights and everything with at most one dimension.  Backbone: every parameter
    below a module attribute called `backbone`.  Each group holds `initial_lr`, which `set_learning_rate` scales.

    Raises:
        SegfocusError: the model has no trainable parameter.
    """
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, _NORMS)
        for parameter in module.parameters(recurse=False)
    }
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decayed = parameter.ndim > 1 and id(parameter) not in norms and not name.endswith("bias")
        groups.setdefault(("backbone" in name.split("."), decayed), []).append(parameter)
    if not groups:
        raise SegfocusError("optimiser: expected trainable parameters, got none; try another backbone or method")
    return [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if decayed else 0.0,
            "initial_lr": config.learning_rate * (config.backbone_factor if backbone else 1.0),
            "lr": config.learning_rate * (config.backbone_factor if backbone else 1.0),
        }
        for (backbone, decayed), parameters in groups.items()
    ]


def build_optimizer(model: nn.Module, config: OptimizerConfig, *, fused: bool = False) -> torch.optim.Optimizer:
    """AdamW or SGD over `parameter_groups`; `fused` uses torch's one-kernel update."""
    groups = parameter_groups(model, config)
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, fused=fused)
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=fused)


def learning_rate_factor(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """Factor in (0, 1] of the peak learning rate at `step` (counted from 0) of a run of `total_steps`.

    Linear warm-up over `warmup_steps`, at most a tenth of the run, then (1 - p)^power (poly) or
    (1 + cos(pi p)) / 2 (cosine) with p in [0, 1) the share of the remaining steps that is done.
    """
    warmup = min(config.warmup_steps, total_steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, total_steps - warmup)
    if config.schedule == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    return (1 - done) ** config.power


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group to `factor` times its `initial_lr`."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor

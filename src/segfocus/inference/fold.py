"""Batch normalisation merged into the convolutions before it, for inference.

In evaluation BatchNorm is a fixed scale and shift of each channel: y = s * conv(x) + t with
s = weight / sqrt(variance + eps) and t = bias - s * mean.  A convolution with the weights s * W and the bias t (plus
s times its own) gives the same in one step: a network in eager mode then reads and writes every such map once less.
"""

from __future__ import annotations

import copy
from collections import Counter
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from segfocus.layers import CellBatchNorm
from segfocus.methods.adapters import SingleValueBatchNorm2d

_NORMS = (nn.BatchNorm2d, CellBatchNorm, SingleValueBatchNorm2d)
"""kinds whose evaluation is the scale and shift and nothing else; some libraries' own kinds end in an activation"""

Network = TypeVar("Network", bound=nn.Module)


def fold_batch_norm(model: Network) -> Network:
    """A copy of `model` in eval mode whose BatchNorms are merged into the convolutions before them.

    Merged is what surely belongs together:
    * an `nn.Conv2d` directly followed by a BatchNorm in an `nn.Sequential`;
    * what a module declares itself in an attribute `sums_before_norm`: {name of a BatchNorm: names of the convolutions,
      or of lists of them, whose outputs are added, bilinearly resized at most, and then normalised}.

    Everything else stays: other kinds of convolution or norm, norms without running statistics, modules that are used
    at several places.  The result equals the original in eval mode up to rounding (1e-5 of the logits' range in
    float32); it is for inference only: its state has other names, and training it has no BatchNorm.

    Args:
        model: stays as it is.
    """
    folded = copy.deepcopy(model).eval()
    uses = Counter(id(child) for parent in folded.modules() for child in parent._modules.values() if child is not None)
    for parent in list(folded.modules()):
        if isinstance(parent, nn.Sequential) and type(parent).forward is nn.Sequential.forward:
            for before, norm in pairwise(parent._modules):
                _fold(parent, norm, [(parent, before)], uses)
        for norm, summed in getattr(parent, "sums_before_norm", {}).items():
            places = [place for name in summed for place in _places(parent, name)]
            _fold(*_place(parent, norm), places, uses)
    return folded


def _place(parent: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds a child of a dotted name, and the child's name there."""
    holder, _, last = name.rpartition(".")
    return parent.get_submodule(holder), last


def _places(parent: nn.Module, name: str) -> list[tuple[nn.Module, str]]:
    holder, last = _place(parent, name)
    child = getattr(holder, last)
    return [(child, each) for each in child._modules] if isinstance(child, nn.ModuleList) else [(holder, last)]


def _fold(holder: nn.Module, norm_name: str, places: list[tuple[nn.Module, str]], uses: Counter[int]) -> None:
    """Merge one BatchNorm into the convolutions whose sum it normalises, where all of them allow it."""
    norm = getattr(holder, norm_name)
    convolutions = [getattr(parent, name) for parent, name in places]
    if type(norm) not in _NORMS or norm.running_mean is None or any(type(c) is not nn.Conv2d for c in convolutions):
        return
    if any(uses[id(module)] != 1 or _hooked(module) for module in [norm, *convolutions]):
        return
    # in float64, and on the CPU, since not every device has it
    mean, variance = _double(norm.running_mean), _double(norm.running_var)
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * _double(norm.weight)
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + _double(norm.bias)
    for convolution in convolutions:
        bias = shift if convolution.bias is None else shift + scale * _double(convolution.bias)
        shift = torch.zeros_like(shift)  # once is enough
        weight = scale.view(-1, 1, 1, 1) * _double(convolution.weight)
        convolution.weight = _parameter(weight, convolution.weight)
        convolution.bias = _parameter(bias, convolution.weight)
    setattr(holder, norm_name, nn.Identity())


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _double(values: Tensor) -> Tensor:
    return values.detach().cpu().double()


def _parameter(values: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(values.to(device=like.device, dtype=like.dtype), requires_grad=False)

"""Starting from the weights of another run: whatever fits by name and shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from segfocus.checkpoint import read_metadata, read_tensors
from segfocus.errors import SegfocusError

if TYPE_CHECKING:
    from torch import nn

_NAMED = 4
"""tensors that start anew and are named; of more the number is told"""


def start_from(model: nn.Module, checkpoint: str) -> str:
    """Copy into `model` the tensors of a checkpoint that have the same name and shape; all others stay.

    Args:
        model: a network with its random (or published) weights.
        checkpoint: a .safetensors file that segfocus wrote, or 'shipped'.

    Returns:
        One line that says what was taken and what starts anew.

    Raises:
        SegfocusError: no such file, not written by segfocus, not one weight of the network is in it, or one that is
            no number.
    """
    try:
        metadata = read_metadata(checkpoint)
        found = read_tensors(checkpoint, metadata)
    except SegfocusError as error:
        raise SegfocusError(f"model.start: {error}") from error
    own = model.state_dict()  # shares the network's memory
    taken = [name for name, tensor in own.items() if name in found and found[name].shape == tensor.shape]
    weights = {name for name, _ in model.named_parameters()}
    if not weights.intersection(taken):
        trained = metadata.recipe.model
        raise SegfocusError(
            f"model.start: expected weights of a network like this one, got {checkpoint}: a {trained.method} on "
            f"{trained.backbone}, none of whose weights has a name and shape of this {type(model).__name__}; try none"
        )
    broken = [name for name in taken if found[name].is_floating_point() and not found[name].isfinite().all()]
    if broken:
        raise SegfocusError(
            f"model.start: expected finite weights, got NaN or infinity in {broken[0]} of {checkpoint}; "
            "try an earlier checkpoint of that run"
        )
    with torch.no_grad():
        for name in taken:
            own[name].copy_(found[name])
    line = f"started from {checkpoint}: {len(taken)} of {len(own)} tensors"
    anew = [name for name in own if name not in set(taken)]
    if not anew:
        return line
    more = f" and {len(anew) - _NAMED} more" if len(anew) > _NAMED else ""
    return f"{line}; new: {', '.join(anew[:_NAMED])}{more}"

"""Checkpoint: weights, recipe, classes and scores in ONE safetensors file; nothing is ever unpickled.

The file's metadata holds the key "segfocus": JSON with version, recipe, classes and scores.  Reading the metadata
needs no torch.  Wherever a file is read, the name 'shipped' stands for the one that comes with the package.
"""

from __future__ import annotations

import json
import logging
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import segfocus
from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.files import write_bytes
from segfocus.recipe import Recipe
from segfocus.shipped import checkpoint_path

if TYPE_CHECKING:
    from torch import Tensor

    from segfocus.methods.base import Method

_KEY = "segfocus"
_LARGEST_HEADER = 100_000_000  # bytes; the safetensors format's own limit


@dataclass(frozen=True)
class Checkpoint:
    """A trained network with everything needed to use it."""

    model: Method
    """in eval mode, float32"""
    recipe: Recipe
    """the run's resolved recipe"""
    classes: Classes
    scores: dict[str, Any]
    """validation scores of these weights (may be empty)"""
    terms: str = ""
    """what the weights may be used for, where the data they were trained on restricts it"""


@dataclass(frozen=True)
class Metadata:
    """What a checkpoint says about itself, without its weights."""

    recipe: Recipe
    classes: Classes
    scores: dict[str, Any]
    version: str
    """of segfocus that wrote the file"""
    terms: str = ""
    """what the weights may be used for, where the data they were trained on restricts it"""


def save(
    path: str | Path,
    model: Method,
    recipe: Recipe,
    classes: Classes,
    scores: dict[str, Any] | None = None,
    half: bool = False,
    terms: str = "",
) -> None:
    """Write a checkpoint (temporary file, then renamed).

    `half` stores float16, half the size; tensors with values that float16 cannot hold stay float32.  `terms` says in
    one line what the weights may be used for: whoever loads them is told.

    Raises:
        SegfocusError: the file cannot be written.
    """
    from safetensors.torch import save as serialise

    tensors = {name: _stored(tensor, half) for name, tensor in model.state_dict().items()}
    described = {
        "version": segfocus.__version__,
        "recipe": recipe.to_dict(),
        "classes": classes.to_dict(),
        "scores": _strict(scores or {}),
        **({"terms": terms} if terms else {}),
    }
    # in memory first: safetensors has an error of its own for a full disk
    write_bytes(path, serialise(tensors, metadata={_KEY: json.dumps(described, allow_nan=False)}))


def load(path: str | Path, device: str = "cpu") -> Checkpoint:
    """Read a checkpoint onto `device` ("cpu", "cuda", "cuda:1", "mps"), as float32 in eval mode.

    Never unpickles and never fetches published weights.  Terms of use, where there are any, are said in one line on
    standard error (by the logger 'segfocus').

    Raises:
        SegfocusError: no such file, not safetensors, truncated, not written by segfocus, or weights that do not fit
            the network its recipe names.
    """
    import torch

    from segfocus.methods import build

    path = checkpoint_path(path)
    metadata = read_metadata(path)
    weights = metadata.recipe.model.class_weights
    model = build(
        metadata.recipe.model,
        metadata.classes.num_classes,
        class_weights=weights if isinstance(weights, list) else None,
        fetch=False,
    )
    tensors = read_tensors(path, metadata)
    _check_tensors(path, model.state_dict(), tensors)
    model.load_state_dict(tensors)
    try:
        model.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:  # torch raises either for an absent or unknown device
        raise SegfocusError(f"device '{device}': {_one_line(error)}; try 'cpu'") from error
    return Checkpoint(model.eval(), metadata.recipe, metadata.classes, metadata.scores, metadata.terms)


def read_tensors(path: str | Path, metadata: Metadata) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, as they are stored; says its terms of use, as `load` does.

    Raises:
        SegfocusError: the file cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = checkpoint_path(path)
    try:
        tensors = load_file(path, device="cpu")
    except (SafetensorError, OSError) as error:
        raise SegfocusError(f"checkpoint {path}: expected readable weights, got {_one_line(error)}") from error
    if metadata.terms:
        # a warning, because Python shows it also where nobody listens to the logger
        logging.getLogger("segfocus").warning("weights: %s, %s", path.stem, metadata.terms)
    return tensors


def read_metadata(path: str | Path) -> Metadata:
    """Recipe, classes and scores of a checkpoint, without its weights and without torch.

    Raises:
        SegfocusError: no such file, not safetensors, truncated or not written by segfocus.
    """
    path = checkpoint_path(path)
    if not path.is_file():
        what = "is a folder; try best.safetensors in it" if path.is_dir() else "does not exist"
        raise SegfocusError(f"checkpoint: expected a .safetensors file, got {path}, which {what}")
    described = _header(path).get("__metadata__", {}).get(_KEY)
    if described is None:
        raise SegfocusError(
            f"checkpoint {path}: expected a checkpoint written by segfocus, got safetensors weights without recipe "
            "and classes; try best.safetensors of a run folder"
        )
    try:
        values = json.loads(described)
        return Metadata(
            recipe=Recipe.from_dict(values["recipe"]),
            classes=Classes.from_dict(values["classes"]),
            scores=values["scores"],
            version=values["version"],
            terms=str(values.get("terms", "")),
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise SegfocusError(f"checkpoint {path}: expected segfocus metadata, got {_one_line(error)}") from error
    except SegfocusError as error:
        raise SegfocusError(f"checkpoint {path} (segfocus {values.get('version')}): {error}") from error


def _header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file: 8 bytes with its length (little endian), the JSON, the tensors."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= _LARGEST_HEADER:
            raise SegfocusError(
                f"checkpoint {path}: expected a safetensors file, got something else; "
                "try best.safetensors or last.safetensors of a run folder"
            )
        if 8 + length > size:
            raise _truncated(path, 8 + length, size)
        text = file.read(length)
    try:
        header = json.loads(text)
        end = max((entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise SegfocusError(f"checkpoint {path}: expected a safetensors file, got {_one_line(error)}") from error
    if 8 + length + end != size:
        raise _truncated(path, 8 + length + end, size)
    return header


def _truncated(path: Path, expected: int, size: int) -> SegfocusError:
    return SegfocusError(
        f"checkpoint {path}: expected {expected:,} bytes, got {size:,}; the file is truncated or damaged: "
        "try copying it again"
    )


def _check_tensors(path: Path, expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    problems = []
    for word, names in (("lacks", expected.keys() - found.keys()), ("has also", found.keys() - expected.keys())):
        if names:
            shown = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            problems.append(f"{word} {len(names)} tensors ({shown})")
    for name in expected.keys() & found.keys():
        if expected[name].shape != found[name].shape:
            problems.append(f"{name} is {list(found[name].shape)}, expected {list(expected[name].shape)}")
    if problems:
        raise SegfocusError(
            f"checkpoint {path}: its weights do not fit the network of its recipe: {'; '.join(problems[:3])}; "
            "try the segfocus version that wrote it (segfocus describe FILE)"
        )


def _stored(tensor: Tensor, half: bool) -> Tensor:
    import torch

    # safetensors stores plain row-major tensors, each with memory of its own
    tensor = tensor.detach().to("cpu", copy=True).contiguous()
    if half and tensor.is_floating_point():
        short = tensor.to(torch.float16)
        return short if torch.isfinite(short).all() else tensor
    return tensor


def _strict(value: Any) -> Any:
    """Scores as strict JSON: NaN and infinity become null."""
    if isinstance(value, dict):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

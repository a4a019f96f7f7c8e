"""Who computes regions: interchangeable modules with `group`, `scores_forward` and `scores_backward`."""

from __future__ import annotations

import importlib
import warnings
from functools import cache
from types import ModuleType

import torch

from segfocus.errors import SegfocusError

BACKENDS = {
    "dense": "definition",
    "torch": "streaming",
    "numba": "numba_cpu",
    "triton": "triton_gpu",
}


_REMEDIES = {"numba": "pip install --upgrade numba", "triton": "pip install --upgrade triton"}


class BackendWarning(UserWarning):
    """A faster backend cannot be used, and a slower one that returns the same steps in."""


def choose_backend(name: str, device: torch.device) -> str:
    """The backend that a name means on a device.

    "auto" is "triton" on CUDA and "numba" on the CPU where they can be imported, else "torch", saying once why.

    Raises:
        SegfocusError: an unknown backend, one that cannot be imported or one that cannot work on the device.
    """
    if name == "auto":
        return _fastest(device.type)
    if name not in BACKENDS:
        raise SegfocusError(f"backend: expected auto, {', '.join(BACKENDS)}, got {name!r}; try auto")
    problem = _problem(name)
    if problem is not None:
        remedy = _REMEDIES["numba"] if name == "numba" else 'backend="torch"'
        raise SegfocusError(f"backend: expected one that can be imported, got {name}: {problem}; try {remedy}")
    if name == "numba" and device.type != "cpu":
        raise SegfocusError(f'backend: expected one that works on {device.type}, got numba; try backend="auto"')
    return name


def load_backend(name: str) -> ModuleType:
    """The module of a backend that `choose_backend` has named."""
    return importlib.import_module(f"segfocus.ops.regions.{BACKENDS[name]}")


def _fastest(device: str) -> str:
    fast = {"cuda": "triton", "cpu": "numba"}.get(device)
    if fast is None:
        return "torch"
    problem = _problem(fast)
    if problem is None:
        return fast
    _say_missing(fast, problem)
    return "torch"


@cache  # a failed import is not remembered by Python, which would try again at every call
def _problem(name: str) -> str | None:
    """Why a backend cannot be imported, in one line; None where it can."""
    try:
        load_backend(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return f"{name} is not installed"
        return _in_a_line(name, error)
    except (ImportError, OSError) as error:  # a version that does not fit, a library that cannot be loaded
        return _in_a_line(name, error)
    return None


def _in_a_line(name: str, error: Exception) -> str:
    return f"{name} cannot be imported ({' '.join(str(error).split())})"


@cache  # once a process
def _say_missing(name: str, problem: str) -> None:
    warnings.warn(
        f"regions are computed by plain PyTorch, several times slower, as {problem}; try {_REMEDIES[name]}",
        BackendWarning,
        stacklevel=2,
    )

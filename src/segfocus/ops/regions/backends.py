"""Who computes regions: interchangeable modules with `group`, `scores_forward` and `scores_backward`."""

from __future__ import annotations

import importlib
import warnings
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import torch

BACKENDS = {
    "dense": "definition",
    "torch": "streaming",
    "numba": "numba_cpu",
    "triton": "triton_gpu",
}


class BackendWarning(UserWarning):
    """A faster backend is missing, and a slower one that returns the same steps in."""


def choose_backend(name: str, device: torch.device) -> str:
    """The backend that a name means on a device.

    "auto" is "triton" on CUDA and "numba" on the CPU where they are installed, else "torch", saying so once.

    Raises:
        ValueError: an unknown backend, one that is not installed or one that cannot work on the device.
    """
    if name == "auto":
        return _fastest(device.type)
    if name not in BACKENDS:
        raise ValueError(f"backend: expected auto, {', '.join(BACKENDS)}, got {name!r}")
    if name in ("numba", "triton") and not _installed(name):
        remedy = 'pip install "segfocus[fast]"' if name == "numba" else 'backend="torch"'
        raise ValueError(f"backend: expected one that is installed, got {name}; try {remedy}")
    if name == "numba" and device.type != "cpu":
        raise ValueError(f'backend: expected one that works on {device.type}, got numba; try backend="auto"')
    return name


def load_backend(name: str) -> ModuleType:
    """The module of a backend that `choose_backend` has named."""
    return importlib.import_module(f"segfocus.ops.regions.{BACKENDS[name]}")


def _fastest(device: str) -> str:
    fast = {"cuda": "triton", "cpu": "numba"}.get(device)
    if fast is None:
        return "torch"
    if _installed(fast):
        return fast
    _say_missing(fast)
    return "torch"


def _installed(package: str) -> bool:
    return find_spec(package) is not None


@cache  # once a process
def _say_missing(package: str) -> None:
    remedy = 'pip install "segfocus[fast]"' if package == "numba" else f"pip install {package}"
    warnings.warn(
        f"regions are computed by plain PyTorch, several times slower, as {package} is not installed; try {remedy}",
        BackendWarning,
        stacklevel=2,
    )

"""Whether computing in chosen blocks is faster than computing everywhere: measured, not guessed.

Gathering and scattering cost time themselves, so beyond some share of the regions the dense way is faster; where,
depends on the machine, the size and the network.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch.utils._python_dispatch import _get_current_dispatch_mode

from segfocus.methods.fornet_selection import Selection, first_regions, shape_alone

UNMEASURED = 0.6
"""break-even share where nothing is timed: under deterministic algorithms, while gradients or operations are
recorded, and of tensors without numbers"""
_SHARES = (0.25, 1.0)
_REPEATS = 3


class BreakEven:
    """The share of regions below which the sparse way is faster, timed once for each device, precision and size.

    Sizes are told apart by powers of two of their cells, selections by how much smaller than the largest they are.
    Both ways give the same up to rounding: within 1e-5 in true float32 (not TF32, which CUDA convolutions may use),
    within the precision's own steps otherwise.
    """

    def __init__(self) -> None:
        self.shares: dict[tuple[str, torch.dtype, int, int, tuple[float, ...]], float] = {}
        """(device, precision, threads, power of two of the cells, parts) -> share in [0, 1]"""

    def __deepcopy__(self, memo: object) -> BreakEven:
        return BreakEven()  # a copy may be changed before it is used

    def favours_sparse(
        self, features: torch.Tensor, selections: list[Selection], decode: Callable[[list[Selection], bool], object]
    ) -> bool:
        """Whether `decode(selections, sparse)` is faster with `sparse` for selections as large as these."""
        largest = max(len(selection.chosen) for selection in selections)
        if largest == 0:
            return True
        rows, columns = selections[0].grid
        share = self.share(
            features,
            lambda: decode(selections, False),
            lambda part: decode(first_regions(selections, part), True),
            tuple(round(len(selection.chosen) / largest, 1) for selection in selections),
        )
        return largest / (len(features) * rows * columns) < share

    def share(
        self,
        features: Float[torch.Tensor, "batch channels rows columns"],
        dense: Callable[[], object],
        sparse: Callable[[float], object],
        parts: tuple[float, ...],
    ) -> float:
        """
        Args:
            features: on the grid, of the device and precision in question.
            dense: computes everywhere.
            sparse: computes in that share of the regions.
            parts: what each selection is of the largest, whose share is meant.
        """
        recording = torch.is_grad_enabled() or _get_current_dispatch_mode() is not None  # FlopCounterMode, ...
        if recording or torch.are_deterministic_algorithms_enabled() or shape_alone(features):
            return UNMEASURED
        cells, device = features.numel() // features.shape[1], features.device
        key = (str(device), features.dtype, torch.get_num_threads(), round(math.log2(cells)), parts)
        if key not in self.shares:
            whole = _seconds(dense, device)
            few, all_of_them = (_seconds(lambda share=share: sparse(share), device) for share in _SHARES)
            self.shares[key] = break_even(whole, few, all_of_them)
        return self.shares[key]


def break_even(dense: float, few: float, all_of_them: float) -> float:
    """Where the line through the sparse times at the shares 0.25 and 1 reaches the dense time, within [0, 1]."""
    slope = (all_of_them - few) / (_SHARES[1] - _SHARES[0])
    if slope <= 0:  # noise: no share costs more than another
        return 1.0 if few < dense else 0.0
    return min(1.0, max(0.0, _SHARES[0] + (dense - few) / slope))


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(_REPEATS + 1):
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()

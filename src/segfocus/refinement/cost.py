"""What a refiner costs: time for a megapixel, peak memory, parameters, and whether the machine was quiet meanwhile."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from segfocus.errors import SegfocusError

_QUIET = 0.05
"""share of the processors that others may use in a quiet measurement"""
_LIMIT = 600
"""seconds that one measurement of memory may take"""


class OtherWork:
    """The share of the machine's processor time that other processes took, from here to `share`."""

    def __init__(self) -> None:
        self._begin = _processor_times()

    def share(self) -> float | None:
        """In [0, 1]; None where the system does not tell."""
        now = _processor_times()
        if self._begin is None or now is None:
            return None
        total, busy, own = (after - before for after, before in zip(now, self._begin, strict=True))
        return min(1.0, max(0.0, (busy - own) / total)) if total > 0 else 0.0


def quiet(share: float | None) -> bool | None:
    """Whether a share of other work leaves timings alone; None where it is not known."""
    return None if share is None else share <= _QUIET


def _processor_times() -> tuple[float, float, float] | None:
    """Seconds of all processors, those they worked, and those they worked for this process and its children."""
    try:
        fields = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except (OSError, ValueError, IndexError):  # not Linux
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    used = os.times()
    own = used.user + used.system + used.children_user + used.children_system
    idle = fields[3] + fields[4]
    return sum(fields) / ticks, (sum(fields) - idle) / ticks, own


def processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def parameters(model: Any) -> int:
    """Numbers of a refiner that were found: trained weights, or where there are none what it has counted."""
    trained = sum(value.numel() for value in model.parameters())
    if trained or model.fitting == "none":
        return trained
    return sum(value.numel() for value in model.buffers() if value.is_floating_point())


def peak_memory(
    checkpoint: Path, probabilities: np.ndarray, picture: np.ndarray | None, device: str = "auto"
) -> dict[str, Any]:
    """Memory that refining one map takes at its peak, beyond network and map, measured in a process of its own.

    Returns:
        {"bytes": ..., "kind": "resident set" or "accelerator"}.

    Raises:
        SegfocusError: the process failed; says how.
    """
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "map.npz"
        if picture is None:
            np.savez(given, probabilities=probabilities)
        else:
            np.savez(given, probabilities=probabilities, picture=picture)
        command = [sys.executable, "-m", "segfocus.refinement.cost", str(checkpoint), str(given), device]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LIMIT)
        except subprocess.TimeoutExpired as error:
            raise SegfocusError(
                f"peak memory: expected one map in {_LIMIT} s, got no answer; try smaller maps"
            ) from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise SegfocusError(f"peak memory: expected one map to be refined, got: {lines[-1][:300]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(checkpoint: str, given: str, device: str) -> dict[str, Any]:
    """Refine the map in a file once, after a first pass over a corner of it, and tell the peak; for a fresh process."""
    import torch

    from segfocus.refinement.rows import open_refiner

    refiner = open_refiner(Path(checkpoint), device)
    with np.load(given) as arrays:
        probabilities = arrays["probabilities"]
        picture = arrays["picture"] if "picture" in arrays.files else None
    corner = slice(0, 32)
    # libraries load code and make buffers at first use, which is none of a map's cost
    first = None if picture is None else np.ascontiguousarray(picture[corner, corner])
    refiner(np.ascontiguousarray(probabilities[:, corner, corner]), first, "corner")
    if torch.cuda.is_available() and device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        refiner(probabilities, picture, "map")
        return {"bytes": torch.cuda.max_memory_allocated() - before, "kind": "accelerator"}
    before = _begin_peak()
    refiner(probabilities, picture, "map")
    return {"bytes": max(0, _peak() - before), "kind": "resident set"}


def _begin_peak() -> int:
    """Bytes resident now; makes the system forget an earlier peak where it can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # of Linux: the peak becomes what is resident now
    except OSError:
        return _peak()
    return _status("VmRSS:") or _peak()


def _peak() -> int:
    """Bytes that were resident at most."""
    if (known := _status("VmHWM:")) is not None:
        return known
    import resource  # not on Windows, where nothing below can be measured

    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest * (1 if sys.platform == "darwin" else 1024)


def _status(name: str) -> int | None:
    """A line of the system's account of this process, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)


class Stopwatch:
    """Seconds for each pixel of several maps."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._begin = 0.0

    def start(self) -> None:
        self._begin = time.perf_counter()

    def stop(self, pixels: int) -> None:
        self.times.append((time.perf_counter() - self._begin) / pixels)

    def per_megapixel(self) -> float | None:
        """Median over the maps, in ms for 10^6 pixels; None where none was measured."""
        return 1e9 * float(np.median(self.times)) if self.times else None


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(*sys.argv[1:4])) + "\n")

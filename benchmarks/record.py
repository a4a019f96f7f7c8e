"""What every benchmark's JSON says about how it was made."""

from __future__ import annotations

import datetime
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from segfocus.files import write_json

RESULTS = Path(__file__).parent / "results"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _portable(argument: str) -> str:
    """A path of this machine by its last part alone; other arguments as they are."""
    path = Path(argument)
    return path.name if path.is_absolute() or argument.startswith("..") else argument


def commit() -> str:
    """The commit of the code, with '+changes' when the tree differs from it."""
    here = Path(__file__).parent
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    ).stdout.strip()
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "--", "../src"], cwd=here, capture_output=True, text=True, check=False
    ).stdout.strip()
    return head + ("+changes" if dirty else "")


def record(name: str, results: dict[str, Any], *, seeds: list[int], note: str, threads: int = 2) -> Path:
    """Write results/NAME.json: the results, and command, commit, hardware, versions, seeds and date."""
    path = RESULTS / f"{name}.json"
    about = {
        "note": note,
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(_portable, sys.argv[1:])]),
        "commit": commit(),
        "hardware": f"{_processor()}, {threads} threads, no GPU",
        "versions": {package: version(package) for package in ("torch", "torchvision", "timm", "lightning", "numpy")},
        "python": platform.python_version(),
        "seeds": seeds,
        "date": datetime.date.today().isoformat(),
    }
    write_json(path, {"about": about, **results})
    return path

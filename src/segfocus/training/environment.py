"""What a run was made with: versions, machine, commit, command."""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import segfocus
from segfocus.allocator import allocator_setting

_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "torchmetrics",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "safetensors",
)


def describe_environment(seed: int) -> dict[str, Any]:
    """JSON-safe description of this process: versions, Python, platform, processors, seed, commit, command, start."""
    return {
        "segfocus": segfocus.__version__,
        "packages": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "accelerator": _accelerator(),
        "allocator": allocator_setting(),
        "seed": seed,
        "git_commit": git_commit(Path(segfocus.__file__).parent),
        "command": sys.argv,
        "started": now(),
    }


def now() -> str:
    """Date and time of the machine with its offset from UTC, ISO 8601."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def git_commit(folder: Path) -> str | None:
    """Commit of the checkout that tracks `folder`, '+' behind it when files differ; None outside of a checkout."""
    git = shutil.which("git")
    if git is None:
        return None

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([git, "-C", str(folder), *arguments], capture_output=True, text=True, check=False)

    # an installed package may lie inside somebody else's checkout: only tracked files make it this package's commit
    if ask("ls-files", "--error-unmatch", "__init__.py").returncode:
        return None
    commit = ask("rev-parse", "HEAD")
    if commit.returncode:
        return None
    changed = ask("status", "--porcelain", "--untracked-files=no").stdout.strip()
    return commit.stdout.strip() + ("+" if changed else "")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _accelerator() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "mps" if torch.backends.mps.is_available() else "cpu"

"""Run folders: where a run lives, and how the processes that Lightning starts learn it."""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from segfocus.errors import SegfocusError
from segfocus.recipe import Recipe

_WRITTEN = (
    "recipe.yaml",
    "environment.json",
    "metrics.csv",
    "best.safetensors",
    "last.safetensors",
    "resume.ckpt",
    "scores.json",
    "report.html",
)
_WRITTEN_FOLDERS = ("panels", "tensorboard")
_FOLDER_VARIABLE = "SEGFOCUS_RUN_FOLDER"  # tells the processes that Lightning starts where the run lives


def new_folder(recipe: Recipe, out: str | Path | None, overwrite: bool, name: str | None) -> Path:
    """The folder of a new run: `out`, or runs/NAME-YYYYMMDD-HHMMSS.  Creates nothing.

    Raises:
        SegfocusError: `out` is a file, or holds files and `overwrite` is not set.
    """
    if out is None:
        name = name or f"{recipe.model.method}-{recipe.data.name}"
        folder = Path("runs") / f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
        number = 1
        while folder.exists():
            number += 1
            folder = folder.with_name(f"{folder.name.split('_')[0]}_{number}")
        return folder
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise SegfocusError(f"run folder: expected a folder, got the file {folder}; try another --out")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise SegfocusError(
            f"run folder: expected a new folder, got {folder}, which holds files; try another --out, --overwrite to "
            f"replace the run in it, or --resume {folder} to go on with it"
        )
    return folder


def existing_run(out: str | Path | None) -> Path:
    """The folder of a run to go on with.

    Raises:
        SegfocusError: none given, or no run in it.
    """
    if out is None:
        raise SegfocusError("resume: expected a run folder, got none; try --resume runs/NAME")
    folder = Path(out)
    if not (folder / "recipe.yaml").is_file():
        raise SegfocusError(f"resume: expected a run folder with recipe.yaml, got {folder}; try ls runs")
    return folder


def clear(folder: Path) -> None:
    """Remove what an earlier run wrote, and nothing else."""
    for name in _WRITTEN:
        (folder / name).unlink(missing_ok=True)
    for name in _WRITTEN_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)


def follower_folder() -> Path | None:
    """The run folder when this process is one that Lightning started beside the first one."""
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        return None
    if _FOLDER_VARIABLE not in os.environ:
        raise SegfocusError(
            "processes: expected one that starts the others, got ranks started from outside; "
            "try --training.devices N without torchrun or srun"
        )
    return Path(os.environ[_FOLDER_VARIABLE])


@contextlib.contextmanager
def told(folder: Path) -> Iterator[None]:
    """Tell the processes that Lightning starts which folder the run lives in."""
    os.environ[_FOLDER_VARIABLE] = str(folder.resolve())
    try:
        yield
    finally:
        os.environ.pop(_FOLDER_VARIABLE, None)

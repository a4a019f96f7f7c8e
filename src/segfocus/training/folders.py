"""Run folders: where a run lives, and how the processes that Lightning starts learn it."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from segfocus.errors import SegfocusError
from segfocus.files import writing
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
    """The folder of a new run: `out`, or runs/NAME-YYYYMMDD-HHMMSS.  Creates nothing; see `create_folder`.

    Raises:
        SegfocusError: `out` is a file, or holds files and `overwrite` is not set.
    """
    if out is None:
        name = name or f"{recipe.model.method}-{recipe.data.name}"
        return Path("runs") / f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    _check_free(Path(out), overwrite)
    return Path(out)


def create_folder(folder: Path, chosen: bool, overwrite: bool) -> Path:
    """Create `new_folder`'s answer and return it.

    Time has passed since then: a folder that the user has `chosen` is checked again, and a default name that another
    run has taken gets a number.  With `overwrite` the run in a chosen folder is removed.

    Raises:
        SegfocusError: as `new_folder`, or the folder cannot be written.
    """
    with writing(folder):
        if not chosen:
            return _create_numbered(folder)
        _check_free(folder, overwrite)
        folder.mkdir(parents=True, exist_ok=True)
        if overwrite:
            _clear(folder)
    return folder


def _create_numbered(folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        try:
            candidate.mkdir()
        except FileExistsError:
            continue
        return candidate
    raise AssertionError("unreachable")


def _check_free(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise SegfocusError(f"run folder: expected a folder, got the file {folder}; try another --out")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise SegfocusError(
            f"run folder: expected a new folder, got {folder}, which holds files; try another --out, --overwrite to "
            f"replace the run in it, or --resume {folder} to go on with it"
        )


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


def _clear(folder: Path) -> None:
    """Remove what an earlier run wrote, and nothing else."""
    for name in _WRITTEN:
        (folder / name).unlink(missing_ok=True)
    for name in _WRITTEN_FOLDERS:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)


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

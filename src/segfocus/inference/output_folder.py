"""A folder that results of many files are written to: resumable, never mixed with other results, bad files named."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from segfocus.errors import SegfocusError, nearest
from segfocus.files import CannotWriteError, write_json

RECORD = "predictions.json"
"""what the folder's results were made with"""
_SHOWN = 5


def check_kinds(save: Sequence[str], valid: Iterable[str]) -> list[str]:
    """Kinds of results, each once.

    Raises:
        SegfocusError: none, or one that is not among the valid ones.
    """
    valid, kinds = list(valid), list(dict.fromkeys(save))
    for kind in kinds:
        if kind not in valid:
            raise SegfocusError(f"save: unknown kind '{kind}'; {nearest(kind, valid)}")
    if not kinds:
        raise SegfocusError(f"save: expected some of {', '.join(valid)}, got none")
    return kinds


def begin(out: Path, files: Iterable[Path], inputs: Iterable[Path], settings: dict[str, Any], overwrite: bool) -> int:
    """Write OUT/predictions.json, or find it with the same settings.

    Args:
        files: that may be written.
        inputs: that are read.
        settings: what decides the results, JSON safe.
        overwrite: results of other settings, and foreign files, may be replaced.

    Returns:
        Time stamp (ns) from which on files there are of these settings.

    Raises:
        SegfocusError: `out` is a file, holds other results or foreign files that would be overwritten, or an input
            would be.
    """
    if out.exists() and not out.is_dir():
        raise SegfocusError(f"output folder: expected a folder, got the file {out}; try another --out")
    files, read = list(files), {path.resolve() for path in inputs}
    for file in files:
        if file.resolve() in read:
            raise SegfocusError(f"{file} is read and would be overwritten; try another --out")
    record = out / RECORD
    if not overwrite and record.is_file():
        if _read(record) != settings:
            raise SegfocusError(
                f"{out} holds predictions of another network or with other settings; try another --out or --overwrite"
            )
    else:
        if not overwrite and any(file.exists() for file in files):
            raise SegfocusError(f"{out} holds files that would be overwritten; try another --out or --overwrite")
        write_json(record, settings)
    return record.stat().st_mtime_ns


def written_since(file: Path, since: int) -> bool:
    """Whether there is such a file, from this time stamp (ns) or later."""
    return file.is_file() and file.stat().st_mtime_ns >= since


def work_through(
    inputs: Mapping[str, Sequence[Path]],
    begun: int,
    done: Callable[[str, int], bool],
    work: Callable[[str], list[Path]],
    *,
    unit: str,
    purpose: str,
    progress: bool = True,
    on_error: Callable[[Path, SegfocusError], None] | None = None,
) -> list[Path]:
    """Do the work for every name that is not done, whatever goes wrong with single ones; the files written now.

    Args:
        inputs: name -> files that its results depend on, the main one first.
        begun: what `begin` returned.
        done: (name, time stamp) -> whether all its results are there, from that time or later.
        work: name -> files written.
        unit: what one is called: "picture".
        purpose: past participle for the message: "predicted".
        progress: a bar on standard error where that is a terminal.
        on_error: called with the main file of each name whose work failed, and why.

    Raises:
        SegfocusError: at the end: some failed (they are named; all others are done).
        CannotWriteError: at once.
    """
    written: list[Path] = []
    failed: list[str] = []
    for name, paths in tqdm(inputs.items(), unit=unit, file=sys.stderr, disable=None if progress else True):
        if done(name, max(begun, *(path.stat().st_mtime_ns for path in paths))):
            continue
        try:
            written += work(name)
        except CannotWriteError:
            raise
        except SegfocusError as error:
            failed.append(str(error) if any(str(path) in str(error) for path in paths) else f"{paths[0]}: {error}")
            if on_error is not None:
                on_error(paths[0], error)
    if failed:
        more = f"; and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else ""
        raise SegfocusError(
            f"{len(failed)} of {len(inputs)} {unit}s could not be {purpose}, the others are done: "
            f"{'; '.join(failed[:_SHOWN])}{more}"
        )
    return written


def _read(record: Path) -> Any:
    try:
        return json.loads(record.read_text(encoding="utf-8"))
    except ValueError:  # not ours, or edited: as good as other settings
        return None

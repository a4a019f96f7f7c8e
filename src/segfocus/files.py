"""Writing files so that a crash, a full disk or Ctrl-C never leaves a half-written one."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segfocus.errors import SegfocusError


class CannotWriteError(SegfocusError):
    """The disk is full, the folder cannot be written: what every further file would meet too."""


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn whatever the system refuses while `path` is written into one line.

    Raises:
        CannotWriteError: the disk is full, the folder cannot be written, ...
    """
    try:
        yield
    except OSError as error:
        raise CannotWriteError(
            f"cannot write {path}: {error.strerror or error}; files written before are complete; "
            "try another folder or free some space"
        ) from error


@contextlib.contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` (same suffix); rename it to `path` when the block ends well.

    When the block raises, the temporary file is removed and an earlier `path` stays as it was.

    Raises:
        CannotWriteError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = None
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
            os.close(handle)
            temporary = Path(name)
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())  # or a power cut could leave the new name without its content
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes | memoryview) -> None:
    """Write a binary file atomically."""
    with write_atomically(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file (UTF-8) atomically."""
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write strict JSON (no NaN; indented) atomically."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")

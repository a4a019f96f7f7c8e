"""The one place where segfocus writes to the terminal."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Literal

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "plain": "0"}
Style = Literal["bold", "dim", "red", "green", "yellow", "plain"]


def say(text: str = "", *, error: bool = False, style: Style = "plain") -> None:
    """Write one line to standard output, or to standard error with `error`.

    `style` shows only on terminals, and not where the environment variable NO_COLOR is set.
    """
    stream = sys.stderr if error else sys.stdout
    stream.write(styled(text, style, stream) + "\n")
    stream.flush()


def styled(text: str, style: Style, stream) -> str:
    """`text` in the terminal's codes for `style`; unchanged when `stream` is no terminal."""
    if style == "plain" or os.environ.get("NO_COLOR") or not stream.isatty():
        return text
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m"


class _Notices(logging.Handler):
    """Shows what the package's parts report (which kind of masks was found, ...), each message once."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self.shown:
            self.shown.add(text)
            say(f"note: {text}", error=True)


@contextlib.contextmanager
def notices() -> Iterator[None]:
    """Show the messages of the logger 'segfocus' on standard error inside this block."""
    logger, handler = logging.getLogger("segfocus"), _Notices()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def table(rows: list[tuple[str, str]], indent: int = 2) -> str:
    """Two aligned columns, one line a row."""
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{'':{indent}}{name:<{width}}  {text}".rstrip() for name, text in rows)

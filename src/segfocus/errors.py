"""The one error type a user sees, and the words that offer the nearest valid name."""

import difflib
from collections.abc import Iterable


class SegfocusError(ValueError):
    """A problem a user can mend.  The text reads: expected ..., got ...; try ....

    The command line prints it as one line and exits with 2.
    """


def nearest(name: str, valid: Iterable[str], *, most: int = 3) -> str:
    """'did you mean a, b? valid: ...' for a mistyped name."""
    names = sorted(set(valid))
    close = difflib.get_close_matches(name, names, n=most, cutoff=0.5)
    if close:
        return f"did you mean {', '.join(close)}?"
    return f"expected one of: {', '.join(names)}"

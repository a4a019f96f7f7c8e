"""glibc's allocator, set so that large tensors are kept for reuse.

By default glibc asks the kernel for every block of 32 MB and more, touches it page by page and returns it: an eager
network on a CPU spends up to half of its time so.  Three settings keep freed memory inside the process instead
(the same as starting Python with MALLOC_MMAP_MAX_=0, MALLOC_TRIM_THRESHOLD_=2147483647, MALLOC_TOP_PAD_=268435456).
Numbers do not change; resident memory stays at its peak until the process ends.

The command line does this at its start.  ``SEGFOCUS_ALLOCATOR=default`` in the environment leaves the allocator alone.
From Python it is never done unasked: call :func:`tune_allocator` before the first large allocation.
"""

from __future__ import annotations

import os
import platform

VARIABLE = "SEGFOCUS_ALLOCATOR"
_process = {"setting": "default"}  # what mallopt was told: glibc has no way to ask
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h


def tune_allocator() -> bool:
    """Set glibc's allocator for large tensors; True when it was set.

    Nothing happens, and False is returned, on other systems and where SEGFOCUS_ALLOCATOR=default.
    Settings hold for this process and those it forks; a program that it starts has to call this itself.
    """
    if os.environ.get(VARIABLE) == "default" or platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 256 << 20))
    done = [mallopt(option, value) == 1 for option, value in settings]
    if all(done):
        _process["setting"] = "tuned"
    return all(done)


def allocator_setting() -> str:
    """'tuned' or 'default': what holds in this process, for the record a run keeps of its environment."""
    return _process["setting"]

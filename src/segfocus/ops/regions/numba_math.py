"""How `numba_cpu` compiles, and the functions of one number that its compiled parts share."""

import math
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, no_type_check

import numba
import numpy as np
from numba.extending import overload

from segfocus.ops.regions.definition import TINY

NO_CLASSES, JENSEN_SHANNON, BERNOULLI = 0, 1, 2
NO_LINES, INNER_LINES, WHOLE_LINES = 0, 1, 2
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}
_LN2 = math.log(2)
# subtracting the bits of sqrt(1/2) leaves a mantissa between sqrt(1/2) and sqrt(2), where the series is short
_ROOT_BITS = 0x3F3504F3


def compiled(function: Any) -> Any:
    """Compiled at the first call and kept on disk, where there is a folder for it.

    "contract" lets a product and a sum be one instruction; nothing else is relaxed.
    """
    try:
        cached: Any = numba.njit(function, cache=True, **_OPTIONS)
        # numba takes what it kept for fresh while the function's own file is: functions and constants of the others,
        # which are compiled into it, would stay as they were
        cached._cache._cache_file._source_stamp = _sources()
        return cached
    # neither the package's folder nor the user's can be written to; a numba that keeps its stamp elsewhere; no sources
    except (RuntimeError, AttributeError, OSError):
        return numba.njit(function, **_OPTIONS)


@cache
def _sources() -> str:
    """What the compiled functions are made of."""
    names = ("definition", "numba_math", "numba_pairs", "numba_blocks")
    return sha256(b"".join(Path(__file__).with_name(f"{name}.py").read_bytes() for name in names)).hexdigest()


def inlined(function: Any) -> Any:
    """Compiled as a piece of each function that calls it."""
    return numba.njit(function, forceinline=True, **_OPTIONS)


@no_type_check
def log2(x):
    """log2 x; for float32 within 1e-7 of its size, without library calls, which do not run in vector registers."""
    raise NotImplementedError("expected a call from compiled code")


@overload(log2, inline="always")
@no_type_check
def _log2_of(x):
    if x != numba.float32:
        return lambda x: math.log2(x)

    def series(x):
        # log m = 2 artanh z = 2 (z + z^3/3 + ...) with z = (m - 1) / (m + 1), |z| < 0.18
        bits = np.float32(x).view(np.int32)
        exponent = (bits - np.int32(_ROOT_BITS)) >> np.int32(23)
        mantissa = np.int32(bits - (exponent << np.int32(23))).view(np.float32)
        z = (mantissa - np.float32(1)) / (mantissa + np.float32(1))
        s = z * z
        tail = np.float32(2 / 3 / _LN2) + s * (np.float32(2 / 5 / _LN2) + s * np.float32(2 / 7 / _LN2))
        return np.float32(exponent) + z * (np.float32(2 / _LN2) + s * tail)

    return series


@compiled
@no_type_check
def logarithms(values, result):
    """log2 of every value, those below TINY taken for it."""
    for i in range(values.size):
        result[i] = log2(max(values[i], like(values[i], TINY)))


@no_type_check
def like(x, value):
    """`value` in the precision of x: a bare 0.5 would make everything after it float64."""
    raise NotImplementedError("expected a call from compiled code")


@overload(like, inline="always")
@no_type_check
def _like(x, value):
    precision = np.float32 if x == numba.float32 else np.float64
    return lambda x, value: precision(value)


@compiled
@no_type_check
def _binary_entropy(p):
    return -(p * log2(p) + (like(p, 1) - p) * log2(like(p, 1) - p))


@compiled
@no_type_check
def bernoulli(p, q):
    """Jensen-Shannon divergence in nats of "this class, or not", with probabilities p and q."""
    half = like(p, 0.5)
    bits = _binary_entropy(half * (p + q)) - half * (_binary_entropy(p) + _binary_entropy(q))
    return max(like(p, _LN2) * bits, like(p, 0))

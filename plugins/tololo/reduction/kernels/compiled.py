"""How functions are compiled: serially, outside the interpreter's lock, cached on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from numba import njit


def compiled[F: Callable[..., Any]](function: F) -> F:
    """Compile a function with numba; its type stays that of the Python function.

    A division by zero gives infinity or NaN, as with arrays: one odd star must not end a detector.
    """
    return cast(F, njit(cache=True, nogil=True, error_model="numpy")(function))


def compiled_fast[F: Callable[..., Any]](function: F) -> F:
    """Compile as `compiled`, and let sums be reordered (no NaN or infinity may come in)."""
    return cast(F, njit(cache=True, nogil=True, fastmath=True, error_model="numpy")(function))

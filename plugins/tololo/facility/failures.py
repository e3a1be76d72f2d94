"""Which failures are worth another try: one table."""

from __future__ import annotations

import re

RETRIABLE = tuple(
    re.compile(pattern)
    for pattern in (
        r"MemoryError",
        r"std::bad_alloc",
        r"Unable to allocate",
        r"Failed to serialize dataset",
        r"OperationalError",
        r"server closed the connection",
        r"TimeoutError|TIMEOUT",
        r"NODE_FAIL|PREEMPTED|OUT_OF_MEMORY",
        r"No space left on device",
    )
)
"""Signs of a failure of the machine, the database or the batch system rather than of the data."""


def is_retriable(exception: str) -> bool:
    """Tell whether an exception's text (type and message) names a passing fault."""
    return any(pattern.search(exception) for pattern in RETRIABLE)

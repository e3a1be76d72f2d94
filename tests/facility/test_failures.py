from __future__ import annotations

import pytest

from tololo.facility.failures import is_retriable


@pytest.mark.parametrize(
    ("text", "retriable"),
    [
        ("MemoryError: ", True),
        ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 3.2 GiB for an array", True),
        ("RuntimeError: std::bad_alloc", True),
        ("sqlalchemy.exc.OperationalError: server closed the connection unexpectedly", True),
        ("sqlalchemy.exc.OperationalError: database is locked", True),
        ("OSError: [Errno 28] No space left on device", True),
        ("TimeoutError: timed out", True),
        ("slurm: job 12 NODE_FAIL", True),
        ("slurm: job 12 OUT_OF_MEMORY", True),
        ("tololo.facility.errors.BadInputError: The astrometry is off by 5.00 pixels (30 stars)", False),
        ("ValueError: operands could not be broadcast together", False),
        ("KeyError: 'timeout'", False),
        ("", False),
    ],
)
def test_what_is_worth_another_try(text: str, retriable: bool) -> None:
    assert is_retriable(text) is retriable

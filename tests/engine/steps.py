"""Stop code at one of its calls to the file system: to kill it there, or to let another come between."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

CALLS = ("open", "read", "pwrite", "fsync", "close", "link", "rename", "unlink", "stat", "scandir", "utime")


class Count:
    """How many calls there were."""

    calls = 0


@contextmanager
def at_call(number: int, action: Callable[[], object]) -> Iterator[Count]:
    """Do ``action`` before the ``number``-th call to the file system, counted from 1."""
    count, real = Count(), {name: getattr(os, name) for name in CALLS}

    def stepping(name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            count.calls += 1
            if count.calls == number:
                restore()
                action()
            return real[name](*args, **options)

        return call

    def restore() -> None:
        for name, function in real.items():
            setattr(os, name, function)

    for name in CALLS:
        setattr(os, name, stepping(name))
    try:
        yield count
    finally:
        restore()

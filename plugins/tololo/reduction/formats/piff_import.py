"""Piff, imported without scikit-learn (half of its import time, for Gaussian processes we do not use)."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _Postponed(ModuleType):
    """Stands for a module until one of its attributes is wanted."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


sys.modules.setdefault("treegp", _Postponed("treegp"))

import piff  # noqa: E402

__all__ = ["piff"]

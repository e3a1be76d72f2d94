"""DECam as the Butler knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .decam import DarkEnergyCamera

__all__ = ["DarkEnergyCamera"]


def __getattr__(name: str) -> object:
    # Filters and detectors are wanted where lsst.pipe.base (2 s) is not.
    if name == "DarkEnergyCamera":
        from .decam import DarkEnergyCamera

        return DarkEnergyCamera
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

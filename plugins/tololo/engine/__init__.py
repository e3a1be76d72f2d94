"""How quanta run: warm processes, the bps service of one machine, attempts and their record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tololo.engine.local.service import LocalService

__all__ = ["LocalService"]


def __getattr__(name: str) -> Any:
    """Import the bps service when it is asked for: the package itself must be quick to import."""
    if name == "LocalService":
        from tololo.engine.local.service import LocalService

        return LocalService
    raise AttributeError(name)

"""Errors that a person can act on: what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Mapping


class TololoError(Exception):
    """One clear message about something a person has to know.

    Parameters
    ----------
    what : `str`
        What is wrong, in one sentence.
    where : `str`, optional
        File, line or key, repository, collection, night, visit, detector.
    remedy : `str`, optional
        What to do about it.
    """

    def __init__(self, what: str, where: str = "", remedy: str = "") -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        parts = [what.rstrip(".") + "."]
        if where:
            parts.append(f"Where: {where.rstrip('.')}.")
        if remedy:
            parts.append(f"What to do: {remedy.rstrip('.')}.")
        super().__init__(" ".join(parts))

    def told(self) -> dict[str, str]:
        """Return it as JSON for another process, which makes it again with `retold`."""
        return {
            "kind": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "remedy": self.remedy,
        }

    def __reduce__(self) -> tuple[type[TololoError], tuple[str, str, str]]:
        return type(self), (self.what, self.where, self.remedy)


class BadInputError(TololoError):
    """The data, the parameters or the configuration are wrong; trying again does not help."""


class NothingToDoError(TololoError):
    """There is nothing to work on; the task is skipped with this reason."""


class UnavailableError(TololoError):
    """A service or a resource is away for now; trying again later can help."""


def retold(content: Mapping[str, str]) -> TololoError:
    """Make the error again that `TololoError.told` has put into words; without a kind it is just an error."""
    kinds = {kind.__name__: kind for kind in (BadInputError, NothingToDoError, UnavailableError)}
    kind = kinds.get(content.get("kind", ""), TololoError)
    return kind(content["what"], content["where"], content["remedy"])

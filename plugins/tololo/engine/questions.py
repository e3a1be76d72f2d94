"""What can be asked of the process that keeps Butlers open: the questions of the sensors and of the pages.

Each takes JSON keyword arguments, among them ``repository``, and returns JSON. Those of the sensors are here
and return an `~tololo.facility.waiting.Answer`: what does not exist yet (a collection, a dataset type) is
missing; what can never be right (a data query that cannot be read) is a `BadInputError`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lsst.daf.butler import ButlerUserError

from tololo.engine.calibrations import calibrations
from tololo.engine.candidate_questions import (
    candidate,
    candidate_cutouts,
    candidate_file,
    candidate_plot,
    candidates,
)
from tololo.engine.coverage import templates
from tololo.engine.night_questions import night_plot, night_scorecard, scored_nights
from tololo.engine.recovery_questions import recovery_nights, recovery_of_night, recovery_plot
from tololo.engine.repositories import OpenButlers, existing, known_types
from tololo.engine.template_questions import template_plot, template_versions
from tololo.facility.errors import BadInputError
from tololo.facility.waiting import Answer, answer

if TYPE_CHECKING:
    from lsst.daf.butler import Butler

_BUTLERS = OpenButlers()


def collections(butler: Butler, collections: list[str], dataset_types: list[str]) -> Answer:
    """Ask whether collections are there and not empty.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
    collections : `list` [`str`]
        Names or globs.
    dataset_types : `list` [`str`]
        Names or globs: only datasets of these types count. All do if it is empty; but a chain holds what its
        inputs hold, so a chain of visits is not empty before there is a visit.

    Returns
    -------
    answer : `~tololo.facility.waiting.Answer`
        ``found`` counts the collections that hold something.
    """
    types = known_types(butler, dataset_types or ["*"])
    missing: list[str] = []
    for name in collections:
        there, _ = existing(butler, [name])
        if not there:
            missing.append(f"collection {name} (it does not exist)")
        elif not types or not butler.query_all_datasets(there, name=types, find_first=False, limit=1):
            missing.append(f"collection {name} (it holds no {' or '.join(dataset_types) or 'dataset'})")
    return answer(missing, len(collections) - len(missing))


def datasets(butler: Butler, dataset_type: str, collections: list[str], where: str, count: int) -> Answer:
    """Ask whether there are so many datasets of a type.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
    dataset_type : `str`
    collections : `list` [`str`]
        Names or globs; a data ID that is in several of them counts once.
    where : `str`
        Data query.
    count : `int`
        How many are needed.

    Returns
    -------
    answer : `~tololo.facility.waiting.Answer`
        ``found`` counts the datasets.
    """
    there, absent = existing(butler, collections)
    reasons = [f"collection {name} does not exist" for name in absent]
    found = 0
    if not known_types(butler, [dataset_type]):
        reasons.append("the dataset type is not registered")
    elif there:
        with butler.query() as query:
            refs = query.datasets(dataset_type, there, find_first=True)
            found = (refs.where(where) if where else refs).count(discard=True)
    if found >= count:
        return answer([], found)
    reason = "; ".join([f"{found} of {count} are there", *reasons])
    place = f"in {', '.join(collections)}" + (f" where {where}" if where else "")
    return answer([f"{count - found} more {dataset_type} {place} ({reason})"], found)


def ask_butler(question: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a question to a Butler into one that names the repository."""

    def asked(*, repository: str, **arguments: Any) -> Any:
        try:
            return _BUTLERS.use(repository, lambda butler: question(butler, **arguments))
        except ButlerUserError as error:
            reason = str(error).strip('"')
            raise BadInputError(
                f"The question cannot be read: {reason}", repository, "mend the data query or the name"
            ) from error

    return asked


_SENSORS = (collections, datasets, calibrations, templates)
_PAGES = (
    night_scorecard,
    night_plot,
    scored_nights,
    candidate_cutouts,
    template_versions,
    template_plot,
    recovery_nights,
    recovery_of_night,
    recovery_plot,
)
_APDB = (candidates, candidate, candidate_plot, candidate_file)

QUESTIONS: dict[str, Callable[..., Any]] = {
    **{question.__name__: ask_butler(question) for question in (*_SENSORS, *_PAGES)},
    **{question.__name__: question for question in _APDB},
}
"""The questions by name."""

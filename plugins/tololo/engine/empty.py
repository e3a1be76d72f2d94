"""Why there is nothing to run: which input is missing, or which part of the data query matches nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lsst.daf.butler import InvalidQueryError, MissingDatasetTypeError
from lsst.pipe.base.pipeline_graph import PipelineGraph

from tololo.engine.outcomes import existing
from tololo.facility.errors import NothingToDoError
from tololo.facility.run import RunRequest

if TYPE_CHECKING:
    from lsst.daf.butler import Butler
    from lsst.daf.butler.queries import DatasetRefQueryResults, Query
    from lsst.pipe.base.pipeline_graph import DatasetTypeNode

_NOT_ENOUGH = re.compile(
    r"Not enough datasets .* connection (?P<label>\w+)\.\w+ \((?P<kind>\w+)\)"
    r" .*? for quantum data ID (?P<data_id>{.*?})",
    re.DOTALL,
)
_WORD = re.compile(r"'(?:[^'])*'|[()]|\b\w+\b", re.DOTALL)


def explain_empty(
    request: RunRequest, butler: Butler, pipeline: PipelineGraph, error: str = ""
) -> NothingToDoError:
    """Find out why no quantum can be built.

    Parameters
    ----------
    request : `RunRequest`
        What was to be run.
    butler : `lsst.daf.butler.Butler`
        The repository.
    pipeline : `lsst.pipe.base.pipeline_graph.PipelineGraph`
        The request's pipeline, resolved.
    error : `str`, optional
        What the builder said when it gave up.

    Returns
    -------
    reason : `NothingToDoError`
        To be raised; it names the dataset types and collections, or the part of the data query.
    """
    nodes = [node for _, node in pipeline.iter_overall_inputs() if node is not None]
    regular = [node for node in nodes if node.is_initial_query_constraint and not node.is_prerequisite]
    others = [node for node in nodes if node not in regular]
    search = _Search(butler, existing(butler, request.parent, *request.inputs))
    remedy = "ingest it, or run the step that makes it, and look at the inputs' collections"
    reasons = [search.describe_absence(node) for node in regular if not search.any(node, [])]
    if not reasons and (terms := split_terms(request.where)):
        remedy = "correct the data query, or ingest what it asks for"
        reasons = [search.explain(node, terms) for node in regular if not search.any(node, terms)]
    if not reasons and (found := _NOT_ENOUGH.search(error)):
        remedy = "make and certify it for this night, and look at the inputs' collections"
        reasons = [
            f"{found['label']} needs {found['kind']} for {found['data_id']}, and there is none"
            f" in {search.place}"
        ]
    if not reasons and not search.any_of_all(regular, split_terms(request.where)):
        remedy = "look at the inputs' collections and the data query"
        names = " and ".join(node.name for node in regular)
        reasons = [f"{names} are there, but not for the same data IDs"]
    if not reasons:
        remedy = "make and certify it, and look at the inputs' collections"
        reasons = [search.describe_absence(node) for node in others if not search.any(node, [])]
    if not reasons:
        remedy = "look at what each task needs and at the inputs' collections"
        reasons = [error or "the inputs are there, but no quantum has all that it needs"]
    return NothingToDoError(f"There is nothing to do: {'; '.join(reasons)}", request.described, remedy)


def split_terms(where: str) -> list[str]:
    """Split a data query at each AND that stands outside of parentheses and quotes.

    A query with an OR there is one term, as AND binds closer.
    """
    where = where.strip()
    depth, start, terms = 0, 0, []
    for word in _WORD.finditer(where):
        match word[0].upper():
            case "(":
                depth += 1
            case ")":
                depth -= 1
            case "OR" if depth == 0:
                return [where]
            case "AND" if depth == 0:
                terms.append(where[start : word.start()].strip())
                start = word.end()
    terms.append(where[start:].strip())
    if len(terms) == 1 and _is_wrapped(where):
        return split_terms(where[1:-1])
    return [part for term in terms if term for part in (split_terms(term) if len(terms) > 1 else [term])]


def _is_wrapped(text: str) -> bool:
    """Tell whether one pair of parentheses holds all of a text."""
    if not (text.startswith("(") and text.endswith(")")):
        return False
    depth = 0
    for word in _WORD.finditer(text):
        depth += {"(": 1, ")": -1}.get(word[0], 0)
        if depth == 0:
            return word.end() == len(text)
    return False


class _Search:
    """Questions to the registry about the inputs of a pipeline."""

    def __init__(self, butler: Butler, collections: list[str]) -> None:
        self._butler = butler
        self._collections = collections

    @property
    def place(self) -> str:
        return ", ".join(self._collections) or "any collection that exists"

    def any(self, node: DatasetTypeNode, terms: Sequence[str]) -> bool:
        """Tell whether a dataset of a type matches all terms."""
        return self.any_of_all([node], terms)

    def any_of_all(self, nodes: Sequence[DatasetTypeNode], terms: Sequence[str]) -> bool:
        """Tell whether there is a data ID for which each of some types has a dataset."""
        if not self._collections:
            return False
        try:
            with self._butler.query() as query:
                joined = query
                for node in nodes:
                    joined = joined.join_dataset_search(node.name, self._collections)
                return _restricted(joined, terms).any()
        except MissingDatasetTypeError:
            return False
        except InvalidQueryError:  # part of the data query can be wrong without the rest
            return True

    def describe_absence(self, node: DatasetTypeNode) -> str:
        return f"there is no {node.name} in {self.place}"

    def explain(self, node: DatasetTypeNode, terms: Sequence[str]) -> str:
        """Name the first term that leaves nothing of a dataset type, and what is there without it."""
        before, term = next(
            (terms[:n], terms[n]) for n in range(len(terms)) if not self.any(node, terms[: n + 1])
        )
        others = f" and {' AND '.join(before)}" if before else ""
        with self._butler.query() as query:
            known = _restricted(query.join_dimensions(node.dimensions), [*before, term]).any()
        if not known:
            dimensions = self._butler.dimensions.dimensions.names
            named = [word for word in re.findall(r"\w+", term) if word in dimensions]
            chosen = next(
                (name for name in named if name not in ("instrument", "skymap")), *named[:1] or ["row"]
            )
            return f"the repository knows no {chosen} with {term}{others}"
        return f"{self.place} hold {self._count(node, before)}, but none with {term}"

    def _count(self, node: DatasetTypeNode, terms: Sequence[str]) -> str:
        besides = f" with {' AND '.join(terms)}" if terms else ""
        try:
            with self._butler.query() as query:
                found = _restricted(query.datasets(node.name, self._collections), terms)
                return f"{found.count()} {node.name}{besides}"
        except InvalidQueryError:
            return f"{node.name}{besides}"


def _restricted[T: (Query, DatasetRefQueryResults)](query: T, terms: Sequence[str]) -> T:
    return query.where(" AND ".join(f"({term})" for term in terms)) if terms else query

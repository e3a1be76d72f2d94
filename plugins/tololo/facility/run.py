"""What is asked of one pipeline run, and what came of it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tololo.facility.errors import BadInputError

COUNTS = ("expected", "done", "failed_permanent", "failed_retriable", "no_data")


@dataclass(frozen=True)
class RunRequest:
    """One step of a pipeline, to be run through bps.

    Parameters
    ----------
    repository : `str`
        Butler repository (folder or its ``butler.yaml``).
    pipeline : `str`
        Pipeline file, with ``#subset`` for a part of it.
    parent : `str`
        The CHAINED collection of the result, `20190401/instcal`; every run becomes its child.
    step : `str`
        Name of the step in the run's name, usually the subset.
    inputs : `list` [`str`]
        Collections to search, in order, after the parent's own runs.
    where : `str`
        Butler data query, passed on as it is.
    config : `dict` [`str`, `str`]
        Overrides of task configuration, ``label:field`` to its value.
    site : `str`
        Compute site; ``include/pipelines/bps/<site>.yaml`` describes it.
    threshold : `float`
        Fraction of the expected quanta that must be done (or have no data) for the run to count as good.
    cores : `int`
        Cores that the site may use on this machine.
    dry_run : `bool`
        Build the graph, say how many quanta it holds, and stop.
    retry_failed : `bool`
        Run again what failed permanently in an earlier attempt, and what depends on it.
    memory_factor : `float`
        Multiplies the memory that each job may have in this attempt.
    locks : `list` [`dict`]
        Locks to be kept alive while the attempt lives.
    """

    repository: str
    pipeline: str
    parent: str
    step: str
    inputs: list[str]
    where: str = ""
    config: dict[str, str] = field(default_factory=dict)
    site: str = "local"
    threshold: float = 1.0
    cores: int = 2
    dry_run: bool = False
    retry_failed: bool = False
    memory_factor: float = 1.0
    locks: list[dict[str, Any]] = field(default_factory=list)

    @property
    def pipeline_name(self) -> str:
        """Name of the pipeline file, the part of a RUN's name that says what made it."""
        return Path(self.pipeline.partition("#")[0]).stem

    @property
    def described(self) -> str:
        """What is run on what, for the "where" of a message."""
        query = f", data query {self.where!r}" if self.where else ""
        return f"pipeline {self.pipeline}, inputs {', '.join(self.inputs)}{query}"

    def write(self, path: Path) -> None:
        """Write the request as JSON, beside and then renamed."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> RunRequest:
        """Read what `write` wrote."""
        return cls(**json.loads(path.read_text()))


@dataclass
class RunOutcome:
    """What came of a request, over this attempt and the earlier ones.

    Attributes
    ----------
    run, chain : `str`
        The RUN of this attempt and the chain that it belongs to.
    seconds : `float`
        Wall time of this attempt.
    labels : `dict` [`str`, `dict` [`str`, `int`]]
        The five counts named in `COUNTS` for each task label. What earlier attempts did is done (or had no
        data); what failed permanently in one of them and was left out is a permanent failure.
    reasons : `list` [`str`]
        One line for each quantum that failed, with its data ID and its exception.
    earlier : `int`
        How many of the good quanta are the work of earlier attempts.
    notes : `list` [`str`]
        Why quanta had no data.
    memory_failures : `int`
        Quanta of this attempt that failed for want of memory.
    runnable : `int`
        Of the permanent failures, those that were only not run because others failed, and can do without
        them: another attempt runs these.
    quanta : `list` [`dict`]
        Each quantum of this attempt that is not simply done: ``label``, ``data_id`` (required values),
        ``kind`` (``failed_permanent``, ``failed_retriable``, ``no_data``, ``blocked``), ``reason``, and
        ``own``: whether it failed itself.
    """

    run: str
    chain: str
    seconds: float
    labels: dict[str, dict[str, int]]
    reasons: list[str] = field(default_factory=list)
    earlier: int = 0
    notes: list[str] = field(default_factory=list)
    memory_failures: int = 0
    runnable: int = 0
    quanta: list[dict[str, Any]] = field(default_factory=list)

    def total(self, count: str) -> int:
        """Sum of one count over the task labels."""
        return sum(label[count] for label in self.labels.values())

    @property
    def good(self) -> int:
        """Number of quanta that are done or had no data."""
        return self.total("done") + self.total("no_data")

    @property
    def fraction_good(self) -> float:
        """Fraction of the expected quanta that are done or had no data."""
        expected = self.total("expected")
        return self.good / expected if expected else 0.0

    def summary(self) -> dict[str, Any]:
        """Return the outcome in the form that users rely on (an XCom of small numbers and names)."""
        totals = {count: self.total(count) for count in COUNTS}
        return {
            "run": self.run,
            "chain": self.chain,
            **totals,
            "seconds": self.seconds,
            "labels": self.labels,
        }

    def check(self, threshold: float) -> None:
        """Raise if too few quanta are good.

        Raises
        ------
        BadInputError
            The good fraction is below ``threshold``; the message names what failed and why.
        """
        if self.fraction_good >= threshold:
            return
        shown = "; ".join(self.reasons[:5]) or "no reason was recorded"
        more = f" (and {len(self.reasons) - 5} more)" if len(self.reasons) > 5 else ""
        remedy = "clear this task: what is done is not done again"
        if self.total("failed_permanent"):
            remedy = "mend the cause and run with retry_failed: what is done is not done again"
        raise BadInputError(
            f"{self.good} of {self.total('expected')} quanta are good, "
            f"{100 * threshold:.4g}% are needed: {shown}{more}",
            where=f"run {self.run}",
            remedy=remedy,
        )


def empty_labels(expected: dict[str, int]) -> dict[str, dict[str, int]]:
    """Return the counts of each label before anything ran."""
    return {label: dict.fromkeys(COUNTS, 0) | {"expected": n} for label, n in expected.items()}


def write_json(path: Path, content: Any) -> None:
    """Write JSON beside, then rename, so that a reader never sees half of it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(json.dumps(content, indent=1))
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise

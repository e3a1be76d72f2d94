"""Which failures are worth another try: one table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

type Kind = Literal["retriable", "permanent"]


@dataclass(frozen=True)
class Rule:
    """One line of the table.

    Attributes
    ----------
    name : `str`
        Short name of the cause.
    pattern : `re.Pattern`
        Searched in the text of a failure: the exception's type, a colon, its message.
    kind : `str`
        ``retriable``: the same quantum can succeed in another try; ``permanent``: it fails again until a
        person mends something.
    why : `str`
        What is behind it, for people.
    """

    name: str
    pattern: re.Pattern[str]
    kind: Kind
    why: str


def _rule(name: str, kind: Kind, why: str, *patterns: str) -> Rule:
    return Rule(name, re.compile("|".join(patterns)), kind, why)


_TYPE = r"^[\w.]*\b"
"""An alternative that begins with it is the exception's type, not a word in its message."""

RULES: tuple[Rule, ...] = (
    _rule(
        "memory",
        "retriable",
        "it asked for more memory than it may have; the next try gets more",
        r"MemoryError",
        r"std::bad_alloc",
        r"Unable to allocate \d",
        r"(?i:cannot allocate memory|out of memory|oom.kill)",
        r"OUT_OF_MEMORY",
    ),
    _rule(
        "bad input",
        "permanent",
        "the data or the parameters are wrong, as the message says",
        _TYPE + r"BadInputError\b",
    ),
    _rule(
        "unavailable",
        "retriable",
        "a service or a lock was away for a while",
        _TYPE + r"UnavailableError\b",
    ),
    _rule(
        "configuration",
        "permanent",
        "a name, a file, a password or a collection in the configuration is wrong",
        _TYPE + r"(ModuleNotFoundError|ImportError|FieldValidationError|InvalidQuantumError)\b",
        r"(?i:no such (table|column)|password authentication failed|database \"[^\"]*\" does not exist)",
        r"already exists, but --extend-run was not given",
        r"does not include the same sequence of \(flattened\) input collections",
        r"FileNotFoundError: .*\.ya?ml\b",
    ),
    _rule(
        "nothing to do",
        "permanent",
        "trying again builds the same empty graph",
        r"QuantumGraph (was|is|will be) empty",
        r"Initial data ID query returned no rows",
    ),
    _rule(
        "missing input",
        "permanent",
        "a dataset or a file that it needs is not there",
        _TYPE + r"(FileNotFoundError|DatasetNotFoundError|MissingDatasetTypeError|MissingCollectionError)\b",
        _TYPE + r"PrerequisiteMissingError\b",
    ),
    _rule(
        "disk full",
        "retriable",
        "there was no room to write; it works again once somebody has made some",
        r"No space left on device",
        r"Disk quota exceeded",
        r"database or disk is full",
        r"Failed to serialize dataset",
    ),
    _rule(
        "disk",
        "retriable",
        "the file system failed for a moment",
        r"Stale file handle",
        r"Input/output error",
        r"Too many open files",
        r"cannot create directory '[^']*submit[^']*': directory already exists",
    ),
    _rule(
        "database gone",
        "retriable",
        "the database was away, overloaded or locked",
        r"\bOperationalError\b",
        r"\bInterfaceError\b",
        r"(server|SSL connection has been) closed the connection",
        r"SSL connection has been closed unexpectedly",
        r"deadlock detected|could not serialize access|database is locked|too many clients",
        r"QueuePool limit",
    ),
    _rule(
        "network",
        "retriable",
        "a connection broke",
        _TYPE + r"(ConnectionError|Connection\w+Error|BrokenPipeError)\b",
        r"Connection (refused|reset by peer|timed out)",
        r"(?i:temporary failure in name resolution)",
    ),
    _rule(
        "pre-emption",
        "retriable",
        "the batch system took the machine away",
        r"\bPREEMPTED\b|DUE TO PREEMPTION",
        r"(?i:\bjob\b.*\b(preempted|evicted)\b)",
    ),
    _rule(
        "time-out",
        "retriable",
        "it took longer than it may",
        _TYPE + r"(TimeoutError|TimeoutExpired)\b",
        r"DUE TO TIME LIMIT",
        r"(?i:slurm|job|state)\b.*\bTIMEOUT\b",
    ),
    _rule(
        "lost worker",
        "retriable",
        "the process or the machine that ran it died",
        r"\b(NODE_FAIL|BOOT_FAIL)\b",
        r"\b(BrokenProcessPool|WorkerLost|ManagerLost)\b",
        r"died with <Signals\.",
    ),
    _rule(
        "cancelled",
        "retriable",
        "somebody, or the batch system, ended it before its time",
        r"(?i:\b(slurm|job|run)\b.*\bcancell?ed\b)",
    ),
)
"""The table; the first rule that matches decides. What no rule knows is an exception of the science code."""

SCIENCE = _rule(
    "science",
    "permanent",
    "the science code refused this data; the same code and data fail again",
    "",
)

BY_NAME = {rule.name: rule for rule in (*RULES, SCIENCE)}


def classify(text: str) -> Rule:
    """Return the rule that a failure falls under.

    Parameters
    ----------
    text : `str`
        The exception's type and message, ``module.Type: message``, or what a batch system said.
    """
    return next((rule for rule in RULES if rule.pattern.search(text)), SCIENCE)


def is_retriable(text: str) -> bool:
    """Tell whether the text of a failure names a passing fault."""
    return classify(text).kind == "retriable"

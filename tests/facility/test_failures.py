from __future__ import annotations

import pytest

from tololo.facility.errors import BadInputError, UnavailableError
from tololo.facility.failures import BY_NAME, RULES, SCIENCE, classify, is_retriable

CASES = [
    ("MemoryError: ", "memory"),
    ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 3.2 GiB for an array", "memory"),
    ("RuntimeError: std::bad_alloc", "memory"),
    ("OSError: [Errno 12] Cannot allocate memory", "memory"),
    ("slurm: job 12 OUT_OF_MEMORY", "memory"),
    ("ValueError: the fit failed: MemoryError()", "memory"),
    ("sqlalchemy.exc.OperationalError: server closed the connection unexpectedly", "database gone"),
    ("psycopg2.OperationalError: server closed the connection", "database gone"),
    ("sqlalchemy.exc.OperationalError: database is locked", "database gone"),
    ("sqlalchemy.exc.InterfaceError: connection already closed", "database gone"),
    ("sqlalchemy.exc.DBAPIError: deadlock detected", "database gone"),
    ("OSError: [Errno 28] No space left on device", "disk full"),
    ("sqlalchemy.exc.OperationalError: (sqlite3.OperationalError) database or disk is full", "disk full"),
    ("RuntimeError: Failed to serialize dataset x to location y", "disk full"),
    ("OSError: [Errno 116] Stale file handle", "disk"),
    ("FileExistsError: cannot create directory '/a/submit/u': directory already exists", "disk"),
    ("ConnectionResetError: [Errno 104] Connection reset by peer", "network"),
    ("BrokenPipeError: [Errno 32] Broken pipe", "network"),
    ("TimeoutError: timed out", "time-out"),
    ("subprocess.TimeoutExpired: Command 'x' timed out after 5 seconds", "time-out"),
    ("slurm: job 12 TIMEOUT", "time-out"),
    ("slurmstepd: error: *** JOB 12 CANCELLED AT 2019-04-01T00:00:00 DUE TO TIME LIMIT ***", "time-out"),
    ("slurmstepd: error: *** JOB 12 CANCELLED AT 2019-04-01T00:00:00 DUE TO PREEMPTION ***", "pre-emption"),
    ("slurm: job 12 CANCELLED by 0", "cancelled"),
    ("slurm: job 12 PREEMPTED", "pre-emption"),
    ("Job was evicted.", "pre-emption"),
    ("slurm: job 12 NODE_FAIL", "lost worker"),
    ("concurrent.futures.process.BrokenProcessPool: A process in the pool was terminated", "lost worker"),
    (
        "parsl.executors.high_throughput.errors.ManagerLost: Task failure due to loss of manager",
        "lost worker",
    ),
    (f"tololo.facility.errors.UnavailableError: {UnavailableError('The database is away')}", "unavailable"),
    (f"tololo.facility.errors.BadInputError: {BadInputError('The astrometry is off')}", "bad input"),
    ("tololo.facility.errors.BadInputError: The header card TIMEOUT of job 3 is missing", "bad input"),
    ("FileNotFoundError: pipelines/nightly.yaml", "configuration"),
    ("ModuleNotFoundError: No module named 'piff'", "configuration"),
    ("lsst.pex.config.config.FieldValidationError: Field 'x' failed validation", "configuration"),
    ("RuntimeError: Output run 'u/x' already exists, but --extend-run was not given", "configuration"),
    (
        "ValueError: Output CHAINED collection 'u/x' exists, but it ends with a different sequence of input"
        " collections: it does not include the same sequence of (flattened) input collections",
        "configuration",
    ),
    ("sqlalchemy.exc.OperationalError: (sqlite3.OperationalError) no such table: DiaSource", "configuration"),
    (
        'psycopg2.OperationalError: FATAL:  password authentication failed for user "apdb"',
        "configuration",
    ),
    ("RuntimeError: QuantumGraph was empty; CRITICAL logs above should provide details.", "nothing to do"),
    ("Initial data ID query returned no rows, so QuantumGraph will be empty.", "nothing to do"),
    ("FileNotFoundError: Not enough datasets (0) found for non-optional connection a.b", "missing input"),
    ("lsst.daf.butler._exceptions.DatasetNotFoundError: Dataset bias not found", "missing input"),
    ("ValueError: operands could not be broadcast together", "science"),
    ("KeyError: 'timeout'", "science"),
    ("KeyError: 'TIMEOUT'", "science"),
    ("RuntimeError: no star has a TimeoutError", "science"),
    ("lsst.pipe.base.RepeatableQuantumError: too few stars", "science"),
    ("", "science"),
]


@pytest.mark.parametrize(("text", "name"), CASES)
def test_the_rule_that_a_failure_falls_under(text: str, name: str) -> None:
    rule = classify(text)
    assert rule.name == name
    assert is_retriable(text) is (rule.kind == "retriable")


def test_every_rule_is_tried_and_says_why() -> None:
    assert {name for _, name in CASES} == {rule.name for rule in (*RULES, SCIENCE)}
    assert len(BY_NAME) == len(RULES) + 1
    for rule in BY_NAME.values():
        assert rule.why


def test_what_passes_and_what_does_not() -> None:
    permanent = {name for name, rule in BY_NAME.items() if rule.kind == "permanent"}
    assert permanent == {"bad input", "configuration", "nothing to do", "missing input", "science"}

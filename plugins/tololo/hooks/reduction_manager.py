"""The manager without Airflow: ``bin/run python -m tololo.hooks.reduction_manager --help``."""

from __future__ import annotations

import argparse
import getpass
import logging
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from tololo.engine.locks import process_owner
from tololo.facility.configuration import facility
from tololo.facility.dataset_manager import read_manager_config
from tololo.facility.errors import NothingToDoError, TololoError
from tololo.facility.locks import POLICIES, checked_policy
from tololo.hooks.locks import LockHook
from tololo.hooks.timeseries import (
    TTL,
    DatasetLockedError,
    DatasetReduction,
    Selection,
    named_datasets,
    select_datasets,
)

_PAUSE = 1.0

_log = logging.getLogger("tololo.manager")


def main(words: Sequence[str] | None = None) -> int:
    """Reduce datasets; return 0 if none failed.

    Datasets that others hold are left to them; with a policy that may break locks the manager waits for them,
    and takes over those whose holder has died.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tololo.hooks.reduction_manager",
        description="Reduce datasets of frames, under their locks. Publishes nothing.",
    )
    parser.add_argument("path", type=Path, help="the manager's configuration, or the folder of one dataset")
    parser.add_argument("--again", action="store_true", help="measure all frames anew")
    parser.add_argument("--policy", choices=POLICIES, default="never", help="which locks may be broken")
    parser.add_argument("--ttl", type=float, default=TTL, help="seconds after which our locks are stale")
    asked = parser.parse_args(words)
    _log_to_stderr()
    hook = LockHook(process_owner(f"{getpass.getuser()} at the command line"), ttl=asked.ttl)
    try:
        found, at_once = _select(asked.path, hook, asked.policy)
        catalog = facility().dataset_catalog
    except TololoError as error:
        _log.error("%s", error)
        return 1
    _log.info("%s", found)
    for path, why in {**found.locked, **found.undated}.items():
        _log.warning("%s: %s", path, why)
    policy = checked_policy(asked.policy)

    def reduce(folder: Path) -> str:
        return _reduce(DatasetReduction(folder, hook, policy, again=asked.again, reference_catalog=catalog))

    waiting = found.chosen if policy == "never" else [*found.chosen, *found.locked]
    ended: list[str] = []
    pool = ThreadPoolExecutor(at_once)
    try:
        while waiting:
            states = dict(zip(waiting, pool.map(reduce, waiting), strict=True))
            ended += states.values()
            # Whoever holds it may die yet, and leave it to us.
            waiting = [folder for folder, state in states.items() if state == "locked" and policy != "never"]
            time.sleep(_PAUSE if waiting else 0)
        return 1 if "failed" in ended else 0
    except KeyboardInterrupt:
        return 130
    finally:
        pool.shutdown(cancel_futures=True)


def _log_to_stderr() -> None:
    """Show our own log, also where Airflow is imported meanwhile and sets up logging in its way."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    ours = logging.getLogger("tololo")
    ours.handlers, ours.propagate = [handler], False
    ours.setLevel(logging.INFO)


def _select(path: Path, hook: LockHook, policy: str) -> tuple[Selection, int]:
    """Return the datasets, and how many are reduced at once."""
    if path.is_dir():
        return named_datasets([str(path.resolve())], None, hook, checked_policy(policy)), 1
    config = read_manager_config(path)
    return select_datasets(config, hook, checked_policy(policy), datetime.now(UTC)), config.max_parallel


def _reduce(reduction: DatasetReduction) -> str:
    """Reduce one dataset; return what became of it."""
    folder = reduction.folder
    try:
        made = reduction.run(lambda line: _log.info("%s: %s", folder, line))
    except DatasetLockedError as locked:
        _log.info("%s: %s", folder, locked)
        return "locked"
    except NothingToDoError as nothing:
        _log.info("%s: skipped: %s", folder, nothing)
        return "skipped"
    except (TololoError, OSError) as error:  # a full disk too: the others go on
        _log.error("%s: failed: %s", folder, error)
        return "failed"
    _log.info("%s: %d frames, %d new", folder, made["frames"], made["measured"])
    return "reduced"


if __name__ == "__main__":
    sys.exit(main())

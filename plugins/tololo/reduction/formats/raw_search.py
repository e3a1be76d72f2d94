"""Find the raw exposures in a folder, by header; several processes read the headers of many files."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from astro_metadata_translator.indexing import process_index_data

from tololo.facility.bad_exposures import Exclusions
from tololo.facility.errors import BadInputError
from tololo.reduction.formats.file_search import FileSearch, Ignored, joined, search_files
from tololo.reduction.formats.fits_layout import is_fits
from tololo.reduction.formats.raw_exposure import RawExposure, inspect_raw
from tololo.reduction.formats.raw_night import possible_nights

_TRIAL = 16
_START_SECONDS = 2.0  # what another process needs before it can read anything
_FITS = (".fits", ".fits.fz", ".fz")
_WANTED = "name a folder with raw files of DECam (PROCTYPE raw), as the NOIRLab archive has them"

type Job = tuple[Path, Mapping[str, Any] | None]
type Finding = RawExposure | str | BadInputError
type Rejected = tuple[BadInputError, frozenset[int]]


@dataclass(frozen=True)
class Excluded:
    """An exposure that the facility does not want, or some of its detectors, and why.

    ``detectors`` are those that are left out.
    """

    exposure: RawExposure
    detectors: tuple[int, ...]
    reason: str

    def __str__(self) -> str:
        whole = self.detectors == self.exposure.detectors
        which = "" if whole else f", detector {', '.join(map(str, self.detectors))}"
        return f"exposure {self.exposure.exposure}{which} ({self.exposure.path}): {self.reason}"


@dataclass(frozen=True)
class RawSearch:
    """What was found.

    Attributes
    ----------
    exposures : `tuple` [`RawExposure`, ...]
        In time order; without the detectors that are left out.
    excluded : `tuple` [`Excluded`, ...]
        What the facility does not want: words in OBJECT, the list of bad exposures.
    rejected : `tuple` [`BadInputError`, ...]
        Files with something wrong.
    rejected_nights : `tuple` [`frozenset` [`int`], ...]
        The nights that each of these may be of; empty where nothing tells.
    ignored : `tuple` [`Ignored`, ...]
        Files that are no raws.
    """

    exposures: tuple[RawExposure, ...]
    excluded: tuple[Excluded, ...] = ()
    rejected: tuple[BadInputError, ...] = ()
    rejected_nights: tuple[frozenset[int], ...] = ()
    ignored: tuple[Ignored, ...] = ()

    def of_night(self, night: int) -> RawSearch:
        """Return what serves one night, or may serve it."""
        rejected = [
            (error, nights)
            for error, nights in zip(self.rejected, self.rejected_nights, strict=True)
            if not nights or night in nights
        ]
        return replace(
            self,
            exposures=tuple(exposure for exposure in self.exposures if exposure.night == night),
            excluded=tuple(item for item in self.excluded if item.exposure.night == night),
            rejected=tuple(error for error, _ in rejected),
            rejected_nights=tuple(nights for _, nights in rejected),
        )


def find_raws(
    folder: Path | str, exclusions: Exclusions | None = None, *, processes: int | None = None
) -> RawSearch:
    """Find the raw exposures in a folder, at any depth.

    Parameters
    ----------
    folder : `pathlib.Path` or `str`
    exclusions : `~tololo.facility.bad_exposures.Exclusions`, optional
        What is left out on purpose; the words of the Community Pipeline unless given.
    processes : `int`, optional
        How many read headers; by default as many as there are cores and work for.

    Returns
    -------
    search : `RawSearch`

    Raises
    ------
    BadInputError
        If the folder is absent or has no files. What is wrong with single files is reported, not raised.
    """
    files = search_files(Path(folder), _WANTED)
    ignored, found = files.ignored, list[RawExposure]()
    rejected: list[Rejected] = [(problem, frozenset()) for problem in files.problems]
    jobs = list(_jobs(files))
    for (path, _), finding in zip(jobs, _inspect(jobs, processes), strict=True):
        match finding:
            case RawExposure():
                found.append(finding)
            case str():
                ignored.append(Ignored(path, finding))
            case BadInputError():
                rejected.append((finding, possible_nights(path)))
    wanted: list[RawExposure] = []
    excluded: list[Excluded] = []
    for exposure in _unique(found, rejected, ignored):
        good, bad = _wanted(exposure, exclusions or Exclusions())
        wanted += [good] if good else []
        excluded += bad
    return RawSearch(
        exposures=tuple(wanted),
        excluded=tuple(excluded),
        rejected=tuple(error for error, _ in rejected),
        rejected_nights=tuple(nights for _, nights in rejected),
        ignored=tuple(ignored),
    )


def _wanted(exposure: RawExposure, exclusions: Exclusions) -> tuple[RawExposure | None, list[Excluded]]:
    """Return what of an exposure is wanted, if anything, and what is not."""
    if reason := exclusions.of_exposure(exposure.exposure, exposure.target):
        return None, [Excluded(exposure, exposure.detectors, reason)]
    bad = exclusions.of_detectors(exposure.exposure)
    by_reason: dict[str, list[int]] = {}
    for detector in exposure.detectors:
        if detector in bad:
            by_reason.setdefault(bad[detector], []).append(detector)
    excluded = [Excluded(exposure, tuple(ccds), reason) for reason, ccds in by_reason.items()]
    good = tuple(detector for detector in exposure.detectors if detector not in bad)
    return (replace(exposure, detectors=good) if good else None), excluded


def one_error(problems: Sequence[BadInputError]) -> BadInputError | None:
    """Make one error of several, or `None` of none."""
    what = "raw files cannot be taken"
    return joined(problems, what, "", "mend or remove them, and run again: nothing is ingested twice")


def _jobs(files: FileSearch) -> Iterator[Job]:
    """Yield the FITS files with what an index beside them says; stale or damaged indices are passed over."""
    indices = {path.parent: _index(path, files.ignored) for path in files.indices}
    for path in files.files:
        if not path.name.endswith(_FITS) and not _begins_as_fits(path):
            files.ignored.append(Ignored(path, "not FITS"))
        else:
            index, written = indices.get(path.parent, ({}, 0.0))
            yield path, index.get(path.name) if path.name in index and _age(path) <= written else None


def _age(path: Path) -> float:
    """Return when a file was written; one that has gone meanwhile is older than anything."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _begins_as_fits(path: Path) -> bool:
    try:
        return is_fits(path)
    except OSError:  # not readable, and nothing in its name says that it should be
        return False


def _index(path: Path, ignored: list[Ignored]) -> tuple[Mapping[str, Any], float]:
    try:
        return process_index_data(
            json.loads(path.read_text()), force_metadata=True, force_dict=False
        ), path.stat().st_mtime
    except (OSError, ValueError, AttributeError, TypeError) as error:
        ignored.append(Ignored(path, f"no usable index: {error}"))
        return {}, 0.0


def _unique(found: list[RawExposure], rejected: list[Rejected], ignored: list[Ignored]) -> list[RawExposure]:
    """Take each exposure once: of copies the fullest, of files that claim one number the first."""
    first: dict[int, RawExposure] = {}
    for exposure in sorted(found, key=lambda one: (-len(one.detectors), one.path)):
        there = first.setdefault(exposure.exposure, exposure)
        if there is exposure:
            continue
        if there.is_same_as(exposure):
            ignored.append(
                Ignored(exposure.path, f"another copy of exposure {there.exposure}, {there.path} is taken")
            )
        else:
            error = two_claims(exposure, str(there.path), there.obs_id)
            rejected.append((error, frozenset([exposure.night])))
    return sorted(first.values(), key=lambda exposure: (exposure.begin, exposure.exposure))


def two_claims(exposure: RawExposure, other: str, obs_id: str) -> BadInputError:
    """Return the error of a file whose number belongs to another exposure."""
    return BadInputError(
        f"Two files claim exposure {exposure.exposure}: {exposure.obs_id} here, {obs_id} in {other}",
        f"{exposure.path}, card EXPNUM",
        "find out which one is wrong, and take it out of the folder",
    )


def _inspect(jobs: Sequence[Job], processes: int | None) -> list[Finding]:
    """Inspect files; the first few tell whether the rest takes so long that more processes pay."""
    trial = [] if processes else jobs[:_TRIAL]
    begin = time.monotonic()
    findings: list[Finding] = [_finding(job) for job in trial]
    rest = jobs[len(trial) :]
    seconds = (time.monotonic() - begin) / max(1, len(trial)) * len(rest)
    wanted = processes or min(os.cpu_count() or 1, 1 + int(seconds / (2 * _START_SECONDS)))
    shares = [rest[first::wanted] for first in range(max(1, min(wanted, len(rest))))]
    with ThreadPoolExecutor(max(1, len(shares) - 1)) as pool:
        others = [pool.submit(_elsewhere, share) for share in shares[1:]]
        results = [[_finding(job) for job in shares[0]], *(other.result() for other in others)]
    for turn in zip_longest(*results):
        findings += [finding for finding in turn if finding is not None]
    return findings


def _finding(job: Job) -> Finding:
    path, index = job
    try:
        return inspect_raw(path, index)
    except BadInputError as error:
        return error
    except OSError as error:
        return BadInputError(f"The file cannot be read: {error}", str(path), "give the right to read it")


def _elsewhere(jobs: Sequence[Job]) -> list[Finding]:
    """Inspect files in a process of its own: a task of Airflow may not fork, nor start daemons."""
    command = [sys.executable, "-c", f"import {__name__} as search; search.answer()"]
    done = subprocess.run(
        command,
        input=pickle.dumps(jobs),
        capture_output=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"A process that reads headers has died: {done.stderr.decode()[-2000:]}")
    findings: list[Finding] = pickle.loads(done.stdout)
    return findings


def answer() -> None:
    """Inspect the files that come on the standard input, and write the findings; both pickled."""
    jobs: list[Job] = pickle.load(sys.stdin.buffer)
    findings = [_finding(job) for job in jobs]
    sys.stdout.buffer.write(pickle.dumps(findings))

"""A home of its own for whatever a test makes, and small nights in a repository that several rooms share."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tololo.engine.attempt import Attempt, AttemptState
    from tololo.facility.run import RunRequest
    from tololo.simulation.truth import Truth

_HOME = tempfile.TemporaryDirectory(prefix="tololo-tests-")

# Airflow makes its folder when it is imported, so this cannot wait for a fixture.
os.environ["AIRFLOW_HOME"] = os.path.join(_HOME.name, "airflow")
os.environ["TOLOLO_HOME"] = os.path.join(_HOME.name, "tololo")


NIGHT, SPARE = 20190309, 20190312
"""Nights: two good exposures and one whose WCS is far off; one exposure that nobody has reduced."""
GOOD_VISITS, BAD_VISIT, SPARE_VISIT = (840001, 840002), 840003, 840004
DETECTOR = 28


@dataclass(frozen=True)
class Reduced:
    """A repository in which NIGHT has been reduced, how that went, and the attempt that two calls found."""

    repository: Path
    state: AttemptState
    attached: tuple[Path, Path]

    def copy(self, folder: Path) -> Path:
        return Path(shutil.copytree(self.repository, folder / "repository"))


def instcal_request(repository: Path, night: int, **changes: Any) -> RunRequest:
    """What nightly_decam asks of bps, on site local."""
    from tololo.facility.configuration import INCLUDE
    from tololo.facility.run import RunRequest

    request = RunRequest(
        repository=str(repository),
        pipeline=f"{INCLUDE}/pipelines/embedded/nightly_decam.yaml#instcal",
        parent=f"{night}/instcal",
        step="instcal",
        inputs=["refcats", "skymaps", f"{night}/instcal/raw"],
        where=f"instrument = 'DECam' AND visit.day_obs = {night}",
        site="local",
    )
    return replace(request, **changes)


def wait_for(attempt: Attempt, phases: tuple[str, ...]) -> AttemptState:
    """Follow an attempt until it is in one of some phases; it may neither end nor lose its driver before."""
    from tololo.engine.attempt import ENDED

    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        lost = not attempt.is_alive()
        state = attempt.state  # read after that: a driver writes its last state and goes
        if state.phase in phases:
            return state
        if lost or state.phase in ENDED:
            raise AssertionError(f"{attempt.folder} is left in {state}: {attempt.log.read_text()[-2000:]}")
        time.sleep(0.01)
    raise AssertionError(f"{attempt.folder} is still {attempt.state.phase}")


def processes_below(*folders: str) -> list[int]:
    """Processes that work below one of some folders, or have their TOLOLO_HOME there.

    These are engine servers and what they have forked; a process with a title shows no environment.
    """
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            places = [os.readlink(process / "cwd")]
            environment = (process / "environ").read_bytes().decode(errors="replace").split("\0")
            places += [line.removeprefix("TOLOLO_HOME=") for line in environment if "TOLOLO_HOME=" in line]
            if any(place.startswith(f"{folder}/") for folder in folders for place in places):
                found.append(int(process.name))
    return [pid for pid in found if pid != os.getpid()]


@pytest.fixture(scope="session", autouse=True)
def nothing_stays_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """End the engine servers of all the homes that tests have made, and what still runs of theirs."""
    yield
    while left := processes_below(_HOME.name, str(tmp_path_factory.getbasetemp())):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


@pytest.fixture(scope="session")
def registry_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The database for registries in a PostgreSQL of the tests' own."""
    from tololo.services import postgres
    from tololo.services.home import Home

    home = Home(tmp_path_factory.mktemp("home"))
    try:
        yield postgres.start(home).url("butler")
    finally:
        postgres.stop(home)


@pytest.fixture(scope="session")
def small_nights(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Four exposures of a quarter of a megapixel, the third with a WCS that is far off."""
    from tololo.simulation.instcal import simulate_nights
    from tololo.simulation.plan import Fault, Plan, PlannedExposure

    plan = Plan(
        exposures=tuple(PlannedExposure(night) for night in (NIGHT, NIGHT, NIGHT, SPARE)),
        detectors=(DETECTOR,),
        shape=(512, 512),
        stars_per_deg2=60000.0,
        galaxies=10,
        transients=0,
        dither=5.0,
        faults=(Fault("wrong_wcs", exposure=2, pixels=200.0),),
    )
    return simulate_nights(tmp_path_factory.mktemp("small") / "nights", plan=plan, seed=4)


@pytest.fixture(scope="session")
def ingested(small_nights: Truth, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that holds all exposures and no visit; tests that write take a copy."""
    import yaml

    from tololo.facility.configuration import INCLUDE
    from tololo.hooks.bootstrap import BootstrapPlan, bootstrap, footprint_of
    from tololo.hooks.butler import ButlerHook

    plan = BootstrapPlan(
        repository=str(tmp_path_factory.mktemp("ingested") / "repository"),
        skymaps=yaml.safe_load((INCLUDE / "configs" / "skymaps.yaml").read_text()),
        footprint=footprint_of(str(small_nights.reference)),
        refcats={"gaia_dr2": str(small_nights.reference)},
    )
    bootstrap(plan)
    ButlerHook(plan.repository).ingest_instcal(small_nights.images)
    return Path(plan.repository)


@pytest.fixture
def own_repository(ingested: Path, tmp_path: Path) -> Path:
    """A copy of `ingested`."""
    return Path(shutil.copytree(ingested, tmp_path / "repository"))


@pytest.fixture(scope="session")
def reduced(ingested: Path, tmp_path_factory: pytest.TempPathFactory) -> Reduced:
    """NIGHT after bps; tests that write take a copy."""
    from tololo.engine.attempt import ENDED
    from tololo.hooks.bps import BpsHook

    root = tmp_path_factory.mktemp("reduced")
    repository = Path(shutil.copytree(ingested, root / "repository"))
    hook = BpsHook(root / "runs")
    request = instcal_request(repository, NIGHT)
    first, second = hook.attach_or_start(request), hook.attach_or_start(request)
    return Reduced(repository, wait_for(first, ENDED), (first.folder, second.folder))

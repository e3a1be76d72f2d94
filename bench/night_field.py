"""What `make bench NAME=night` reduces: one simulated CCD with its masters, and the quantum to be run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lsst.ctrl.mpexec.cli.script import pre_exec_init_qbb
from lsst.daf.butler import Butler, Timespan
from lsst.pipe.base import Pipeline
from lsst.pipe.base.quantum_graph import PredictedQuantumGraph
from lsst.pipe.base.simple_pipeline_executor import SimplePipelineExecutor

from tololo.engine.graph import build_graph
from tololo.facility import collections
from tololo.facility.configuration import INCLUDE
from tololo.facility.run import RunRequest
from tololo.hooks.bootstrap import BootstrapPlan, bootstrap
from tololo.hooks.night_calibrations import certify_night
from tololo.reduction.formats.images import Planes, planes_of
from tololo.reduction.formats.raw import RawDetector, read_raw
from tololo.reduction.formats.raw_search import find_raws
from tololo.reduction.ingest_raw import ingest_raws
from tololo.reduction.references import References, references_on
from tololo.simulation.raw import simulate_raw_nights
from tololo.simulation.raw_plan import RawNight, RawPlan
from tololo.simulation.raw_truth import RawTruth

NIGHT, DETECTOR, BAND = 20190305, 28, "r"
PIPELINE = f"{INCLUDE}/pipelines/embedded/nightly_decam.yaml"


def plan_of(seeing: float, seed: int) -> RawPlan:
    """Plan one exposure that shows stars down to 5 sigma, some 1700 cosmic rays, and its calibrations."""
    night = RawNight(NIGHT, zeros=7, flats=7, objects=1, exptime=40.0, seeing=seeing, bands=(BAND,))
    return RawPlan(nights=(night,), detectors=(DETECTOR,), galaxies=400, cosmic_rays=300.0, trails=0.0)


@dataclass(frozen=True)
class Field:
    """A repository in which one quantum waits, and the truth about its pixels.

    ``path`` is the fpacked raw; ``graph`` and ``quantum`` say what to run, ``run`` where it writes.
    """

    truth: RawTruth
    visit: int
    path: Path
    repository: Path
    graph: Path
    quantum: str
    run: str

    @property
    def outputs(self) -> Path:
        """Folder of the quantum's datasets."""
        return self.repository / self.run

    @property
    def command(self) -> str:
        """The command line of the quantum's job on the site ``local``."""
        return (
            f"pipetask --long-log --log-level=INFO run-qbb {self.repository} {self.graph} "
            f"--qgraph-node-id {self.quantum} --no-raise-on-partial-outputs"
        )

    @property
    def fwhm(self) -> float:
        """True seeing at the middle of the CCD, pixels."""
        return float(self.truth.psf(self.visit, DETECTOR).fwhm[0])

    @property
    def year(self) -> float:
        """Julian year of the exposure."""
        return 2000.0 + (float(self.truth.exposures["mjd_utc"][0]) - 51544.5) / 365.25

    @property
    def raw(self) -> RawDetector:
        """The raw."""
        return read_raw(self.path, DETECTOR)

    def masters(self) -> tuple[Planes, Planes]:
        """Return the bias (ADU) and the flat that the night uses."""
        span = Timespan.from_day_obs(NIGHT, offset=43200)
        ccd: dict[str, Any] = {"instrument": "DECam", "detector": DETECTOR}
        glass = ccd | {"physical_filter": str(self.raw.header["FILTER"]).strip()}
        with Butler.from_config(str(self.repository)) as butler:
            bias, flat = (
                butler.get(kind, data_id, collections=collections.calib(NIGHT, kind), timespan=span)
                for kind, data_id in (("bias", ccd), ("flat", glass))
            )
        return planes_of(bias), planes_of(flat)

    def references(self) -> References:
        """Return the reference stars on the CCD, by the header's WCS."""
        raw, (exposure,) = self.raw, self.truth.exposures
        with Butler.from_config(str(self.repository), collections="refcats") as butler:
            gaia, ps1 = (
                [butler.get(ref) for ref in sorted(butler.query_datasets(name))]
                for name in ("gaia_dr2", "ps1")
            )
        return references_on(gaia, raw.wcs, raw.shape, BAND, float(exposure["mjd_utc"]), 0.0, ps1)


def prepare(folder: Path, seeing: float = 1.2, seed: int = 1) -> Field:
    """Simulate the night, make and certify its masters, and build the graph of the visit."""
    truth = simulate_raw_nights(folder / "night", plan_of(seeing, seed), seed)
    repository = folder / "repository"
    catalogues = {"gaia_dr2": str(truth.reference), "ps1": str(truth.reference_ps1)}
    bootstrap(
        BootstrapPlan(str(repository), refcats=catalogues), ["create", "instrument", "refcats", "chains"]
    )
    search = find_raws(truth.images, processes=1)
    with Butler.from_config(str(repository), writeable=True) as butler:
        ingest_raws(butler, search.exposures)
    for kind in ("bias", "flat"):
        calibrate(repository, kind)
    parent = collections.chain("drp", NIGHT)
    request = RunRequest(
        repository=str(repository),
        pipeline=f"{PIPELINE}#calibrateVisit",
        parent=parent,
        step="visit",
        inputs=[
            collections.REFCATS,
            *(collections.calib(NIGHT, kind) for kind in ("bias", "flat")),
            f"{parent}/raw",
        ],
    )
    run = collections.run(parent, request.pipeline_name, request.step, datetime.now(UTC))
    graph = folder / "visit.qg"
    with Butler.from_config(str(repository), writeable=True) as butler:
        build_graph(request, butler, run, graph)
    pre_exec_init_qbb(str(repository), str(graph), qgraph_id=None, config_search_path=None)
    with PredictedQuantumGraph.open(str(graph)) as reader:
        reader.read_thin_graph()
        ((quantum,),) = (quanta.values() for quanta in reader.finish().quanta_by_task.values())
    (path,) = truth.images.glob("*_ori.fits.fz")
    visit = int(truth.exposures["visit"][0])
    return Field(truth, visit, path, repository, graph, str(quantum), run)


def calibrate(repository: Path, kind: str) -> None:
    """Combine the night's raws of a kind and certify the master for the night."""
    inputs = [name for name in collections.chain_inputs(kind, NIGHT) if name != collections.CALIBS]
    with SimplePipelineExecutor.prep_butler(
        str(repository), inputs, collections.chain(kind, NIGHT)
    ) as butler:
        pipeline = Pipeline.from_uri(f"{PIPELINE}#{kind}")
        SimplePipelineExecutor.from_pipeline(pipeline, butler=butler).run(register_dataset_types=True)
    with Butler.from_config(str(repository), writeable=True) as butler:
        certify_night(butler, NIGHT, kind)

"""Nights of raws for the bench of ingest: headers without pixels, and what runs leave in a registry.

What the registry costs does not depend on pixels. A file has the headers of a whole raw with its 62 CCDs, as
the simulator writes them, each with a compressed image of 8 x 8 pixels. What a run has made is entered in the
registry and in the datastore's records, with one small file in the place of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.time import Time
from lsst.daf.butler import (
    CollectionType,  # type: ignore[attr-defined]
    DatasetRef,
    FileDataset,
    Timespan,
)
from lsst.pipe.base import Pipeline

from tololo.facility import collections
from tololo.facility.configuration import INCLUDE
from tololo.facility.nights import night_bounds, shift
from tololo.facility.run import RunRequest
from tololo.hooks.bootstrap import BootstrapPlan, bootstrap
from tololo.hooks.butler import ButlerHook
from tololo.hooks.chains import write_chain
from tololo.reduction.formats.raw_formatter import RawFormatter
from tololo.simulation.raw_camera import make_chip
from tololo.simulation.raw_cards import raw_detector_header, raw_primary
from tololo.simulation.raw_plan import RawNight, RawPlan
from tololo.simulation.raw_schedule import schedule

if TYPE_CHECKING:
    from lsst.daf.butler import Butler
    from lsst.pipe.base.pipeline_graph import PipelineGraph

PIPELINE = f"{INCLUDE}/pipelines/embedded/nightly_decam.yaml"
FIRST = 20190305
DETECTORS = tuple(range(1, 63))
_PIXELS = np.zeros((8, 8), np.uint16)


class Headers:
    """Writer of raws that are all header."""

    def __init__(self, detectors: tuple[int, ...] = DETECTORS) -> None:
        self.detectors = detectors
        plan = self.plan(RawNight(FIRST))
        (exposure, *_) = schedule(plan, np.random.default_rng([1, 0]))
        self._ccds = b"".join(
            self._hdu(raw_detector_header(plan, exposure, make_chip(plan, 1, number))) for number in detectors
        )

    def plan(self, *nights: RawNight) -> RawPlan:
        """Return the plan of nights."""
        return RawPlan(nights=nights, detectors=self.detectors)

    def write(self, folder: Path, *nights: RawNight) -> int:
        """Write the raws of nights into a folder, and return how many exposures there are."""
        plan = self.plan(*nights)
        folder.mkdir(parents=True, exist_ok=True)
        exposures = schedule(plan, np.random.default_rng([1, 0]))
        for exposure in exposures:
            primary = BytesIO()
            fits.PrimaryHDU(header=raw_primary(plan, exposure, len(self.detectors))).writeto(primary)
            (folder / exposure.name).write_bytes(primary.getvalue() + self._ccds)
        return len(exposures)

    @staticmethod
    def _hdu(header: fits.Header) -> bytes:
        whole = BytesIO()
        hdu = fits.CompImageHDU(_PIXELS, header, compression_type="RICE_1")
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(whole)
        return whole.getvalue()[2880:]


def make_repository(folder: Path, registry_url: str, namespace: str, *, field: bool = True) -> ButlerHook:
    """Make a repository with the camera, and where runs are to follow with a sky map and reference stars."""
    center, steps = RawPlan(), ["create", "instrument"]
    skymap = {"raList": [center.ra], "decList": [center.dec], "radiusList": [1.0]}
    folder.parent.mkdir(parents=True, exist_ok=True)
    stars = folder.with_suffix(".ecsv")
    if field:
        steps += ["skymap", "refcats", "chains"]
        offsets = np.meshgrid(np.arange(-1.4, 1.5, 0.2), np.arange(-1.4, 1.5, 0.2))
        ra, dec = center.ra + offsets[0].ravel(), center.dec + offsets[1].ravel()
        table = {"source_id": np.arange(len(ra)), "ra": ra, "dec": dec, "phot_g_mean_mag": ra * 0 + 16.0}
        Table(table).write(stars, overwrite=True)
    plan = BootstrapPlan(
        str(folder),
        registry_url,
        namespace if registry_url else "",
        skymaps={"field": {"name": "discrete", "config": skymap}},
        refcats={"gaia_dr2": str(stars)},
    )
    bootstrap(plan, steps)
    return ButlerHook(folder)


def nights(number: int) -> list[int]:
    """Return so many nights, one after the other."""
    return [shift(FIRST, days) for days in range(number)]


def request_of(repository: str, night: int, step: str) -> RunRequest:
    """Return what nightly_decam asks for in a step ``bias``, ``flat`` or ``visit``."""
    kind = "drp" if step == "visit" else step
    calibrations = {"bias": [], "flat": ["bias"], "visit": ["bias", "flat"]}[step]
    inputs = [f"{night}/{kind}/raw", *(collections.calib(night, name) for name in calibrations)]
    condition = f" AND visit.day_obs = {night}" if step == "visit" else ""
    return RunRequest(
        repository=repository,
        pipeline=f"{PIPELINE}#{step}",
        parent=f"{night}/{kind}",
        step=step,
        inputs=[*inputs, *(["refcats", "skymaps"] if step == "visit" else [])],
        where=f"instrument = 'DECam'{condition}",
    )


class Results:
    """What runs of the pipeline leave behind, without their pixels."""

    def __init__(self, hook: ButlerHook, file: Path, detectors: tuple[int, ...]) -> None:
        file.write_bytes(b"")
        self._hook, self._file, self._detectors = hook, file, detectors
        self._graphs: dict[str, PipelineGraph] = {}
        with hook.open(writeable=True) as butler:
            for step in ("bias", "flat", "visit"):
                graph = Pipeline.from_uri(f"{PIPELINE}#{step}").to_graph()
                graph.resolve(butler.registry)
                graph.register_dataset_types(butler)
                self._graphs[step] = graph

    def add(self, night: int, step: str) -> int:
        """Enter the outputs of a step, certify calibrations, write the chain; return how many there are."""
        request = request_of("", night, step)
        when = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=night % 10000)
        run = collections.run(request.parent, "nightly_decam", step, when)
        kind = request.parent.rpartition("/")[2]
        with self._hook.session(writeable=True) as butler:
            butler.collections.register(run)
            refs = list(self._refs(butler, night, step, run))
            by_type: dict[str, list[DatasetRef]] = {}
            for ref in refs:
                by_type.setdefault(ref.datasetType.name, []).append(ref)
            for ref in by_type.pop("visit_summary", []):
                butler.put(self._summary(ref.dataId["visit"], night), ref)
            files = [
                FileDataset(str(self._file), group, formatter=RawFormatter) for group in by_type.values()
            ]
            butler.ingest(*files, transfer="direct")
            if step in by_type:
                certified = collections.calib(night, step)
                butler.collections.register(certified, CollectionType.CALIBRATION)
                begin, end = (Time(time, scale="utc").tai for time in night_bounds(night))
                butler.registry.certify(certified, by_type[step], Timespan(begin, end))
            write_chain(butler, request.parent, inputs=collections.chain_inputs(kind, night))
        return len(refs)

    def _summary(self, visit: int, night: int) -> Table:
        """Return what a scorecard reads of a visit: numbers of a good one, for each detector."""
        rows = {
            "fwhm": 1.0, "ellipticity": 0.05, "sky": 300.0, "zero_point": 30.0, "zero_point_scatter": 0.01,
            "limiting_magnitude": 23.5, "n_zero_point": 100, "astrometric_rms": 0.05, "pixel_scale": 0.263,
            "bias_run": f"{night}/bias/nightly_decam/bias/20260101T000000Z",
            "flat_run": f"{night}/flat/nightly_decam/flat/20260101T000000Z",
        }  # fmt: skip
        return Table([{"visit": visit, "detector": number} | rows for number in self._detectors])

    def _refs(self, butler: Butler, night: int, step: str, run: str) -> Iterator[DatasetRef]:
        tag = collections.raws(request_of("", night, step).parent)
        raws = [
            ref.dataId for ref in butler.query_datasets("raw", tag, with_dimension_records=True, limit=None)
        ]
        graph = self._graphs[step]
        for task in graph.tasks.values():
            for edge in task.iter_all_outputs():
                dataset_type = graph.dataset_types[edge.parent_dataset_type_name].dataset_type
                names = dataset_type.dimensions.names
                if "visit" in names:
                    found: Iterable[object] = butler.query_data_ids(
                        dataset_type.dimensions,
                        where="instrument = 'DECam' AND visit.day_obs = :night AND detector IN (:detectors)"
                        if "detector" in names
                        else "instrument = 'DECam' AND visit.day_obs = :night",
                        bind={"night": night, "detectors": list(self._detectors)},
                        with_dimension_records=True,
                        limit=None,
                    )
                else:
                    found = {raw.subset(dataset_type.dimensions) for raw in raws}
                yield from (DatasetRef(dataset_type, data_id, run) for data_id in found)

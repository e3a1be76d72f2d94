"""Associate a night's diaSources with diaObjects and store them in the APDB, in visit-time order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lsst.pex.config as pex_config
import lsst.pipe.base as pipe_base
import numpy as np
from astropy.table import Table
from lsst.pipe.base import connectionTypes as ct

from tololo.reduction.apdb import open_apdb
from tololo.reduction.association import DetectorVisit, VisitInfo, associate_night
from tololo.reduction.dia_objects import Columns
from tololo.reduction.ephemerides import read_ephemerides
from tololo.reduction.forced import ForcedImages
from tololo.reduction.formats.images import VisitContext
from tololo.reduction.formats.obs_info import exposure_seconds
from tololo.reduction.source_selection import SourceSelection


class AssociateApdbConnections(pipe_base.PipelineTaskConnections, dimensions=("instrument", "day_obs")):
    """The night's sources and images in; what was stored out."""

    sources = ct.Input(
        doc="Sources of the difference images.",
        name="dia_source_unfiltered",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
        deferLoad=True,
    )
    differences = ct.Input(
        doc="Difference images.",
        name="difference_image",
        storageClass="DifferenceImage",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
        deferLoad=True,
    )
    visit_images = ct.Input(
        doc="Visit images.",
        name="visit_image",
        storageClass="VisitImage",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
        deferLoad=True,
    )
    objects = ct.Output(
        doc="diaObjects in the night's footprint, as they stand after the night.",
        name="dia_object",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "day_obs"),
    )
    associated = ct.Output(
        doc="One row for each detector of a visit: what the APDB took.",
        name="association_summary",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "day_obs"),
    )


class AssociateApdbConfig(pipe_base.PipelineTaskConfig, pipelineConnections=AssociateApdbConnections):
    """Which APDB, and what may enter it."""

    apdb_config = pex_config.Field[str](doc="Configuration file of the APDB.", default="")
    radius = pex_config.Field[float](doc="Largest distance of a match, arcsec.", default=1.0)
    late_nights = pex_config.ChoiceField[str](
        doc="What becomes of later visits that are stored already, where an earlier one is not.",
        allowed={
            "refuse": "They stay, and the earlier one is refused.",
            "replay": "They are taken out, and wait to be associated again after the earlier one.",
        },
        default="refuse",
    )
    ephemerides = pex_config.Field[str](doc="Table of the places of known moving bodies.", default="")
    ephemerides_radius = pex_config.Field[float](
        doc="How near to its ephemeris a known body is expected, arcsec.", default=2.0
    )
    minimum_reliability = pex_config.Field[float](doc="Sources below it stay out.", default=0.5)


class AssociateApdbTask(pipe_base.PipelineTask):
    """Walk the night's visits in time order; see `tololo.reduction.association`.

    One quantum does the whole night: no batch system can then mix up the order of the visits. A visit that
    the APDB holds is left as it is, so the quantum can be killed and run again.
    """

    ConfigClass = AssociateApdbConfig
    _DefaultName = "associateApdb"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Associate one night."""
        handles = {
            name: {_key(handle): handle for handle in butlerQC.get(getattr(inputRefs, name))}
            for name in ("sources", "differences", "visit_images")
        }
        complete = sorted(set.intersection(*(set(group) for group in handles.values())))
        if not complete:
            raise pipe_base.NoWorkFound("No detector of this night has a difference image")
        apdb = open_apdb(self.config.apdb_config)
        visits = [
            self._detector_visit(*(handles[name][key] for name in ("sources", "differences", "visit_images")))
            for key in complete
        ]
        selection = SourceSelection(minimum_reliability=self.config.minimum_reliability)
        ephemerides = self.config.ephemerides
        results = associate_night(
            apdb,
            visits,
            radius=self.config.radius,
            selection=selection,
            late_nights=self.config.late_nights,
            known_bodies=read_ephemerides(ephemerides) if ephemerides else None,
            known_radius=self.config.ephemerides_radius,
        )
        for result in results:
            self.log.info("%s", result)
        known = [apdb.objects(item.info.region, self.config.radius) for item in visits]
        butlerQC.put(_objects(known), outputRefs.objects)
        rows = [vars(result) for result in results]
        butlerQC.put(Table({name: [row[name] for row in rows] for name in rows[0]}), outputRefs.associated)

    def _detector_visit(self, sources: Any, difference: Any, science: Any) -> DetectorVisit:
        data_id = sources.dataId
        context = VisitContext(
            data_id["detector"],
            data_id["band"],
            science.get(component="obs_info"),
            science.get(component="sky_projection"),
        )
        info = VisitInfo(
            visit=int(data_id["visit"]),
            detector=int(data_id["detector"]),
            band=data_id["band"],
            midpoint=context.midpoint_mjd_tai,
            region=data_id.region,
            exposure_time=exposure_seconds(context.obs_info),
        )

        def load() -> tuple[Table, Any]:
            table = sources.get()
            # A detection with an objection (dipole, edge, bad pixels ...) stays in the Butler's table only.
            return table[table["rejection"] == ""], ForcedImages.of(difference.get(), science.get()).measure

        return DetectorVisit(info, load)


def _key(handle: Any) -> tuple[int, int]:
    return int(handle.dataId["visit"]), int(handle.dataId["detector"])


def _objects(known: Sequence[Columns]) -> Table:
    """Join the objects of detectors, each object once, by id."""
    names = ("diaObjectId", "ra", "dec")
    joined = {name: np.concatenate([columns[name] for columns in known]) for name in names}
    _, first = np.unique(joined["diaObjectId"], return_index=True)
    return Table({name: column[first] for name, column in joined.items()})

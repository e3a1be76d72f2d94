"""Write the alerts of a detector: what is new in the APDB, its history, and what it looks like."""

from __future__ import annotations

from typing import Any

import lsst.pex.config as pex_config
import lsst.pipe.base as pipe_base
from lsst.pipe.base import connectionTypes as ct

from tololo.reduction.alert_records import HISTORY_DAYS, alert_records
from tololo.reduction.alerts import pack
from tololo.reduction.apdb import CampaignApdb, open_apdb, reachable
from tololo.reduction.cutouts import STAMP_PIXELS, CutoutSource, cutout, fits_bytes
from tololo.reduction.formats.alert_packets import STORAGE_CLASS, AlertPackets


class PackageAlertsConnections(
    pipe_base.PipelineTaskConnections, dimensions=("instrument", "visit", "detector")
):
    """Images and the end of the association in, packets out."""

    difference = ct.Input(
        doc="Difference image.",
        name="difference_image",
        storageClass="DifferenceImage",
        dimensions=("instrument", "visit", "detector"),
        deferLoad=True,
    )
    visit_image = ct.Input(
        doc="Visit image.",
        name="visit_image",
        storageClass="VisitImage",
        dimensions=("instrument", "visit", "detector"),
        deferLoad=True,
    )
    template = ct.Input(
        doc="The template on the pixels of the detector.",
        name="template_detector",
        storageClass="MaskedImageV2",
        dimensions=("instrument", "visit", "detector"),
        deferLoad=True,
    )
    associated = ct.Input(
        doc="What the APDB took of the night: packets are written after it.",
        name="association_summary",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "day_obs"),
        deferLoad=True,
    )
    packets = ct.Output(
        doc="Alerts of the sources that entered the APDB.",
        name="alert_packets",
        storageClass=STORAGE_CLASS,
        dimensions=("instrument", "visit", "detector"),
    )


class PackageAlertsConfig(pipe_base.PipelineTaskConfig, pipelineConnections=PackageAlertsConnections):
    """Which APDB, and how much of the past and of the images."""

    apdb_config = pex_config.Field[str](doc="Configuration file of the APDB.", default="")
    history_days = pex_config.Field[float](doc="Age of the oldest earlier source.", default=HISTORY_DAYS)
    stamp_pixels = pex_config.Field[int](
        doc="Side of a cutout, odd.", default=STAMP_PIXELS, check=lambda size: size > 0 and size % 2 == 1
    )


class PackageAlertsTask(pipe_base.PipelineTask):
    """Write an Avro file of alerts; see `tololo.reduction.alerts`.

    It only reads the APDB, so it can be killed and run again, and writes the same file then.
    """

    ConfigClass = PackageAlertsConfig
    _DefaultName = "packageAlerts"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Package one detector."""
        data_id = outputRefs.packets.dataId
        apdb = open_apdb(self.config.apdb_config)
        handles = {
            "cutoutDifference": butlerQC.get(inputRefs.difference),
            "cutoutScience": butlerQC.get(inputRefs.visit_image),
            "cutoutTemplate": butlerQC.get(inputRefs.template),
        }
        packets = self.package(apdb, int(data_id["visit"]), int(data_id["detector"]), handles)
        butlerQC.put(packets, outputRefs.packets)

    def package(self, apdb: CampaignApdb, visit: int, detector: int, handles: dict[str, Any]) -> AlertPackets:
        """Return the packets of a detector.

        Parameters
        ----------
        apdb : `~tololo.reduction.apdb.CampaignApdb`
        visit, detector : `int`
        handles : `dict`
            By the name of its cutout, something whose ``get()`` returns an image; asked only if there are
            alerts.

        Raises
        ------
        lsst.pipe.base.NoWorkFound
            The APDB holds nothing of this detector: it was not associated, or its night was withdrawn.
        """
        where = f"visit {visit}, detector {detector}"
        with reachable(f"APDB {self.config.apdb_config}"):
            if apdb.stored(visit, detector) is None:
                raise pipe_base.NoWorkFound(f"{where}: the APDB {apdb.name} holds nothing of it")
            records = alert_records(apdb, visit, detector, self.config.history_days)
        if records:
            for name, handle in handles.items():
                source = CutoutSource.of(handle.get())
                for record in records:
                    place = record["diaSource"]
                    stamp = cutout(source, place["x"], place["y"], self.config.stamp_pixels)
                    record[name] = fits_bytes(stamp)
        self.log.info("%s: %d alerts", where, len(records))
        return pack(records)

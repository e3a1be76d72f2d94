"""Calibrate one detector of an InstCal exposure."""

from __future__ import annotations

from typing import Any

import lsst.pipe.base as pipe_base
import numpy as np
from astro_metadata_translator import ObservationInfo
from astropy.table import Table
from lsst.pipe.base import connectionTypes as ct

from tololo.reduction.calibrate import calibrate
from tololo.reduction.formats.images import VisitContext, header_cards, visit_image
from tololo.reduction.formats.instcal import instcal_pixels
from tololo.reduction.formats.obs_info import begin_mjd_tai, night_of
from tololo.reduction.ids import source_ids
from tololo.reduction.references import references_on
from tololo.reduction.tasks.calibrated_detector import CalibratedDetectorConnections

CARDS = ("EXPNUM", "CCDNUM", "DETPOS", "FILTER", "OBJECT", "PROPID", "PLVER", "MAGZERO", "DATE-OBS")
"""Cards of the archive's header that go along with the image."""


class CalibrateInstcalConnections(
    CalibratedDetectorConnections, dimensions=("instrument", "visit", "detector")
):
    """The archive's three planes and reference stars in, a calibrated image and its stars out."""

    image = ct.Input(
        doc="Pixels, ADU.",
        name="instcal_image",
        storageClass="ImageV2",
        dimensions=("instrument", "exposure", "detector"),
    )
    weight = ct.Input(
        doc="Inverse variance.",
        name="instcal_weight",
        storageClass="ImageV2",
        dimensions=("instrument", "exposure", "detector"),
    )
    mask = ct.Input(
        doc="Data quality.",
        name="instcal_mask",
        storageClass="ImageV2",
        dimensions=("instrument", "exposure", "detector"),
    )


class CalibrateInstcalConfig(pipe_base.PipelineTaskConfig, pipelineConnections=CalibrateInstcalConnections):
    """No choices."""


class CalibrateInstcalTask(pipe_base.PipelineTask):
    """Background, PSF, photometry, astrometry and zero point; see `tololo.reduction.calibrate`."""

    ConfigClass = CalibrateInstcalConfig
    _DefaultName = "calibrateInstcal"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Calibrate one detector."""
        data_id = outputRefs.calibrated.dataId
        visit, detector, band = int(data_id["visit"]), int(data_id["detector"]), data_id["band"]
        where = f"visit {visit}, detector {detector}"
        pixels = instcal_pixels(
            butlerQC.get(inputRefs.image), butlerQC.get(inputRefs.weight), butlerQC.get(inputRefs.mask), where
        )
        info = ObservationInfo(dict(pixels.header), pedantic=False, translator_class=None)
        shards = [handle.get() for handle in butlerQC.get(inputRefs.references)]
        references = references_on(shards, pixels.wcs, pixels.image.shape, band, begin_mjd_tai(info))
        result = calibrate(pixels, references, where)
        self.log.info(
            "%s: FWHM %.2f arcsec, zero point %.3f +- %.3f (%d stars), shift %.2f %.2f pixels",
            where,
            result.summary["fwhm"],
            result.zero_point.value,
            result.zero_point.error,
            result.zero_point.n_used,
            result.summary["shift_x"],
            result.summary["shift_y"],
        )
        context = VisitContext.from_wcs(result.wcs, pixels.image.shape, detector, band, info)
        metadata = header_cards(CARDS, pixels.header) | {
            "SHIFT_X": result.summary["shift_x"],
            "SHIFT_Y": result.summary["shift_y"],
            "ZPERR": result.zero_point.error,
        }
        image = visit_image(result.planes, result.psf, context, result.stats, result.njy_per_adu, metadata)
        butlerQC.put(image, outputRefs.calibrated)
        ids = {
            "sourceId": source_ids(visit, detector, len(result.stars)),
            "visit": np.full(len(result.stars), visit, np.int64),
            "detector": np.full(len(result.stars), detector, np.int16),
            "band": np.full(len(result.stars), band),
        }
        butlerQC.put(
            Table({**ids, **{name: result.stars[name] for name in result.stars.colnames}}), outputRefs.stars
        )
        row = {"visit": visit, "detector": detector, "band": band, "day_obs": night_of(info)}
        row |= {"mjd_tai": context.midpoint_mjd_tai, "exposure_time": result.stats.expTime, **result.summary}
        butlerQC.put(Table({name: [value] for name, value in row.items()}), outputRefs.summary)

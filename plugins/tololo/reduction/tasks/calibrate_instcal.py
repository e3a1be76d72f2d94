"""Calibrate one detector of an InstCal exposure."""

from __future__ import annotations

from typing import Any

import lsst.pipe.base as pipe_base
from astro_metadata_translator import ObservationInfo
from lsst.pipe.base import connectionTypes as ct

from tololo.reduction.calibrate import calibrate
from tololo.reduction.formats.images import header_cards
from tololo.reduction.formats.instcal import instcal_pixels
from tololo.reduction.formats.obs_info import begin_mjd_tai
from tololo.reduction.references import references_on
from tololo.reduction.tasks.calibrated_detector import CalibratedDetectorConnections, put_calibrated

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
        put_calibrated(butlerQC, outputRefs, result, info, header_cards(CARDS, pixels.header))

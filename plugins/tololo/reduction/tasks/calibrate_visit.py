"""Calibrate one detector of a raw exposure."""

from __future__ import annotations

from typing import Any

import lsst.pex.config as pex_config
import lsst.pipe.base as pipe_base
from astro_metadata_translator import ObservationInfo
from lsst.pipe.base import connectionTypes as ct

from tololo.reduction.calibrate_raw import MARGIN, calibrate_raw
from tololo.reduction.formats.images import header_cards, planes_of
from tololo.reduction.formats.masks import BIT
from tololo.reduction.formats.obs_info import begin_mjd_tai
from tololo.reduction.formats.raw import raw_detector
from tololo.reduction.isr import Crosstalk, correct
from tololo.reduction.references import references_on
from tololo.reduction.tasks.calibrated_detector import CalibratedDetectorConnections, put_calibrated

CARDS = ("EXPNUM", "CCDNUM", "DETPOS", "FILTER", "OBJECT", "PROPID", "DATE-OBS")
"""Cards of the raw's header that go along with the image."""

DEFECT = BIT["BAD"] | BIT["NO_DATA"]
"""Mask planes of bias and flat whose pixels are of no use in any exposure."""


class CalibrateVisitConnections(
    CalibratedDetectorConnections, dimensions=("instrument", "visit", "detector")
):
    """A raw, calibrations and reference stars in, a calibrated image and its stars out."""

    raw = ct.Input(
        doc="Pixels as they were read out.",
        name="raw",
        storageClass="ImageV2",
        dimensions=("instrument", "exposure", "detector"),
    )
    bias = ct.PrerequisiteInput(
        doc="Structure above the overscan, ADU; BAD pixels of its mask are defects.",
        name="bias",
        storageClass="MaskedImageV2",
        dimensions=("instrument", "detector"),
        isCalibration=True,
    )
    flat = ct.PrerequisiteInput(
        doc="Relative response; BAD pixels of its mask are defects.",
        name="flat",
        storageClass="MaskedImageV2",
        dimensions=("instrument", "physical_filter", "detector"),
        isCalibration=True,
    )
    photometry = ct.PrerequisiteInput(
        doc="Pan-STARRS1: magnitudes of reference stars.",
        name="ps1",
        storageClass="ArrowAstropy",
        dimensions=("htm7",),
        multiple=True,
        deferLoad=True,
        minimum=0,
    )


class CalibrateVisitConfig(pipe_base.PipelineTaskConfig, pipelineConnections=CalibrateVisitConnections):
    """Which of the crosstalk is taken out."""

    crosstalk = pex_config.DictField[str, float](
        doc="Part of the other amplifier's signal that an amplifier gets, by CCD and receiver, such as 28A.",
        default={},
    )


class CalibrateVisitTask(pipe_base.PipelineTask):
    """Instrument signature, cosmic rays, PSF, astrometry, zero point; see `reduction.calibrate_raw`."""

    ConfigClass = CalibrateVisitConfig
    _DefaultName = "calibrateVisit"
    config: CalibrateVisitConfig

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Calibrate one detector."""
        data_id = outputRefs.calibrated.dataId
        visit, detector, band = int(data_id["visit"]), int(data_id["detector"]), data_id["band"]
        where = f"visit {visit}, detector {detector}"
        raw = raw_detector(butlerQC.get(inputRefs.raw), where)
        bias, flat = planes_of(butlerQC.get(inputRefs.bias)), planes_of(butlerQC.get(inputRefs.flat))
        corrected = correct(
            raw,
            bias=bias.image,
            bias_variance=bias.variance,
            flat=flat.image,
            defects=((bias.bits | flat.bits) & DEFECT) != 0,
            crosstalk=Crosstalk(*(self.config.crosstalk.get(f"{detector}{name}", 0.0) for name in "AB")),
        )
        info = ObservationInfo(dict(raw.header), pedantic=False, translator_class=None)
        references = references_on(
            [handle.get() for handle in butlerQC.get(inputRefs.references)],
            raw.wcs,
            raw.shape,
            band,
            begin_mjd_tai(info),
            MARGIN,
            [handle.get() for handle in butlerQC.get(inputRefs.photometry)],
        )
        result = calibrate_raw(corrected, raw.wcs, raw.header, references, band, where)
        summary = result.summary
        self.log.info(
            "%s: FWHM %.2f arcsec, zero point %.3f +- %.3f (%d stars), astrometry %.0f mas (%d stars)%s",
            where,
            summary["fwhm"],
            summary["zero_point"],
            summary["zero_point_error"],
            summary["n_zero_point"],
            1000 * summary["pixel_scale"] * summary["astrometric_rms"],
            summary["n_astrometric"],
            f", doubtful: {summary['flags']}" if summary["flags"] else "",
        )
        runs = {"bias_run": inputRefs.bias.run, "flat_run": inputRefs.flat.run}
        cards = header_cards(CARDS, raw.header) | {"BIASRUN": runs["bias_run"], "FLATRUN": runs["flat_run"]}
        put_calibrated(butlerQC, outputRefs, result, info, cards, runs)

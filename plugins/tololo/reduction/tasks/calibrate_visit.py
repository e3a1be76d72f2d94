"""Calibrate one detector of a raw exposure."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from uuid import UUID

import lsst.pipe.base as pipe_base
import numpy as np
from astro_metadata_translator import ObservationInfo
from lsst.daf.butler import DataCoordinate, DeferredDatasetHandle
from lsst.pipe.base import connectionTypes as ct

from tololo.facility.errors import BadInputError
from tololo.reduction.calibrate_raw import MARGIN, calibrate_raw
from tololo.reduction.curated import crosstalk_of, defects_of, reasons_of
from tololo.reduction.formats.images import header_cards, planes_of
from tololo.reduction.formats.masks import BIT
from tololo.reduction.formats.obs_info import begin_mjd_tai
from tololo.reduction.formats.raw import RawDetector
from tololo.reduction.isr import correct
from tololo.reduction.kernels.streaks import find_streaks
from tololo.reduction.references import references_on
from tololo.reduction.tasks.calibrated_detector import CalibratedDetectorConnections, put_calibrated
from tololo.reduction.tasks.calibration_inputs import curated_input, optional, read_raw, run_of

CARDS = ("EXPNUM", "CCDNUM", "DETPOS", "FILTER", "OBJECT", "PROPID", "DATE-OBS")
"""Cards of the raw's header that go along with the image."""

DEFECT = BIT["BAD"] | BIT["NO_DATA"]
"""Mask planes of bias and flat whose pixels are of no use in any exposure."""


class CalibrateVisitConnections(
    CalibratedDetectorConnections, dimensions=("instrument", "visit", "detector")
):
    """A raw, calibrations and reference stars in, a calibrated image and its stars out."""

    raw = ct.Input(
        doc="Pixels as they were read out, and those of the CCDs that they have crosstalk from.",
        name="raw",
        storageClass="ImageV2",
        dimensions=("instrument", "exposure", "detector"),
        multiple=True,
        deferLoad=True,
    )
    bias = ct.PrerequisiteInput(
        doc="Structure above the overscan, ADU; BAD pixels of its mask are defects.",
        name="bias",
        storageClass="MaskedImageV2",
        dimensions=("instrument", "detector"),
        isCalibration=True,
        minimum=0,  # a detector without one is left out, and the others go on
    )
    flat = ct.PrerequisiteInput(
        doc="Relative response; BAD pixels of its mask are defects.",
        name="flat",
        storageClass="MaskedImageV2",
        dimensions=("instrument", "physical_filter", "detector"),
        isCalibration=True,
        minimum=0,
    )
    crosstalk = curated_input("crosstalk", "What each amplifier gets of others' signals.")
    defects = curated_input("defects", "Pixels that are known to be bad.")
    photometry = ct.PrerequisiteInput(
        doc="Pan-STARRS1: magnitudes of reference stars.",
        name="ps1",
        storageClass="ArrowAstropy",
        dimensions=("htm7",),
        multiple=True,
        deferLoad=True,
        minimum=0,
    )

    def adjust_all_quanta(self, adjuster: pipe_base.QuantaAdjuster) -> None:
        """Let each quantum read the raws of the CCDs that it has crosstalk from, where the run has them."""
        sources: dict[UUID, list[int]] = {}
        for data_id in adjuster.iter_data_ids():
            for dataset in adjuster.get_prerequisite_inputs(data_id)["crosstalk"]:
                if dataset not in sources:
                    ref = adjuster.butler.get_dataset(dataset)
                    sources[dataset] = [] if ref is None else crosstalk_of(adjuster.butler.get(ref)).sources
                for own in adjuster.get_inputs(data_id)["raw"]:
                    for source in sources[dataset]:
                        with suppress(LookupError):
                            adjuster.add_input(
                                data_id, "raw", DataCoordinate.standardize(own, detector=source)
                            )


class CalibrateVisitConfig(pipe_base.PipelineTaskConfig, pipelineConnections=CalibrateVisitConnections):
    """No choices."""


class CalibrateVisitTask(pipe_base.PipelineTask):
    """Instrument signature, streaks, cosmic rays, PSF, astrometry, zero point: `reduction.calibrate_raw`."""

    ConfigClass = CalibrateVisitConfig
    _DefaultName = "calibrateVisit"
    config: CalibrateVisitConfig

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Calibrate one detector."""
        data_id = outputRefs.calibrated.dataId
        visit, detector, band = int(data_id["visit"]), int(data_id["detector"]), data_id["band"]
        where = f"visit {visit}, detector {detector}"
        raws = {int(handle.dataId["detector"]): handle for handle in butlerQC.get(inputRefs.raw)}
        missing = [name for name in ("bias", "flat") if not run_of(inputRefs, name)]
        if missing:
            raise pipe_base.NoWorkFound(f"No {' and no '.join(missing)} is valid for {where}")
        raw = read_raw(raws.pop(detector))
        known = optional(butlerQC, inputRefs, "defects")
        defects = defects_of(known, raw.shape)
        if known is not None and defects.all():
            raise pipe_base.NoWorkFound(f"All pixels of {where} are defects: {reasons_of(known)}")
        bias, flat = planes_of(butlerQC.get(inputRefs.bias)), planes_of(butlerQC.get(inputRefs.flat))
        defects |= ((bias.bits | flat.bits) & DEFECT) != 0
        crosstalk = crosstalk_of(optional(butlerQC, inputRefs, "crosstalk"))
        corrected = correct(
            raw,
            bias=bias.image,
            bias_variance=bias.variance,
            flat=flat.image,
            defects=defects,
            crosstalk=crosstalk,
            neighbours=self._neighbours(raws),
        )
        unread = [source for source in crosstalk.sources if source not in corrected.ghosts]
        if unread:
            self.log.warning(
                "%s: what it got of detectors %s stays in it: they are not in this run or damaged",
                where,
                ", ".join(map(str, unread)),
            )
        planes = corrected.planes
        streaks = find_streaks(planes.image, planes.variance, planes.bits)
        streaked = float(np.count_nonzero(planes.bits & BIT["STREAK"])) / planes.bits.size
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
        summary |= {"n_streaks": len(streaks), "masked_streak": streaked}
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
        runs = {f"{name}_run": run_of(inputRefs, name) for name in ("bias", "flat", "crosstalk", "defects")}
        cards = header_cards(CARDS, raw.header) | {"BIASRUN": runs["bias_run"], "FLATRUN": runs["flat_run"]}
        put_calibrated(butlerQC, outputRefs, result, info, cards, runs)

    def _neighbours(self, handles: Mapping[int, DeferredDatasetHandle]) -> dict[int, RawDetector]:
        """Read the raws of other CCDs; one that is damaged is left out."""
        found: dict[int, RawDetector] = {}
        for number, handle in handles.items():
            try:
                found[number] = read_raw(handle)
            except BadInputError as error:
                self.log.warning("The crosstalk from detector %d cannot be known: %s", number, error)
        return found

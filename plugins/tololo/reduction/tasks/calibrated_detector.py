"""What is the same of every task that calibrates a detector: its reference stars, and what it makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lsst.pipe.base as pipe_base
import numpy as np
from astro_metadata_translator import ObservationInfo
from astropy.io import fits
from astropy.table import Table
from lsst.pipe.base import connectionTypes as ct

from tololo.reduction.calibrate import CalibratedDetector
from tololo.reduction.formats.images import VisitContext, visit_image
from tololo.reduction.formats.obs_info import night_of
from tololo.reduction.ids import source_ids


class CalibratedDetectorConnections(
    pipe_base.PipelineTaskConnections, dimensions=("instrument", "visit", "detector")
):
    """Reference stars in, a calibrated image and its stars out."""

    references = ct.PrerequisiteInput(
        doc="Reference stars: places, and magnitudes where there are no better ones.",
        name="gaia_dr2",
        storageClass="ArrowAstropy",
        dimensions=("skypix",),
        multiple=True,
        deferLoad=True,
        minimum=0,
    )
    calibrated = ct.Output(
        doc="Calibrated image, nJy.",
        name="visit_image",
        storageClass="VisitImage",
        dimensions=("instrument", "visit", "detector"),
    )
    stars = ct.Output(
        doc="Sources of the image.",
        name="single_visit_star",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "visit", "detector"),
    )
    summary = ct.Output(
        doc="One row: seeing, zero point, astrometry, noise, and of raws masks, overscan and doubts.",
        name="detector_summary",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "visit", "detector"),
    )


def put_calibrated(
    butlerQC: Any,
    outputRefs: Any,
    result: CalibratedDetector,
    info: ObservationInfo,
    cards: fits.Header | Mapping[str, Any],
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write the image, its stars and its summary.

    Parameters
    ----------
    butlerQC, outputRefs
        As `runQuantum` gets them, of a task with `CalibratedDetectorConnections`.
    result : `~tololo.reduction.calibrate.CalibratedDetector`
    info : `astro_metadata_translator.ObservationInfo`
        The exposure.
    cards : mapping
        Cards of the archive's header that go along with the image.
    more : mapping, optional
        Columns that the summary has beside those of the result.
    """
    data_id = outputRefs.calibrated.dataId
    visit, detector, band = int(data_id["visit"]), int(data_id["detector"]), data_id["band"]
    context = VisitContext.from_wcs(result.wcs, result.planes.image.shape, detector, band, info)
    metadata = dict(cards) | {
        "SHIFT_X": result.summary["shift_x"],
        "SHIFT_Y": result.summary["shift_y"],
        "ZPERR": result.zero_point.error,
    }
    image = visit_image(result.planes, result.psf, context, result.stats, result.njy_per_adu, metadata)
    butlerQC.put(image, outputRefs.calibrated)
    number = len(result.stars)
    ids = {
        "sourceId": source_ids(visit, detector, number),
        "visit": np.full(number, visit, np.int64),
        "detector": np.full(number, detector, np.int16),
        "band": np.full(number, band),
    }
    stars = {name: result.stars[name] for name in result.stars.colnames}
    butlerQC.put(Table({**ids, **stars}), outputRefs.stars)
    row = {"visit": visit, "detector": detector, "band": band, "day_obs": night_of(info)}
    row |= {"mjd_tai": context.midpoint_mjd_tai, "exposure_time": result.stats.expTime, **result.summary}
    row |= more or {}
    butlerQC.put(Table({name: [value] for name, value in row.items()}), outputRefs.summary)

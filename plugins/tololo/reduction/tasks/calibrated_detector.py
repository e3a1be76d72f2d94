"""What is the same of every task that calibrates a detector: its reference stars, and what it makes."""

from __future__ import annotations

import lsst.pipe.base as pipe_base
from lsst.pipe.base import connectionTypes as ct


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

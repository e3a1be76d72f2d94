"""Compile the kernels of visits, templates and difference images: they are kept on disk for all that follows.

`bin/install` runs it, so that neither the first night nor every worker of it has to.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

from tololo.reduction.difference import DifferenceSettings, difference
from tololo.reduction.forced import ForcedImages
from tololo.reduction.formats.compact_formatter import write_image
from tololo.reduction.formats.images import VisitContext, difference_image
from tololo.reduction.template import bring_template
from tololo.simulation.one_detector import OneDetector
from tololo.simulation.plan import Plan, PlannedExposure

PLAN = Plan(
    exposures=(
        *(PlannedExposure(night) for night in (20190305, 20190306, 20190309)),
        PlannedExposure(20190402, science=True),
    ),
    detectors=(28,),
    shape=(600, 600),
    stars_per_deg2=60000.0,
    galaxies=10,
    transients=10,
    snr=(15.0, 60.0),
    dither=5.0,
)
"""A small detector on four nights: every kernel is called as it will be for a whole one."""


def main() -> None:
    """Go the way from exposures to a difference image once."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="tololo-kernels-") as folder:
        detector = OneDetector.simulate(Path(folder) / "nights", PLAN, seed=4)
        image = detector.image
        template = bring_template(image, detector.coadds)
        if template is not None:
            result = difference(image, detector.stars, template, DifferenceSettings())
            context = VisitContext.from_visit_image(image)
            written = difference_image(
                result.planes, result.psf, context, image.summary_stats, result.metadata
            )
            write_image(written, Path(folder) / "image.fits")
            ForcedImages.of(written, image).measure(result.sources["ra"], result.sources["dec"])


if __name__ == "__main__":
    main()

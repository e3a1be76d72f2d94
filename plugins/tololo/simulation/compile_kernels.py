"""Compile the kernels of visits, templates and difference images: they are kept on disk for all that follows.

`bin/install` runs it, so that neither the first night nor every worker of it has to.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
from astro_metadata_translator import ObservationInfo
from lsst.images import VisitImage
from lsst.images.cells import CellCoadd

from tololo.reduction.calibrate import calibrate
from tololo.reduction.coadd import combine
from tololo.reduction.coadd_input import CoaddInput
from tololo.reduction.difference import DifferenceSettings, difference
from tololo.reduction.forced import ForcedImages
from tololo.reduction.formats.images import VisitContext, cell_coadd, difference_image, visit_image
from tololo.reduction.formats.instcal import read_instcal
from tololo.reduction.formats.instcal_search import find_instcal
from tololo.reduction.formats.obs_info import midpoint_mjd_tai
from tololo.reduction.formats.refcat import read_refcat
from tololo.reduction.formats.skymap import RingsSkyMap
from tololo.reduction.formats.tract import Patch
from tololo.reduction.patch_warp import overlap_box, warp_visit
from tololo.reduction.references import references_on
from tololo.reduction.template import bring_template
from tololo.simulation.instcal import simulate_nights
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
        truth = simulate_nights(Path(folder) / "nights", plan=PLAN, seed=4)
        shards = [read_refcat(truth.reference)]
        exposures = find_instcal(truth.images).triples
        science = next(int(row["visit"]) for row in truth.exposures if row["science"])
        visits, stars = {}, {}
        for exposure in exposures:
            ccd = exposure.detectors[0]
            pixels = read_instcal(ccd.image.path, ccd.weight.path, ccd.mask.path, ccd.ccdnum)
            info = ObservationInfo(dict(pixels.header), pedantic=False, translator_class=None)
            shape = (pixels.image.shape[0], pixels.image.shape[1])
            references = references_on(shards, pixels.wcs, shape, exposure.band, midpoint_mjd_tai(info))
            found = calibrate(pixels, references, f"exposure {exposure.expnum}")
            context = VisitContext.from_wcs(found.wcs, shape, ccd.ccdnum, exposure.band, info)
            visits[exposure.expnum] = visit_image(
                found.planes, found.psf, context, found.stats, found.njy_per_adu, {}
            )
            stars[exposure.expnum] = found.stars
        image = visits.pop(science)
        template = bring_template(image, _coadds(image, visits))
        if template is not None:
            result = difference(image, stars[science], template, DifferenceSettings())
            context = VisitContext.from_visit_image(image)
            written = difference_image(
                result.planes, result.psf, context, image.summary_stats, result.metadata
            )
            ForcedImages.of(written, image).measure(result.sources["ra"], result.sources["dec"])


def _coadds(image: VisitImage, visits: dict[int, VisitImage]) -> list[tuple[CellCoadd, Patch]]:
    """Return the templates of the patches that an image reaches."""
    ny, nx = image.image.array.shape
    corners = image.sky_projection.pixel_to_sky(
        x=np.array([0.0, nx - 1, nx - 1, 0]), y=np.array([0.0, 0, ny - 1, ny - 1])
    )
    found = []
    for patch in RingsSkyMap(numRings=120, tractOverlap=1 / 60).find_patches(
        (corners.ra.deg, corners.dec.deg)
    ):
        if overlap_box(image, patch) is None:
            continue
        warps = {visit: warp_visit([one], patch) for visit, one in visits.items()}
        inputs = [
            CoaddInput(visit, warp.planes, warp.psfs)
            for visit, warp in warps.items()
            if warp is not None and not warp.planes.bad.all()
        ]
        if inputs:
            template = combine(inputs, patch, "meanclip")
            metadata = {"VISITS": ",".join(map(str, template.visits)), "NIGHTS": "20190305"}
            coadd = cell_coadd(
                template.planes, template.psfs, "kernels", patch.tract, patch, image.band, metadata
            )
            found.append((coadd, patch))
    return found


if __name__ == "__main__":
    main()

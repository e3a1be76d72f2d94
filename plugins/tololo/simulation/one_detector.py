"""One detector of simulated nights, on its way from exposures to the template of a science image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astro_metadata_translator import ObservationInfo
from astropy.table import Table
from lsst.images import VisitImage
from lsst.images.cells import CellCoadd

from tololo.reduction.calibrate import calibrate
from tololo.reduction.coadd import combine
from tololo.reduction.coadd_input import CoaddInput
from tololo.reduction.formats.images import VisitContext, cell_coadd, visit_image
from tololo.reduction.formats.instcal import InstcalExposure, read_instcal
from tololo.reduction.formats.instcal_search import find_instcal
from tololo.reduction.formats.obs_info import midpoint_mjd_tai
from tololo.reduction.formats.refcat import read_refcat
from tololo.reduction.formats.skymap import RingsSkyMap
from tololo.reduction.formats.tract import Patch
from tololo.reduction.patch_warp import overlap_box, warp_visit
from tololo.reduction.references import references_on
from tololo.simulation.instcal import simulate_nights
from tololo.simulation.plan import Plan


@dataclass(frozen=True)
class OneDetector:
    """A calibrated science image, its stars, the template's patches and the transients that are in it."""

    image: VisitImage
    stars: Table
    coadds: list[tuple[CellCoadd, Patch]]
    transients: Table

    @classmethod
    def simulate(cls, folder: Path, plan: Plan, seed: int = 1) -> OneDetector:
        """Simulate a plan of one detector, calibrate its exposures and make the template.

        Parameters
        ----------
        folder : `pathlib.Path`
            For the exposures.
        plan : `Plan`
            With one science exposure; the others make the template.
        seed : `int`
        """
        truth = simulate_nights(folder, plan=plan, seed=seed)
        shards = [read_refcat(truth.reference)]
        visits = {e.expnum: calibrated(e, shards) for e in find_instcal(truth.images).triples}
        science = next(int(row["visit"]) for row in truth.exposures if row["science"])
        image, stars = visits.pop(science)
        inputs = {visit: other for visit, (other, _) in visits.items()}
        found = truth.transients
        return cls(image, stars, template_coadds(image, inputs), found[found["visit"] == science])


def calibrated(exposure: InstcalExposure, shards: Sequence[Table]) -> tuple[VisitImage, Table]:
    """Calibrate the first detector of an exposure; returns the image and its stars."""
    ccd = exposure.detectors[0]
    pixels = read_instcal(ccd.image.path, ccd.weight.path, ccd.mask.path, ccd.ccdnum)
    info = ObservationInfo(dict(pixels.header), pedantic=False, translator_class=None)
    shape = (pixels.image.shape[0], pixels.image.shape[1])
    references = references_on(shards, pixels.wcs, shape, exposure.band, midpoint_mjd_tai(info))
    found = calibrate(pixels, references, f"visit {info.visit_id}")
    context = VisitContext.from_wcs(found.wcs, shape, ccd.ccdnum, exposure.band, info)
    image = visit_image(found.planes, found.psf, context, found.stats, found.njy_per_adu, {})
    return image, found.stars


def template_coadds(image: VisitImage, visits: Mapping[int, VisitImage]) -> list[tuple[CellCoadd, Patch]]:
    """Return the templates, of all visits, of the patches that an image reaches."""
    ny, nx = image.image.array.shape
    corners = image.sky_projection.pixel_to_sky(
        x=np.array([0.0, nx - 1, nx - 1, 0]), y=np.array([0.0, 0, ny - 1, ny - 1])
    )
    sky_map = RingsSkyMap(numRings=120, tractOverlap=1 / 60)
    found = []
    for patch in sky_map.find_patches((corners.ra.deg, corners.dec.deg)):
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
                template.planes, template.psfs, "decam_rings", patch.tract, patch, image.band, metadata
            )
            found.append((coadd, patch))
    return found

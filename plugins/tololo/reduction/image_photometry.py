"""Light curves of given positions: the PSF fitted there on every image of the sky that covers them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tololo.reduction.formats.images import VisitContext, planes_of
from tololo.reduction.formats.projection import sky_to_pixel
from tololo.reduction.formats.psfs import from_piff
from tololo.reduction.kernels.photometry import forced_psf_photometry

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef

MINIMUM_GOOD = 0.9
"""Part of the PSF's light that must fall on good pixels."""


def image_light_curves(
    butler: Butler,
    kind: Literal["difference_image", "visit_image"],
    chains: list[str],
    targets: list[tuple[str, float, float]],
) -> dict[str, list[dict[str, Any]]]:
    """Fit the PSF at the positions of targets on every image that covers them, without centring.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        The repository.
    kind : `str`
        Which images. A difference image needs no diaObject: it tells the flux of each night also before the
        first detection.
    chains : `list` [`str`]
        Collections of the images; of a visit and detector the first that has one counts.
    targets : `list` [(`str`, `float`, `float`)]
        Name, right ascension and declination (ICRS degrees).

    Returns
    -------
    rows : `dict` [`str`, `list` [`dict`]]
        By target, in order of time: ``midpointMjdTai`` (MJD TAI), ``psfFlux``, ``psfFluxErr`` (nJy, on the
        image; without the error of the zero point), ``band``, ``visit``, ``detector``. Positions on bad
        pixels or off the image give no row.
    """
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name, _, _ in targets}
    for ref, indices in _covering(butler, kind, chains, targets).items():
        image = butler.get(ref)
        context, planes = VisitContext.from_visit_image(image), planes_of(image)
        positions = np.array([targets[index][1:] for index in indices])
        x, y = sky_to_pixel(image.sky_projection, positions[:, 0], positions[:, 1])
        ny, nx = planes.image.shape
        inside = (x > 0) & (x < nx - 1) & (y > 0) & (y < ny - 1)
        if not inside.any():
            continue
        fit = forced_psf_photometry(
            planes.image, planes.variance, planes.bad, from_piff(image.psf), x[inside], y[inside]
        )
        for index, star in zip(np.asarray(indices)[inside], fit, strict=True):
            if star["good_fraction"] >= MINIMUM_GOOD and np.isfinite(star["flux"]) and star["flux_err"] > 0:
                rows[targets[index][0]].append(
                    {
                        "midpointMjdTai": context.midpoint_mjd_tai,
                        "psfFlux": float(star["flux"]),
                        "psfFluxErr": float(star["flux_err"]),
                        "band": context.band,
                        "visit": int(ref.dataId["visit"]),
                        "detector": int(ref.dataId["detector"]),
                    }
                )
    return {name: sorted(points, key=lambda row: row["midpointMjdTai"]) for name, points in rows.items()}


def _covering(
    butler: Butler, kind: str, chains: list[str], targets: list[tuple[str, float, float]]
) -> dict[DatasetRef, list[int]]:
    """Return the images that may show targets, and which of these; each image is read once."""
    covering: dict[DatasetRef, list[int]] = {}
    for index, (_, ra, dec) in enumerate(targets):
        query = f"instrument = 'DECam' AND visit_detector_region.region OVERLAPS POINT({ra!r}, {dec!r})"
        refs = butler.query_datasets(kind, chains, where=query, find_first=True, explain=False, limit=None)
        for ref in refs:
            covering.setdefault(ref, []).append(index)
    return covering

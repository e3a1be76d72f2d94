"""Which patches of a template the visits of a night need, and which of them are there."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
from lsst.sphgeom import DISJOINT

from tololo.engine.repositories import existing, known_types
from tololo.facility.waiting import Answer, answer, numbered

if TYPE_CHECKING:
    from lsst.daf.butler import Butler
    from lsst.sphgeom import Region
    from numpy.typing import NDArray

REGION = "visit_detector_region.region"

Patch = tuple[str, int, int]
"""Band, tract, patch."""


def templates(
    butler: Butler,
    template: str,
    templates: list[str],
    image: str,
    visits: list[str],
    where: str,
    skymap: str,
    coverage: float,
    own_night: int | None = None,
) -> Answer:
    """Ask whether the patches that overlap the detectors of visits have a template in their band.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
    template : `str`
        Dataset type of the templates, by patch and band.
    templates : `list` [`str`]
        Collections of the templates.
    image : `str`
        Dataset type of the visit images, by visit and detector.
    visits : `list` [`str`]
        Collections of the visit images.
    where : `str`
        Data query that chooses the visits.
    skymap : `str`
        Sky map whose patches count.
    coverage : `float`
        Fraction of the patches of each band that is enough, 0 to 1.
    own_night : `int`, optional
        A template that holds visits of this night does not count. Which do is told by the visit images in
        ``inputs`` below each collection of templates.

    Returns
    -------
    answer : `~tololo.facility.waiting.Answer`
        ``found`` counts the patches that are needed and there. Where there are no visit images, or none that
        overlaps a patch, these are missing.
    """
    regions = _regions(butler, image, visits, where)
    needed = _needed(butler, regions, skymap)
    if not needed:
        why = "none of them overlaps a patch of the sky map " + skymap if regions else "there are none"
        chosen = f" where {where}" if where else ""
        return answer([f"{image} in {', '.join(visits)}{chosen} ({why})"], 0)
    made = needed & _made(butler, template, templates, skymap)
    own: set[Patch] = set()
    if own_night is not None and made:
        of_night = f"instrument = '{regions[0]['instrument']}' AND visit.day_obs = {own_night}"
        inputs = _regions(butler, image, [f"{name}/inputs" for name in templates], of_night)
        own = made & _needed(butler, inputs, skymap)
    there = made - own
    missing = [f"{template} for {names}" for names in _named(needed - made)]
    missing += [f"{template} without visits of night {own_night} itself for {names}" for names in _named(own)]
    per_band, found = Counter(band for band, _, _ in needed), Counter(band for band, _, _ in there)
    enough = all(found[band] >= coverage * count for band, count in per_band.items())
    return answer(missing, len(there), ready=enough)


def _named(patches: set[Patch]) -> list[str]:
    """Write patches by band and tract: ``band r, tract 7664, patches 37-38``."""
    groups: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
    for band, tract, patch in patches:
        groups[band, tract].add(patch)
    return [
        f"band {band}, tract {tract}, {numbered('patch', numbers)}"
        for (band, tract), numbers in sorted(groups.items())
    ]


def _regions(butler: Butler, image: str, visits: list[str], where: str) -> list[dict[str, Any]]:
    """Return instrument, visit, band and region of each visit image."""
    there, _ = existing(butler, visits)
    if not there or not known_types(butler, [image]):
        return []
    with butler.query() as query:
        chosen = query.join_dataset_search(image, there)
        if where:
            chosen = chosen.where(where)
        rows = chosen.general(("visit", "detector"), REGION, find_first=False)
        return [row for row in rows if row[REGION] is not None]


def _needed(butler: Butler, images: list[dict[str, Any]], skymap: str) -> set[Patch]:
    """Return the patches that overlap an image.

    The database finds the tracts; patches are compared here, twenty times faster than the database compares
    them with all detectors of a night.
    """
    if not images:
        return set()
    numbers = ", ".join(str(visit) for visit in sorted({row["visit"] for row in images}))
    near = f"instrument = '{images[0]['instrument']}' AND visit IN ({numbers}) AND skymap = '{skymap}'"
    with butler.query() as query:
        tracts = {str(key["tract"]) for key in query.where(near).data_ids(("visit", "tract"))}
    if not tracts:
        return set()
    with butler.query() as query:
        on_tracts = query.where(f"skymap = '{skymap}' AND tract IN ({', '.join(sorted(tracts))})")
        patches = list(on_tracts.dimension_records("patch"))
    bands: defaultdict[str, list[Region]] = defaultdict(list)
    for row in images:
        bands[str(row["band"])].append(row[REGION])
    return {
        (band, patches[index].tract, patches[index].id)
        for band, regions in bands.items()
        for index in _overlapped([patch.region for patch in patches], regions)
    }


def _overlapped(patches: list[Region], images: list[Region]) -> list[int]:
    """Return the indices of the patches that overlap any image."""
    (at, reach), (around, radius) = _circles(patches), _circles(images)
    separation = np.arccos(np.clip(at @ around.T, -1, 1))
    close = separation <= reach[:, None] + radius[None, :] + 1e-9
    return [
        index
        for index, patch in enumerate(patches)
        if any(not patch.relate(images[other]) & DISJOINT for other in np.flatnonzero(close[index]))
    ]


def _circles(regions: list[Region]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return centres, shape ``(n, 3)``, and radii, radians, of circles around regions."""
    circles = [region.getBoundingCircle() for region in regions]
    centres = [circle.getCenter() for circle in circles]
    radii = [circle.getOpeningAngle().asRadians() for circle in circles]
    return np.array([[at.x(), at.y(), at.z()] for at in centres]), np.array(radii)


def _made(butler: Butler, template: str, templates: list[str], skymap: str) -> set[Patch]:
    """Return the patches that have a template."""
    there, _ = existing(butler, templates)
    if not there or not known_types(butler, [template]):
        return set()
    with butler.query() as query:
        found = query.join_dataset_search(template, there).where(f"skymap = '{skymap}'")
        keys = found.data_ids(("tract", "patch", "band"))
        return {(str(key["band"]), int(key["tract"]), int(key["patch"])) for key in keys}

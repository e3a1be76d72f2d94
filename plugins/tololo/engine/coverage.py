"""Which patches of a template the visits of a night need, and which of them are there."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from tololo.engine.repositories import existing, known_types
from tololo.facility.waiting import Answer, answer, numbered

if TYPE_CHECKING:
    from lsst.daf.butler import Butler

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

    Returns
    -------
    answer : `~tololo.facility.waiting.Answer`
        ``found`` counts the patches that are needed and there. Where there are no visit images, or none that
        overlaps a patch, these are missing.
    """
    on_map = f"skymap = '{skymap}'"
    chosen = f"({where}) AND {on_map}" if where else on_map
    needed = _patches(butler, image, visits, chosen, ("visit", "detector", "tract", "patch", "band"))
    if not needed:
        return answer([f"{image} in {', '.join(visits)} where {chosen} (none of that overlaps a patch)"], 0)
    there = needed & _patches(butler, template, templates, on_map, ("tract", "patch", "band"))
    lacking: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
    for band, tract, patch in needed - there:
        lacking[band, tract].add(patch)
    missing = [
        f"{template} for band {band}, tract {tract}, {numbered('patch', patches)}"
        for (band, tract), patches in sorted(lacking.items())
    ]
    per_band, found = Counter(band for band, _, _ in needed), Counter(band for band, _, _ in there)
    enough = all(found[band] >= coverage * count for band, count in per_band.items())
    return answer(missing, len(there), ready=enough)


def _patches(
    butler: Butler, dataset_type: str, collections: list[str], where: str, dimensions: tuple[str, ...]
) -> set[Patch]:
    """Return the patches that datasets of a type have or overlap."""
    there, _ = existing(butler, collections)
    if not there or not known_types(butler, [dataset_type]):
        return set()
    with butler.query() as query:
        found = query.join_dataset_search(dataset_type, there).where(where).data_ids(dimensions)
        return {(str(key["band"]), int(key["tract"]), int(key["patch"])) for key in found}

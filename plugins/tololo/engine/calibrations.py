"""Which calibrations some raws need, and which of them are certified for the time when they were taken."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tololo.engine.repositories import existing, known_types
from tololo.facility.errors import BadInputError
from tololo.facility.waiting import Answer, answer, numbered

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetType, Timespan

Row = Mapping[str, Any]
Key = tuple[Any, ...]
"""Values of the dimensions of a calibration: instrument, detector, and a filter if it has one."""


def calibrations(
    butler: Butler, kinds: list[str], collections: list[str], raw: str, raws: list[str], where: str
) -> Answer:
    """Ask whether what some raws need is certified, and valid for the whole of each exposure.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
    kinds : `list` [`str`]
        Dataset types of the calibrations: ``bias``, ``flat``.
    collections : `list` [`str`]
        Where they are certified: CALIBRATION collections, or chains that hold such.
    raw : `str`
        Dataset type of the raws, one for each exposure and detector.
    raws : `list` [`str`]
        Collections of the raws.
    where : `str`
        Data query that chooses the raws.

    Returns
    -------
    answer : `~tololo.facility.waiting.Answer`
        ``found`` counts the calibrations that are needed and there. Where there are no raws, the raws are
        missing.

    Raises
    ------
    BadInputError
        If a kind is no calibration or belongs to something that raws do not have, or an exposure has no time.
    """
    exposures = list(_exposures(butler, raw, raws, where))
    if not exposures:
        chosen = f" where {where}" if where else ""
        return answer([f"{raw} in {', '.join(raws)}{chosen} (there are none)"], 0)
    certified = _certified(butler, collections)
    missing: list[str] = []
    found = 0
    for kind in kinds:
        if not known_types(butler, [kind]):
            detectors = numbered("detector", (row["detector"] for row in exposures))
            missing.append(f"{kind} for {detectors} (the dataset type is not registered)")
            continue
        dataset_type = butler.get_dataset_type(kind)
        needed = _needed(dataset_type, exposures)
        lacking = needed.keys() - _valid(butler, dataset_type, certified, needed)
        found += len(needed) - len(lacking)
        if lacking:
            missing += _names(dataset_type, lacking, _ever_certified(butler, dataset_type, certified))
    return answer(missing, found)


def _exposures(butler: Butler, raw: str, raws: list[str], where: str) -> Iterator[Row]:
    """Give detector, filter and timespan of each raw."""
    there, _ = existing(butler, raws)
    if not there or not known_types(butler, [raw]):
        return
    with butler.query() as query:
        chosen = query.join_dataset_search(raw, there)
        if where:
            chosen = chosen.where(where)
        dimensions = ("exposure", "detector", "physical_filter")
        for row in chosen.general(dimensions, "exposure.timespan", find_first=False):
            if row["exposure.timespan"] is None:
                raise BadInputError(
                    f"Exposure {row['exposure']} has no time",
                    f"{raw} in {', '.join(raws)}",
                    "ingest it again",
                )
            yield row


def _certified(butler: Butler, collections: list[str]) -> list[str]:
    from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]

    there, _ = existing(butler, collections)
    if not there:
        return []
    return list(butler.collections.query(there, CollectionType.CALIBRATION, flatten_chains=True))


def _needed(dataset_type: DatasetType, exposures: list[Row]) -> dict[Key, set[Timespan]]:
    """Return the timespans at which each calibration is needed."""
    if not dataset_type.isCalibration():
        raise BadInputError(
            f"The dataset type {dataset_type.name!r} is no calibration: it is never certified",
            "calibrations to wait for",
            "name calibrations such as bias and flat",
        )
    dimensions = dataset_type.dimensions.required
    if unknown := [name for name in dimensions if name not in exposures[0]]:
        raise BadInputError(
            f"Which {dataset_type.name!r} a raw needs cannot be told: raws have no {', '.join(unknown)}",
            "calibrations to wait for",
            "name calibrations by detector and filter",
        )
    needed: defaultdict[Key, set[Timespan]] = defaultdict(set)
    for row in exposures:
        needed[tuple(row[name] for name in dimensions)].add(row["exposure.timespan"])
    return needed


def _valid(
    butler: Butler, dataset_type: DatasetType, certified: list[str], needed: Mapping[Key, set[Timespan]]
) -> set[Key]:
    """Return those that are valid at all times at which they are needed."""
    if not certified:
        return set()
    from lsst.daf.butler import Timespan

    times = set().union(*needed.values())
    whole = Timespan(min(time.begin for time in times), max(time.end for time in times))
    validity: defaultdict[Key, list[Timespan]] = defaultdict(list)
    column = f"{dataset_type.name}.timespan"
    dimensions = dataset_type.dimensions.required
    with butler.query() as query:
        overlap = query.expression_factory[dataset_type.name].timespan.overlaps(whole)
        found = query.join_dataset_search(dataset_type.name, certified).where(overlap)
        for row in found.general(dimensions, column, find_first=False):
            validity[tuple(row[name] for name in dimensions)].append(row[column])
    return {
        key
        for key, at in needed.items()
        if all(any(span.contains(time) for span in validity[key]) for time in at)
    }


def _ever_certified(butler: Butler, dataset_type: DatasetType, certified: list[str]) -> set[Key]:
    """Return those that are certified at all, for whatever time."""
    if not certified:
        return set()
    dimensions = dataset_type.dimensions.required
    with butler.query() as query:
        found = query.join_dataset_search(dataset_type.name, certified).data_ids(dataset_type.dimensions)
        return {tuple(data_id[name] for name in dimensions) for data_id in found}


def _names(dataset_type: DatasetType, lacking: Iterable[Key], ever: set[Key]) -> list[str]:
    """Name calibrations: ``flat for filter r, detectors 25, 28-30``."""
    dimensions = list(dataset_type.dimensions.required)
    groups: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for key in lacking:
        values = dict(zip(dimensions, key, strict=True))
        glass = str(values.get("physical_filter") or values.get("band") or "")
        place = f"filter {glass.split(maxsplit=1)[0]}" if glass else ""
        detectors = groups[place, " (certified for other times only)" if key in ever else ""]
        if "detector" in values:
            detectors.add(values["detector"])
    return [
        f"{dataset_type.name} for {_join(place, numbered('detector', detectors))}{reason}"
        for (place, reason), detectors in sorted(groups.items())
    ]


def _join(place: str, detectors: str) -> str:
    return ", ".join(filter(None, [place, detectors])) or "the instrument"

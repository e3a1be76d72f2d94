"""Ingest of InstCal exposures: files into datasets, headers into dimension records.

Each plane of a detector is a dataset (``instcal_image``, ``instcal_weight``, ``instcal_mask``); the detectors
of an exposure share its files. One exposure is one visit. An exposure goes in as a whole or not at all, in
one transaction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from astropy.io import fits
from astropy.time import Time, TimeDelta
from astropy.wcs import WCS
from lsst.daf.butler import DatasetRef, DatasetType, FileDataset, Timespan
from lsst.sphgeom import ConvexPolygon

from tololo.facility import collections
from tololo.facility.errors import BadInputError

from .formats.archive_formatter import DIMENSIONS, STORAGE_CLASS
from .formats.dqmask import plver_key
from .formats.instcal_formatter import PLANES, InstcalFormatter
from .formats.tract import hull, outline
from .instrument.detectors import INSTRUMENT
from .records import NAME, Visit, data_ids, insert_exposures, insert_visits

if TYPE_CHECKING:
    from lsst.daf.butler import Butler

    from .formats.instcal import InstcalDetector, InstcalExposure

PADDING = 50.0
"""Pixels by which the region of a detector is larger than its image, for a WCS that is not perfect."""

TRANSFERS = ("direct", "symlink", "copy")


@dataclass
class IngestReport:
    """What an ingest did.

    Attributes
    ----------
    ingested : `list` [`int`]
        Exposures of which something was new.
    already_there : `list` [`int`]
        Exposures that were complete before.
    skipped : `list` [`str`]
        What was left out, and why: a detector whose ingested files are of another reduction.
    nights : `list` [`int`]
        Nights of all these exposures.
    datasets : `int`
        How many datasets were added.
    """

    ingested: list[int] = field(default_factory=list)
    already_there: list[int] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    nights: list[int] = field(default_factory=list)
    datasets: int = 0


def prepare(butler: Butler, run: str, tags: Iterable[str], transfer: str, transfers: Sequence[str]) -> None:
    """See that an ingest can be done, and make the collections that it fills.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable.
    run : `str`
        RUN of the datasets.
    tags : iterable of `str`
        TAGGED collections of the nights.
    transfer, transfers
        What was asked for, and what there is.

    Raises
    ------
    BadInputError
        If the transfer mode or a name is bad, or the repository lacks the instrument.
    """
    from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]

    if transfer not in transfers:
        raise BadInputError(f"{transfer!r} is not a way to ingest", "transfer", f"use {', '.join(transfers)}")
    collections.check_name(run, "run")
    if not list(butler.query_dimension_records("instrument", instrument=INSTRUMENT, explain=False)):
        raise BadInputError(
            f"The repository has no instrument {INSTRUMENT}", "repository", "run repo_bootstrap"
        )
    butler.collections.register(run)
    for tag in tags:
        butler.collections.register(tag, CollectionType.TAGGED)


def dataset_types(butler: Butler) -> dict[str, DatasetType]:
    """Return the dataset types of the planes, by plane, registered where they were not."""
    types = {
        plane: DatasetType(name, DIMENSIONS, STORAGE_CLASS, universe=butler.dimensions)
        for plane, name in PLANES.items()
    }
    known = {dataset_type.name for dataset_type in butler.registry.queryDatasetTypes("instcal_*")}
    for dataset_type in types.values():
        if dataset_type.name not in known:
            butler.registry.registerDatasetType(dataset_type)
    return types


def ingest_instcal(
    butler: Butler,
    exposures: Sequence[InstcalExposure],
    run: str = collections.INSTCAL_RUN,
    transfer: str = "direct",
) -> IngestReport:
    """Ingest InstCal exposures and define their visits.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable; the instrument has been registered.
    exposures : sequence of `~tololo.reduction.formats.instcal.InstcalExposure`
        What `~tololo.reduction.formats.instcal_search.find_instcal` found.
    run : `str`, optional
        RUN of the datasets.
    transfer : `str`, optional
        ``direct`` (the files stay where they are and are referred to), ``symlink`` or ``copy``.

    Returns
    -------
    report : `IngestReport`

    Raises
    ------
    BadInputError
        If the transfer mode is unknown or the repository lacks the instrument.

    Notes
    -----
    The planes of a night are tagged in ``{night}/instcal/raw``. Ingesting again adds nothing; a killed ingest
    is completed by the next. A detector that is there from another reduction (PLVER) is left alone and
    reported.
    """
    report = IngestReport(nights=sorted({exposure.day_obs for exposure in exposures}))
    tags = [collections.raws(collections.chain("instcal", night)) for night in report.nights]
    prepare(butler, run, tags, transfer, TRANSFERS)
    types = dataset_types(butler)
    for exposure in exposures:
        added = _ingest_one(butler, exposure, types, run, transfer, report)
        report.datasets += added
        (report.ingested if added else report.already_there).append(exposure.expnum)
    return report


def detector_region(detector: InstcalDetector, padding: float = PADDING) -> ConvexPolygon:
    """Return the sky that the image of a detector covers.

    Parameters
    ----------
    detector : `~tololo.reduction.formats.instcal.InstcalDetector`
    padding : `float`, optional
        Pixels to add on each side.

    Returns
    -------
    region : `lsst.sphgeom.ConvexPolygon`
        Hull of the corners and the middles of the sides (the distortion bends them).
    """
    wcs = WCS(fits.Header(detector.wcs_header))
    return hull(*wcs.all_pix2world(*outline(detector.shape, padding), 0))


def _ingest_one(
    butler: Butler,
    exposure: InstcalExposure,
    types: dict[str, DatasetType],
    run: str,
    transfer: str,
    report: IngestReport,
) -> int:
    with butler.transaction():
        known = {
            (plane, int(ref.dataId["detector"])): ref
            for plane, dataset_type in types.items()
            for ref in butler.query_datasets(
                dataset_type,
                run,
                instrument=INSTRUMENT,
                exposure=exposure.expnum,
                limit=None,
                explain=False,
            )
        }
        if missing := [d for d in exposure.detectors if any((p, d.ccdnum) not in known for p in PLANES)]:
            _insert_records(butler, exposure, missing)
        dimensions = next(iter(types.values())).dimensions
        wanted = {exposure.expnum: [detector.ccdnum for detector in exposure.detectors]}
        expanded = {ccdnum: data_id for _, ccdnum, data_id in data_ids(butler, wanted, dimensions)}
        refs: list[DatasetRef] = []
        new: dict[tuple[str, str], list[DatasetRef]] = {}
        for detector in exposure.detectors:
            if note := _other_reduction(butler, exposure, detector, known):
                report.skipped.append(note)
            for plane, dataset_type in types.items():
                ref = known.get((plane, detector.ccdnum))
                if ref is None:
                    ref = DatasetRef(dataset_type, expanded[detector.ccdnum], run=run)
                    new.setdefault((plane, str(getattr(detector, plane).path.resolve())), []).append(ref)
                refs.append(ref)
        files = [FileDataset(path, group, formatter=InstcalFormatter) for (_, path), group in new.items()]
        if files:
            butler.ingest(*files, transfer=transfer)
        tag = collections.raws(collections.chain("instcal", exposure.day_obs))
        butler.registry.associate(tag, refs)
    return sum(len(group) for group in new.values())


def _other_reduction(
    butler: Butler,
    exposure: InstcalExposure,
    detector: InstcalDetector,
    known: dict[tuple[str, int], DatasetRef],
) -> str:
    """Say that the ingested files are of another reduction, or nothing."""
    ref = known.get(("image", detector.ccdnum))
    if ref is None:
        return ""
    path = butler.getURI(ref).ospath
    if path == str(detector.image.path.resolve()):
        return ""
    there = str(fits.getheader(path).get("PLVER", "")).strip()
    if there == detector.plver:
        return ""
    age = "newer" if plver_key(detector.plver) > plver_key(there) else "older"
    return (
        f"exposure {exposure.expnum}, detector {detector.ccdnum}: {detector.image.path} is a {age} reduction "
        f"({detector.plver}) than the ingested one ({there}, {path}), which stays; to use it, ingest it into "
        f"another RUN than {ref.run}"
    )


def _insert_records(butler: Butler, exposure: InstcalExposure, detectors: Iterable[InstcalDetector]) -> None:
    """Write the records that an exposure and its visit need; those that are there stay."""
    exposure_record, visit_record = _observation(exposure)
    insert_exposures(butler, [exposure_record])
    regions = {detector.ccdnum: detector_region(detector) for detector in detectors}
    insert_visits(butler, [Visit(visit_record, regions)])


def _observation(exposure: InstcalExposure) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make the records of exposure and visit from what the header says."""
    header = fits.getheader(exposure.detectors[0].image.path)
    begin = Time(exposure.mjd_utc, format="mjd", scale="utc").tai
    airmass = exposure.airmass
    name = str(header.get("OBSID") or exposure.expnum).strip()[:NAME]
    common = {
        "instrument": INSTRUMENT,
        "id": exposure.expnum,
        "physical_filter": exposure.physical_filter,
        "day_obs": exposure.day_obs,
        "seq_num": exposure.expnum,
        "exposure_time": exposure.exptime,
        "target_name": exposure.object[:NAME] or "unknown",
        "observation_reason": "science",
        "science_program": str(header.get("PROPID", "unknown")).strip()[:NAME],
        "azimuth": _number(header, "AZ"),
        "zenith_angle": math.degrees(math.acos(1 / airmass)) if airmass >= 1 else None,
        "timespan": Timespan(begin, begin + TimeDelta(exposure.exptime, format="sec")),
    }
    only_exposure = {
        "obs_id": name,
        "group": str(exposure.expnum),
        "dark_time": _number(header, "DARKTIME") or exposure.exptime,
        "observation_type": "science",
        "seq_start": exposure.expnum,
        "seq_end": exposure.expnum,
        "tracking_ra": exposure.ra,
        "tracking_dec": exposure.dec,
        "sky_angle": 90.0,  # the camera does not rotate: +y is east, +x is south
        "has_simulated": False,
        "can_see_sky": True,
    }
    return common | only_exposure, common | {"name": name}


def _number(header: fits.Header, card: str) -> float | None:
    try:
        value = float(header[card])
    except (KeyError, ValueError, TypeError):
        return None
    return value if math.isfinite(value) else None

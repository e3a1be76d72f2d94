"""From nothing to a repository that a night can be ingested into, and a check that it is one.

Each step looks at what is there and adds what is missing, so all can be killed and run again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tololo.engine.repositories import unreachable
from tololo.facility import collections
from tololo.facility.errors import BadInputError
from tololo.hooks.butler import CONFIG, ButlerHook
from tololo.hooks.chains import write_chain
from tololo.hooks.curated_calibrations import CURATED, missing_curated, register_curated, register_types

if TYPE_CHECKING:
    from lsst.daf.butler import Butler
    from lsst.sphgeom import Region

    from tololo.reduction.formats.skymap import SkyMap

STEPS = ("create", "instrument", "skymap", "calibrations", "refcats", "chains")
DEFAULTS = "DECam/defaults"
INPUTS = (collections.REFCATS, collections.SKYMAPS, CURATED, collections.INSTCAL_RUN)
"""Collections that every night finds, also where there is nothing in them yet."""


@dataclass(frozen=True)
class BootstrapPlan:
    """What the repository shall be.

    Attributes
    ----------
    repository : `str`
        Root folder.
    registry_url : `str`
        URL of a PostgreSQL database, without a password; empty for SQLite in the root folder.
    namespace : `str`
        Schema in that database; empty for the database's own default.
    skymaps : `dict` [`str`, `dict`]
        Definitions by name, as `~tololo.reduction.formats.skymap.from_definition` reads them.
    footprint : `tuple` [`tuple` [`float`, `float`, `float`], ...]
        Circles (ra, dec, radius in degrees) that the tracts are registered over; all tracts if empty.
    refcats : `dict` [`str`, `str`]
        Tables or folders of tables by name of the catalogue.
    calibrations : `str`
        Folder of curated calibrations; empty for none.
    """

    repository: str
    registry_url: str = ""
    namespace: str = ""
    skymaps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    footprint: Sequence[tuple[float, float, float]] = ()
    refcats: Mapping[str, str] = field(default_factory=dict)
    calibrations: str = ""


@dataclass(frozen=True)
class Check:
    """One line of the verification.

    Attributes
    ----------
    what : `str`
        What was counted.
    expected, found : `str`
        Side by side.
    good : `bool`
        Whether it is as it shall be.
    """

    what: str
    expected: str
    found: str
    good: bool


def bootstrap(plan: BootstrapPlan, steps: Iterable[str] = STEPS) -> dict[str, str]:
    """Run steps of the bootstrap, in their own order.

    Parameters
    ----------
    plan : `BootstrapPlan`
    steps : iterable of `str`, optional
        Some of ``create, instrument, skymap, calibrations, refcats, chains``.

    Returns
    -------
    done : `dict` [`str`, `str`]
        What each step did, in words.

    Raises
    ------
    BadInputError
        If a step does not exist, the plan is wrong, or the repository is another one than the plan says.
    UnavailableError
        If the database does not answer.
    """
    wanted = list(steps)
    if unknown := sorted(set(wanted) - set(STEPS)):
        raise BadInputError(f"Unknown steps {', '.join(unknown)}", "param `steps`", f"use {', '.join(STEPS)}")
    done: dict[str, str] = {}
    if "create" in wanted:
        done["create"] = "created" if create(plan) else "was there"
    with ButlerHook(plan.repository).open(writeable=True) as butler:
        _refuse_other(plan, butler)
        for step, work in (
            ("instrument", _instrument),
            ("skymap", _skymaps),
            ("calibrations", _calibrations),
            ("refcats", _refcats),
            ("chains", _chains),
        ):
            if step in wanted:
                done[step] = work(plan, butler)
    return done


def create(plan: BootstrapPlan) -> bool:
    """Create the repository.

    Parameters
    ----------
    plan : `BootstrapPlan`

    Returns
    -------
    created : `bool`
        False if it was there.

    Raises
    ------
    BadInputError
        If the folder holds something else, the URL has a password, the database holds another repository's
        registry, or a repository is there with another registry.
    UnavailableError
        If the database does not answer.

    Notes
    -----
    It is made beside and renamed. A registry on PostgreSQL that a killed creation left behind is empty, and
    is taken over by the next.
    """
    root = Path(plan.repository).absolute()
    url = _checked_url(plan.registry_url)
    if (root / CONFIG).is_file():
        _refuse_other_registry(plan, root)
        _bring_up_to_date(root)
        return False
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise BadInputError(
            "The folder holds something that is no repository", str(root), "name an empty folder"
        )
    from lsst.daf.butler import Butler, Config
    from lsst.daf.butler.registry.interfaces import SchemaAlreadyDefinedError
    from lsst.utils.introspection import get_full_type_name
    from sqlalchemy.exc import OperationalError

    from tololo.reduction.formats.alert_packets import configure
    from tololo.reduction.formats.compact_formatter import STORAGE_CLASSES, CompactFormatter

    config = Config()
    configure(config)
    if url:
        config["registry", "db"] = url
    if plan.namespace:
        config["registry", "namespace"] = plan.namespace
    for storage_class in STORAGE_CLASSES:
        config["datastore", "formatters", storage_class] = get_full_type_name(CompactFormatter)
    new = root.with_name(f"{root.name.replace('.', '_')}-new")  # to the Butler a dot starts an extension
    shutil.rmtree(new, ignore_errors=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    try:
        Butler.makeRepo(str(new), config)
    except SchemaAlreadyDefinedError as error:
        # makeRepo writes the configuration before it turns to the database.
        if not _is_blank(new):
            shutil.rmtree(new)
            raise BadInputError(
                "The database holds the registry of another repository",
                _place(url, plan.namespace),
                "name another database or schema, or the folder of that repository",
            ) from error
    except OperationalError as error:
        shutil.rmtree(new, ignore_errors=True)
        raise unreachable(_place(url, plan.namespace), error) from error
    os.replace(new, root)
    return True


def verify(plan: BootstrapPlan) -> list[Check]:
    """Compare what the repository holds with the plan.

    Parameters
    ----------
    plan : `BootstrapPlan`

    Returns
    -------
    checks : `list` [`Check`]
        Instrument, detectors, filters, tracts and patches, curated calibrations, shards and chains.

    Raises
    ------
    BadInputError
        If there is no repository, or the plan is wrong.
    """
    from tololo.reduction.instrument.decam import CLASS_NAME
    from tololo.reduction.instrument.detectors import INSTRUMENT, detectors
    from tololo.reduction.instrument.filters import FILTERS

    with ButlerHook(plan.repository).open() as butler:

        def records(element: str, **data_id: Any) -> list[Any]:
            return list(butler.query_dimension_records(element, explain=False, limit=None, **data_id))

        classes = [record.class_name for record in records("instrument") if record.name == INSTRUMENT]
        checks = [_equal(f"instrument {INSTRUMENT}", CLASS_NAME, ", ".join(classes))]
        if classes:
            ccds = {(record.id, record.full_name) for record in records("detector", instrument=INSTRUMENT)}
            names = {record.name for record in records("physical_filter", instrument=INSTRUMENT)}
            known = {(ccd.id, ccd.name) for ccd in detectors().values()}
            checks += [
                _equal("detectors", len(known), len(known & ccds)),
                _equal("filters", len(FILTERS), len(names & {f.physical_filter for f in FILTERS})),
            ]
        for name, skymap in _maps(plan).items():
            checks += _check_skymap(name, skymap, records, _regions(plan))
        if plan.calibrations:
            checks.append(_equal("curated calibrations", *missing_curated(butler, plan.calibrations)))
        for name, source in plan.refcats.items():
            checks += _check_refcat(name, source, butler, _regions(plan))
        for name in (*INPUTS, DEFAULTS):
            there = name in butler.collections.query("*")
            checks.append(_equal(f"collection {name}", "there", "there" if there else "missing"))
    return checks


def footprint_of(refcat: str) -> list[tuple[float, float, float]]:
    """Return circles (ra, dec, radius in degrees) around the trixels where a reference catalogue has stars.

    Nights can be calibrated there and nowhere else, so the sky map is registered there.
    """
    from lsst.sphgeom import HtmPixelization, LonLat

    from tololo.reduction.formats.refcat import LEVEL, read_refcat, shards

    pixelization = HtmPixelization(LEVEL)
    trixels = sorted(shards(read_refcat(refcat)))
    circles = [pixelization.triangle(index).getBoundingCircle() for index in trixels]
    centers = [LonLat(circle.getCenter()) for circle in circles]
    return [
        (center.getLon().asDegrees(), center.getLat().asDegrees(), circle.getOpeningAngle().asDegrees())
        for center, circle in zip(centers, circles, strict=True)
    ]


def table(checks: Sequence[Check]) -> str:
    """Write checks as a text table."""
    rows = [("what", "expected", "found", ""), *((c.what, c.expected, c.found, _mark(c)) for c in checks)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _instrument(plan: BootstrapPlan, butler: Butler) -> str:
    from tololo.reduction.ingest import dataset_types
    from tololo.reduction.ingest_raw import dataset_type
    from tololo.reduction.instrument import DarkEnergyCamera

    DarkEnergyCamera().register(butler.registry)
    dataset_types(butler)
    dataset_type(butler)
    register_types(butler)
    return "registered"


def _calibrations(plan: BootstrapPlan, butler: Butler) -> str:
    return str(register_curated(butler, plan.calibrations)) if plan.calibrations else "none asked for"


def _skymaps(plan: BootstrapPlan, butler: Butler) -> str:
    butler.collections.register(collections.SKYMAPS)
    regions = _regions(plan)
    added = {name: skymap.register(butler, name, regions or None) for name, skymap in _maps(plan).items()}
    return ", ".join(f"{name}: {count} tracts added" for name, count in added.items()) or "none asked for"


def _refcats(plan: BootstrapPlan, butler: Butler) -> str:
    from tololo.reduction.formats.refcat import ingest_refcat

    reports = {name: ingest_refcat(butler, source, name) for name, source in plan.refcats.items()}
    return (
        ", ".join(
            f"{name}: {report.stars} stars, {len(report.written)} shards written, "
            f"{len(report.unchanged)} unchanged"
            for name, report in reports.items()
        )
        or "none asked for"
    )


def _chains(plan: BootstrapPlan, butler: Butler) -> str:
    from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]

    butler.collections.register(collections.REFCATS, CollectionType.CHAINED)
    butler.collections.register(CURATED, CollectionType.CALIBRATION)
    for run in (collections.SKYMAPS, collections.INSTCAL_RUN):
        butler.collections.register(run)
    report = write_chain(butler, DEFAULTS, (), INPUTS)
    return f"{DEFAULTS}: {', '.join(report.children)}"


def _maps(plan: BootstrapPlan) -> dict[str, SkyMap]:
    from tololo.reduction.formats.skymap import from_definition

    return {name: from_definition(dict(definition)) for name, definition in plan.skymaps.items()}


def _regions(plan: BootstrapPlan) -> list[Region]:
    from tololo.reduction.formats.skymap import circle

    return [circle(ra, dec, radius) for ra, dec, radius in plan.footprint]


def _check_skymap(name: str, skymap: SkyMap, records: Any, regions: list[Region]) -> list[Check]:
    known = [record.hash for record in records("skymap") if record.name == name]
    if not known:
        return [_equal(f"sky map {name}", "there", "missing")]
    tracts = (
        {t.id: t for region in regions for t in skymap.find_tracts(region)}
        if regions
        else dict(enumerate(skymap))
    )
    found = {record.id for record in records("tract", skymap=name)} & set(tracts)
    wanted = {
        (tract.id, patch) for tract in tracts.values() for patch in range(tract.grid[0] * tract.grid[1])
    }
    patches = {(record.tract, record.id) for record in records("patch", skymap=name)} & wanted
    return [
        _equal(f"sky map {name}", skymap.hash.hex()[:12], known[0].hex()[:12]),
        _equal(f"sky map {name}: tracts", len(tracts), len(found)),
        _equal(f"sky map {name}: patches", len(wanted), len(patches)),
    ]


def _check_refcat(name: str, source: str, butler: Butler, regions: list[Region]) -> list[Check]:
    from lsst.sphgeom import HtmPixelization

    from tololo.reduction.formats.refcat import LEVEL, read_refcat, shards

    wanted = set(shards(read_refcat(source)))
    there: set[int] = set()
    if list(butler.registry.queryDatasetTypes(name)) and collections.REFCATS in butler.collections.query("*"):
        refs = butler.query_datasets(name, collections.REFCATS, limit=None, explain=False)
        there = {int(ref.dataId[f"htm{LEVEL}"]) for ref in refs}
    checks = [_equal(f"{name}: shards", len(wanted), len(wanted & there))]
    pixelization = HtmPixelization(LEVEL)
    cells = {
        cell
        for region in regions
        for begin, end in pixelization.envelope(region)
        for cell in range(begin, end)
    }
    if cells:
        # The tables may be smaller than the footprint, and a fringe of a trixel empty: told, not demanded.
        checks.append(
            Check(
                f"{name}: trixels of the footprint",
                str(len(cells)),
                str(len(cells & there)),
                bool(cells & there),
            )
        )
    return checks


def _equal(what: str, expected: object, found: object) -> Check:
    return Check(what, str(expected), str(found), expected == found)


def _mark(check: Check) -> str:
    return "ok" if check.good else "WRONG"


def _bring_up_to_date(root: Path) -> None:
    """Tell a repository of kinds of data that it was made without."""
    from lsst.daf.butler import Config

    from tololo.reduction.formats.alert_packets import configure

    config = Config(str(root / CONFIG))
    if configure(config):
        beside = root / f".new-{CONFIG}"
        config.dumpToUri(str(beside))
        os.replace(beside, root / CONFIG)


def _is_blank(folder: Path) -> bool:
    """Tell whether a registry holds nothing at all, as a killed creation leaves it."""
    from lsst.daf.butler import Butler

    with Butler.from_config(str(folder)) as butler:
        registry = butler.registry
        return not (
            list(registry.queryDatasetTypes())
            or butler.collections.query("*")
            or list(registry.queryDimensionRecords("instrument"))
            or list(registry.queryDimensionRecords("skymap"))
        )


def _checked_url(url: str) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    if not url:
        return ""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise BadInputError(
            "The registry URL is not one", "registry URL", "give postgresql+psycopg://user@host:port/database"
        ) from error
    if parsed.password:
        raise BadInputError(
            "The registry URL has a password in it, and would be written to a file that everyone can read",
            f"registry URL of {parsed.host}",
            "leave it out and put it into the file that LSST_DB_AUTH names, or one that `?passfile=` names",
        )
    if parsed.get_backend_name() != "postgresql":
        raise BadInputError(
            f"A registry cannot be on {parsed.get_backend_name()}",
            "registry URL",
            "use PostgreSQL, or leave it empty",
        )
    return url


def _place(url: str, namespace: str) -> str:
    from sqlalchemy.engine import make_url

    if not url:
        return "SQLite"
    parsed = make_url(url)
    return f"{parsed.host}:{parsed.port or 5432}/{parsed.database}" + (
        f", schema {namespace}" if namespace else ""
    )


def _refuse_other_registry(plan: BootstrapPlan, root: Path) -> None:
    from lsst.daf.butler import Config

    registry = Config(str(root / CONFIG))["registry"]
    url, namespace = str(registry["db"]), str(registry.get("namespace") or "")
    there = _place("" if url.startswith("sqlite") else url, namespace)
    if there != (wanted := _place(plan.registry_url, plan.namespace)):
        raise BadInputError(
            f"The repository is there with its registry on {there}, not on {wanted}",
            str(root),
            "name that registry, or another folder",
        )


def _refuse_other(plan: BootstrapPlan, butler: Butler) -> None:
    from tololo.reduction.instrument.decam import CLASS_NAME
    from tololo.reduction.instrument.detectors import INSTRUMENT

    for record in butler.query_dimension_records("instrument", explain=False):
        if (record.name, record.class_name) != (INSTRUMENT, CLASS_NAME):
            raise BadInputError(
                f"The repository belongs to the instrument {record.name} of {record.class_name}",
                plan.repository,
                f"name another folder: this one would need {INSTRUMENT} of {CLASS_NAME}",
            )

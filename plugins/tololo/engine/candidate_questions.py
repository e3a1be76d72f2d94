"""What can be asked about the diaObjects of an APDB: the questions of the pages of candidates.

They are asked like those of `tololo.engine.questions` and answered with JSON. ``config`` is the
configuration file of the APDB, ``credentials`` the entry of an ``LSST_DB_AUTH`` file where its database asks
for a password.
"""

from __future__ import annotations

import base64
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tololo.engine.night_questions import plain
from tololo.engine.repositories import existing, known_types
from tololo.facility import collections
from tololo.facility.errors import BadInputError, NothingToDoError, UnavailableError
from tololo.facility.nights import night_of_mjd_tai

if TYPE_CHECKING:
    from astropy.table import Table
    from lsst.daf.butler import Butler

    from tololo.reduction.apdb import CampaignApdb

type Credentials = Mapping[str, str] | None

IMAGES = {"science": "visit_image", "template": "template_detector", "difference": "difference_image"}
"""What is shown of a detection, in this order."""

KINDS = ("parquet", "csv")
_CREDENTIALS = "LSST_DB_AUTH_CREDENTIALS"

_open: dict[str, tuple[int, CampaignApdb]] = {}
"""APDBs that stay open, each with the time of its configuration file: opening one costs half a second."""


def candidates(
    config: str, credentials: Credentials = None, order: str = "newest", limit: int = 50, offset: int = 0
) -> dict[str, Any]:
    """List diaObjects; see `tololo.reduction.candidates.candidates`.

    Returns
    -------
    found : `dict`
        ``apdb`` (what it was made for and holds), ``candidates``, ``more`` (whether there are more).
    """
    from tololo.reduction.candidates import candidates as find

    def ask(apdb: CampaignApdb) -> dict[str, Any]:
        found = find(apdb, order, limit + 1, offset)
        return {"apdb": apdb.describe(), "candidates": found[:limit], "more": len(found) > limit}

    return dict(plain(_use(config, credentials, ask)))


def candidate(config: str, dia_object_id: int, credentials: Credentials = None) -> dict[str, Any]:
    """Return one diaObject (`tololo.reduction.candidates.candidate`), its ``light_curve`` a list of rows."""
    from tololo.reduction.candidates import candidate as find

    found = _use(config, credentials, lambda apdb: find(apdb, dia_object_id))
    table = found.pop("light_curve")
    rows = [dict(zip(table.colnames, row, strict=True)) for row in table.iterrows()]
    return dict(plain(found | {"apdb": table.meta["apdb"], "light_curve": rows}))


def candidate_plot(config: str, dia_object_id: int, credentials: Credentials = None) -> str:
    """Return the light curve of a diaObject as base64 of a PNG."""
    from tololo.reduction.candidate_plots import plot_light_curve

    with io.BytesIO() as file:
        plot_light_curve(_light_curve(config, credentials, dia_object_id)).savefig(file, format="png")
        return base64.b64encode(file.getvalue()).decode("ascii")


def candidate_file(config: str, dia_object_id: int, kind: str, credentials: Credentials = None) -> str:
    """Return the light curve of a diaObject as base64 of a file: ``parquet`` or ``csv``."""
    from tololo.reduction.light_curves import write_table

    if kind not in KINDS:
        raise BadInputError(f"There is no light curve of kind {kind!r}", "kind", f"use {' or '.join(KINDS)}")
    table = _light_curve(config, credentials, dia_object_id)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"light_curve.{kind}"
        write_table(table, path)
        return base64.b64encode(path.read_bytes()).decode("ascii")


def candidate_cutouts(
    butler: Butler, config: str, dia_object_id: int, dia_source_id: int, credentials: Credentials = None
) -> str:
    """Return what a detection looks like as base64 of a PNG: science, template and difference.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
    config : `str`
    dia_object_id, dia_source_id : `int`
        One of the last detections of the object.
    credentials : mapping, optional

    Raises
    ------
    NothingToDoError
        If the images are not there (any more).
    BadInputError
        If the object has no such detection.
    """
    from tololo.reduction.candidate_plots import triplet
    from tololo.reduction.candidates import candidate as find

    def ask(apdb: CampaignApdb) -> tuple[dict[str, Any], str]:
        return find(apdb, dia_object_id), apdb.describe()["template"]

    found, template = _use(config, credentials, ask)
    own = [row for row in found["detections"] if row["diaSourceId"] == dia_source_id]
    if not own:
        raise BadInputError(
            f"diaSource {dia_source_id} is none of the last detections of diaObject {dia_object_id}",
            f"APDB configuration {config}",
            "choose one that its page shows",
        )
    injected = collections.is_injected(Path(config).stem)
    chains = _chains(butler, night_of_mjd_tai(own[0]["midpointMjdTai"]), template, injected=injected)
    stamps = {name: _stamp(butler, kind, chains, own[0]) for name, kind in IMAGES.items()}
    return base64.b64encode(triplet(stamps)).decode("ascii")


def _light_curve(config: str, credentials: Credentials, dia_object_id: int) -> Table:
    from tololo.reduction.light_curves import object_light_curve

    return _use(config, credentials, lambda apdb: object_light_curve(apdb, dia_object_id))


def _chains(butler: Butler, night: int, template: str, *, injected: bool) -> list[str]:
    """Find a night's differences from this template, those from raws before those from InstCal."""
    parent = f"{night}/{template.removesuffix('/coadd')}"
    there, _ = existing(butler, [f"{parent}/diff_*"])
    return sorted(
        name
        for name in there
        if "/" not in name.removeprefix(f"{parent}/") and collections.is_injected(name) == injected
    )


def _stamp(butler: Butler, kind: str, chains: list[str], row: Mapping[str, Any]) -> Any:
    """Return the pixels of an image around a detection, shape ``(n, n)``; NaN beyond its edge."""
    from lsst.images import Box

    from tololo.reduction.cutouts import STAMP_PIXELS, first_pixels, square

    visit, detector = int(row["visit"]), int(row["detector"])
    ref = None
    if chains and known_types(butler, [kind]):
        ref = butler.find_dataset(
            kind, instrument="DECam", visit=visit, detector=detector, collections=chains
        )
    if ref is None:
        raise NothingToDoError(
            f"There is no {kind} of visit {visit}, detector {detector}",
            f"collections {', '.join(chains) or 'none'}",
            "run difference_imaging for that night again",
        )
    first_x, first_y = first_pixels(row["x"], row["y"])
    whole = butler.get(ref.makeComponentRef("bbox"))
    near = Box.factory[
        max(whole.y.start, first_y) : min(whole.y.stop, first_y + STAMP_PIXELS),
        max(whole.x.start, first_x) : min(whole.x.stop, first_x + STAMP_PIXELS),
    ]
    part = butler.get(ref.makeComponentRef("image"), parameters={"bbox": near})
    return square(part.array, first_x - near.x.start, first_y - near.y.start, STAMP_PIXELS)


def _use[T](config: str, credentials: Credentials, work: Callable[[CampaignApdb], T]) -> T:
    """Call a function with an APDB; once more with a fresh one if the database was away in between."""
    from tololo.reduction.apdb import open_apdb, reachable

    with _authorised(credentials):
        for is_last in (False, True):
            try:
                time = _time_of(config)
                kept = _open.get(config)
                if kept is None or kept[0] != time:
                    kept = _open[config] = time, open_apdb(config)
                with reachable(f"APDB configuration {config}"):
                    return work(kept[1])
            except UnavailableError:
                _open.pop(config, None)
                if is_last:
                    raise
    raise AssertionError("the loop returns or raises")


def _time_of(config: str) -> int:
    try:
        return Path(config).stat().st_mtime_ns
    except OSError:
        raise NothingToDoError(
            f"There is no APDB {Path(config).stem} yet",
            f"APDB configuration {config}",
            "run difference_imaging",
        ) from None


@contextmanager
def _authorised(entry: Credentials) -> Iterator[None]:
    before = os.environ.get(_CREDENTIALS)
    if entry:
        os.environ[_CREDENTIALS] = json.dumps([dict(entry)])
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_CREDENTIALS, None)
        else:
            os.environ[_CREDENTIALS] = before

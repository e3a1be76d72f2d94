"""Find the InstCal exposures in a folder, by header; `tololo.reduction.formats.instcal_members` tells how."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from tololo.facility.errors import BadInputError
from tololo.facility.nights import night_of_mjd_utc
from tololo.reduction.formats.dqmask import plver_key
from tololo.reduction.formats.file_search import Ignored, joined, search_files
from tololo.reduction.formats.instcal import InstcalDetector, InstcalExposure, cards_of, shape_error
from tololo.reduction.formats.instcal_cards import ARCHIVE, gain_of, wcs_cards
from tololo.reduction.formats.instcal_members import Member, Plane, inspect, stem
from tololo.reduction.instrument.filters import band_of, physical_filter_of

_WANTED = (
    "name a folder with `*_ooi_*`, `*_oow_*` and `*_ood_*` files of the NOIRLab archive (PROCTYPE InstCal)"
)


@dataclass(frozen=True)
class Superseded:
    """An older reduction (or a copy) of an exposure and detector that is there in a newer one."""

    expnum: int
    ccdnum: int
    files: tuple[Path, ...]
    plver: str
    kept: tuple[Path, ...]
    kept_plver: str

    def __str__(self) -> str:
        files, kept = (", ".join(map(str, paths)) for paths in (self.files, self.kept))
        what = f"exposure {self.expnum}, detector {self.ccdnum}"
        return f"{what}: {files} ({self.plver}) give way to {kept} ({self.kept_plver})"


@dataclass(frozen=True)
class InstcalSearch:
    """What was found.

    Attributes
    ----------
    triples : `tuple` [`InstcalExposure`, ...]
        Exposures, in time order.
    ignored : `tuple` [`Ignored`, ...]
        Files that are something else.
    superseded : `tuple` [`Superseded`, ...]
        Older reductions and copies.
    """

    triples: tuple[InstcalExposure, ...]
    ignored: tuple[Ignored, ...]
    superseded: tuple[Superseded, ...]


@dataclass
class _Findings:
    members: list[Member] = field(default_factory=list)
    ignored: list[Ignored] = field(default_factory=list)
    superseded: list[Superseded] = field(default_factory=list)
    damaged: set[int | str] = field(default_factory=set)
    problems: dict[str, BadInputError] = field(default_factory=dict)
    """By message or name stem: a file with sixty detectors is cut short only once."""
    missing: defaultdict[tuple[Path, tuple[Plane, ...]], list[Member]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """Detectors that lack planes, by a file that they are in."""

    def add(self, error: BadInputError, key: str = "") -> None:
        self.problems.setdefault(key or str(error), error)


def find_instcal(folder: Path | str) -> InstcalSearch:
    """Find the InstCal exposures in a folder, at any depth.

    Parameters
    ----------
    folder : `pathlib.Path` or `str`

    Returns
    -------
    search : `InstcalSearch`

    Raises
    ------
    BadInputError
        If the folder is absent, empty or without a triple, or anything is wrong with one: one error that
        lists all problems (a plane missing, a file cut short, planes of different size, not DECam, unknown
        filter, cards missing), so that nothing is taken in part.
    """
    folder = Path(folder)
    files = search_files(folder, _WANTED)
    found = _Findings(ignored=files.ignored)
    for problem in files.problems:
        found.add(problem)
    for path in files.files:
        report = inspect(path)
        found.members += report.members
        if report.ignored:
            found.ignored.append(Ignored(path, report.ignored))
        if report.problem:
            found.add(report.problem, stem(path))
        if report.damaged is not None:
            found.damaged.add(report.damaged)
    exposures = _exposures(found)
    what = "things are wrong with the InstCal files, none was taken"
    if error := joined([*found.problems.values()], what, str(folder), "mend or remove what is listed"):
        raise error
    if not exposures:
        raise _nothing_found(folder, found.ignored)
    return InstcalSearch(tuple(exposures), tuple(found.ignored), tuple(found.superseded))


def _exposures(found: _Findings) -> list[InstcalExposure]:
    groups: defaultdict[tuple[int, int | str], list[Member]] = defaultdict(list)
    for member in found.members:
        groups[member.expnum, member.name if member.ccdnum is None else member.ccdnum].append(member)
    detectors: defaultdict[int, list[tuple[InstcalDetector, Member]]] = defaultdict(list)
    for (expnum, _), members in groups.items():
        chosen = _newest(members, found)
        try:
            if detector := _detector(chosen, found):
                detectors[expnum].append((detector, chosen[Plane.IMAGE]))
        except BadInputError as error:
            found.add(error)
    for (path, planes), lacking in found.missing.items():
        found.add(_missing(path, planes, lacking))
    exposures = []
    for expnum, pairs in detectors.items():
        try:
            exposures.append(_exposure(expnum, sorted(pairs, key=lambda pair: pair[0].ccdnum)))
        except BadInputError as error:
            found.add(error)
    return sorted(exposures, key=lambda exposure: (exposure.mjd_utc, exposure.expnum))


def _newest(members: list[Member], found: _Findings) -> dict[Plane, Member]:
    """Choose the newest reduction, and of copies the ones beside the image; name what is left out."""
    newest = max(member.reduction for member in members)
    current = [member for member in members if member.reduction == newest]
    for member in current:
        if member.problem:
            found.add(member.problem)
    images = [member.place.path for member in current if member.plane is Plane.IMAGE]
    home = min(images).parent if images else None
    chosen: dict[Plane, Member] = {}
    for plane in Plane:
        if copies := [member for member in current if member.plane is plane]:
            chosen[plane] = min(
                copies, key=lambda member: (member.place.path.parent != home, member.place.path)
            )
    kept = list(chosen.values())
    losers: defaultdict[str, list[Path]] = defaultdict(list)
    for member in members:
        if all(member is not one for one in kept):
            losers[member.plver].append(member.place.path)
    for plver, paths in losers.items():
        found.superseded.append(
            Superseded(
                expnum=kept[0].expnum,
                ccdnum=kept[0].ccdnum or 0,
                files=tuple(dict.fromkeys(paths)),
                plver=plver,
                kept=tuple(dict.fromkeys(member.place.path for member in kept)),
                kept_plver=kept[0].plver,
            )
        )
    return chosen


def _detector(chosen: dict[Plane, Member], found: _Findings) -> InstcalDetector | None:
    """Return the detector, or `None` after noting that a plane is missing or its file cut short."""
    first = next(iter(chosen.values()))
    if any(member.problem for member in chosen.values()):
        return None
    if (instrument := first.text("INSTRUME")).lower() != "decam":
        raise BadInputError(
            f"The InstCal files of exposure {first.expnum} are not from DECam: INSTRUME is "
            f"{repr(instrument) if instrument else 'missing'}",
            f"{first.place.path}, HDU 0, card INSTRUME",
            "take them out of the folder: only DECam is processed here",
        )
    if missing := tuple(plane for plane in Plane if plane not in chosen):
        if found.damaged.isdisjoint({first.expnum, stem(first.place.path)}):
            found.missing[first.place.path, missing].append(first)
        return None
    image = chosen[Plane.IMAGE]
    for member in chosen.values():
        if member.shape != image.shape:
            raise shape_error(member.place.path, member.shape, image.place.path, image.shape)
    if image.ccdnum is None or not 1 <= image.ccdnum <= 62:
        raise BadInputError(
            f"The detector number is {'missing' if image.ccdnum is None else image.ccdnum}",
            f"{image.place}, card CCDNUM",
            f"{ARCHIVE}; DECam's detectors are 1 to 62",
        )
    cards = cards_of(image.header)
    gain_of(cards, str(image.place))
    return InstcalDetector(
        ccdnum=image.ccdnum,
        name=image.name,
        plver=image.plver,
        shape=image.shape,
        wcs_header=wcs_cards(cards, str(image.place)),
        image=image.place,
        weight=chosen[Plane.WEIGHT].place,
        mask=chosen[Plane.MASK].place,
    )


def _missing(path: Path, planes: tuple[Plane, ...], members: list[Member]) -> BadInputError:
    first = members[0]
    names = ", ".join(member.name for member in members)
    files = " and ".join(f"`*_{plane.code}_*`" for plane in planes)
    return BadInputError(
        f"The {' and the '.join(planes)} of exposure {first.expnum} {'is' if len(planes) == 1 else 'are'}"
        f" missing (detector {names})",
        f"beside {path}",
        f"fetch the {files} of the same reduction ({first.plver or 'no PLVER'})",
    )


def _exposure(expnum: int, pairs: list[tuple[InstcalDetector, Member]]) -> InstcalExposure:
    image = pairs[0][1]
    where = f"{image.place.path}, HDU 0, card FILTER"
    filter_header = image.text("FILTER")
    if not filter_header:
        raise BadInputError("The filter is missing", where, ARCHIVE)
    try:
        band, physical = band_of(filter_header), physical_filter_of(filter_header)
    except BadInputError as error:
        raise BadInputError(error.what, where, error.remedy) from error
    for _, other in pairs:
        if other.text("FILTER") != filter_header:
            raise BadInputError(
                f"Files of exposure {expnum} name different filters",
                f"{where}, and {other.place.path}",
                ARCHIVE,
            )
    mjd, exptime = _positive(image, "MJD-OBS"), _positive(image, "EXPTIME")
    ra, dec = _pointing(image)
    return InstcalExposure(
        expnum=expnum,
        filter_header=filter_header,
        physical_filter=physical,
        band=band,
        mjd_utc=mjd,
        exptime=exptime,
        day_obs=night_of_mjd_utc(mjd),
        object=image.text("OBJECT"),
        ra=ra,
        dec=dec,
        airmass=_number(image, "AIRMASS"),
        plver=max((detector.plver for detector, _ in pairs), key=plver_key),
        detectors=tuple(detector for detector, _ in pairs),
    )


def _positive(member: Member, keyword: str) -> float:
    value = _number(member, keyword)
    if not (0 < value < math.inf):
        text = member.text(keyword)
        raise BadInputError(
            f"{keyword} is {repr(text) if text else 'missing'}; it has to be a positive number",
            f"{member.place.path}, HDU 0, card {keyword}",
            ARCHIVE,
        )
    return value


def _number(member: Member, keyword: str) -> float:
    try:
        return float(member.card(keyword))
    except (TypeError, ValueError):
        return math.nan


def _pointing(member: Member) -> tuple[float, float]:
    """TELRA and TELDEC (sexagesimal), else the reference point of the WCS, which is there too; degrees."""
    try:
        return 15 * _sexagesimal(member.text("TELRA")), _sexagesimal(member.text("TELDEC"))
    except ValueError:
        return _number(member, "CRVAL1"), _number(member, "CRVAL2")


def _sexagesimal(text: str) -> float:
    whole, minutes, seconds = (float(part) for part in text.split(":"))
    return math.copysign(abs(whole) + minutes / 60 + seconds / 3600, -1 if text.startswith("-") else 1)


def _nothing_found(folder: Path, ignored: list[Ignored]) -> BadInputError:
    listed = "; ".join(f"{item.path.name}: {item.reason}" for item in ignored[:5])
    more = f"; and {len(ignored) - 5} more" if len(ignored) > 5 else ""
    return BadInputError(
        "The folder has no InstCal image, weight and mask; "
        f"its {len(ignored)} files are something else ({listed}{more})",
        str(folder),
        _WANTED,
    )

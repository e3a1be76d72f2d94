"""What the headers of a raw file say about its exposure, as astro_metadata_translator reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any

from astro_metadata_translator import ObservationInfo
from astro_metadata_translator.translators import DecamTranslator

from tololo.facility.errors import BadInputError
from tololo.facility.nights import night_of, night_served
from tololo.reduction.formats.instcal_cards import ARCHIVE
from tololo.reduction.formats.raw_layout import RawHdu, iterate_hdus
from tololo.reduction.instrument.detectors import detectors
from tololo.reduction.instrument.filters import physical_filter_of

KINDS = {"zero": "bias", "dome flat": "flat", "science": "drp"}
"""Kind of processing that takes exposures of an observation type."""

OBSERVATION_TYPES = (*KINDS, "dark", "sky flat", "standard")
_CALIBRATIONS = ("zero", "dome flat", "dark")

# Properties that are read, and the card that each comes from.
_NEEDED = {
    "exposure_id": "EXPNUM",
    "observation_id": "OBSID",
    "observation_type": "OBSTYPE",
    "physical_filter": "FILTER",
    "datetime_begin": "DATE-OBS",
    "exposure_time": "EXPTIME",
}
_WELCOME = (
    "altaz_begin",
    "boresight_rotation_angle",
    "can_see_sky",
    "dark_time",
    "exposure_group",
    "has_simulated_content",
    "object",
    "observation_reason",
    "science_program",
    "tracking_radec",
)


@dataclass(frozen=True)
class RawExposure:
    """One exposure: a raw file and what its headers say.

    Attributes
    ----------
    path : `pathlib.Path`
        The file.
    exposure : `int`
        EXPNUM.
    obs_id : `str`
        OBSID.
    observation_type : `str`
        LSST's name for OBSTYPE: ``zero``, ``dome flat``, ``science``, ``dark``, ``sky flat``, ``standard``.
    observation_reason, target, program, group : `str`
        As the Butler's record of the exposure has them.
    physical_filter : `str`
        Its name in the Butler; that of a bias is the solid plate.
    day_obs : `int`
        LSST's night, YYYYMMDD.
    night : `int`
        The night that it serves (`tololo.facility.nights.night_served`).
    begin : `float`
        MJD TAI.
    exposure_time, dark_time : `float`
        Seconds.
    ra, dec, sky_angle, azimuth, zenith_angle : `float` or `None`
        Pointing, degrees, ICRS.
    can_see_sky, has_simulated : `bool` or `None`
    on_file : `tuple` [`int`, ...]
        CCDNUM of the science CCDs that the file has, sorted.
    detectors : `tuple` [`int`, ...]
        Those of them that are wanted.
    """

    path: Path
    exposure: int
    obs_id: str
    observation_type: str
    observation_reason: str
    target: str
    program: str
    group: str
    physical_filter: str
    day_obs: int
    night: int
    begin: float
    exposure_time: float
    dark_time: float
    ra: float | None
    dec: float | None
    sky_angle: float | None
    azimuth: float | None
    zenith_angle: float | None
    can_see_sky: bool | None
    has_simulated: bool | None
    on_file: tuple[int, ...]
    detectors: tuple[int, ...]

    @property
    def kind(self) -> str:
        """``bias``, ``flat`` or ``drp``; empty for an observation that no pipeline takes."""
        return KINDS.get(self.observation_type, "")

    @property
    def is_science(self) -> bool:
        """Whether it is an exposure of the sky that becomes a visit."""
        return self.observation_type == "science"

    def is_same_as(self, other: RawExposure) -> bool:
        """Whether two files are of one exposure: a number can be wrong, so it is the time that tells."""
        return self.began_at(other.begin)

    def began_at(self, begin: float) -> bool:
        """Whether it began then (MJD TAI), to the second."""
        return abs(self.begin - begin) * 86400 < 1


def inspect_raw(path: Path, index: Mapping[str, Any] | None = None) -> RawExposure | str:
    """Read what a file says about its exposure.

    Parameters
    ----------
    path : `pathlib.Path`
        A FITS file.
    index : `~collections.abc.Mapping`, optional
        What an index file of astro_metadata_translator says about it: a translated observation, or a header.
        It is used if it is of this exposure.

    Returns
    -------
    exposure : `RawExposure` or `str`
        Or why it is no raw of DECam.

    Raises
    ------
    BadInputError
        If it is a raw with something wrong: cut short, cards missing, an unknown filter or observation type.
    """
    hdus = iterate_hdus(path)
    primary = next(hdus)
    if reason := _not_raw(primary):
        return reason
    found = _detectors(path, list(hdus))
    where = f"{path}, HDU 0"
    expnum = primary.integer("EXPNUM")
    if expnum is None or expnum < 1:
        text = primary.cards.get("EXPNUM")
        raise BadInputError(
            f"The exposure number is {repr(text) if text else 'missing'}", f"{where}, card EXPNUM", ARCHIVE
        )
    info = _from_index(index, expnum) or _translated(dict(primary.values()), where)
    return _exposure(path, info, found, where)


def _not_raw(primary: RawHdu) -> str:
    camera, level = primary.cards.get("INSTRUME", ""), primary.cards.get("PROCTYPE", "")
    if camera.lower() != "decam":
        return f"not from DECam (INSTRUME {camera or 'missing'})"
    if level.lower() != "raw":
        return f"no raw (PROCTYPE {level or 'missing'})"
    return ""


def _detectors(path: Path, hdus: list[RawHdu]) -> tuple[int, ...]:
    """List the science CCDs, refusing a file that does not know which is which."""
    science = detectors()
    found: dict[int, RawHdu] = {}
    for hdu in hdus:
        if hdu.ccdnum not in science:
            continue  # focus and guide CCDs
        number, name = hdu.ccdnum, hdu.cards.get("DETPOS", "")
        where = f"{path}, HDU {hdu.index}"
        if name != science[number].name:
            raise BadInputError(
                f"Detector {number} is {science[number].name}, but the header calls it {name or 'nothing'}",
                f"{where}, card DETPOS",
                ARCHIVE,
            )
        if number in found:
            raise BadInputError(
                f"Two HDUs claim detector {number}: {found[number].index} and {hdu.index}", where, ARCHIVE
            )
        found[number] = hdu
    if not found:
        raise BadInputError("The file has none of the 62 science CCDs", f"{path}, card CCDNUM", ARCHIVE)
    return tuple(sorted(found))


def _from_index(index: Mapping[str, Any] | None, expnum: int) -> ObservationInfo | None:
    if not index:
        return None
    try:
        if "SIMPLE" in index or "OBSTYPE" in index:
            info = _translated(dict(index), "index")
        else:
            info = ObservationInfo.from_simple(dict(index))
    except Exception:  # a damaged index is no reason to leave a file out: its own header counts
        return None
    complete = all(getattr(info, name) is not None for name in _NEEDED)
    return info if complete and info.exposure_id == expnum else None


def _translated(header: dict[str, Any], where: str) -> ObservationInfo:
    """Translate a header; what it lacks is `None`."""
    try:
        return ObservationInfo(
            header, translator_class=DecamTranslator, quiet=True, subset={*_NEEDED, *_WELCOME}
        )
    except Exception as error:  # whatever a translator makes of cards that nobody has seen before
        raise BadInputError(f"The header cannot be translated: {error}", where, ARCHIVE) from error


def _exposure(path: Path, info: ObservationInfo, found: tuple[int, ...], where: str) -> RawExposure:
    values = {name: getattr(info, name) for name in _NEEDED}
    for name, card in _NEEDED.items():
        if values[name] is None:
            raise BadInputError(f"{card} is missing or unusable", f"{where}, card {card}", ARCHIVE)
    kind = values["observation_type"]
    if kind not in OBSERVATION_TYPES:
        raise BadInputError(
            f"The observation type {kind!r} is not known",
            f"{where}, card OBSTYPE",
            f"the known ones are {', '.join(OBSERVATION_TYPES)}; science is `object` in the header",
        )
    try:
        physical_filter = physical_filter_of(values["physical_filter"])
    except BadInputError as error:
        raise BadInputError(error.what, f"{where}, card FILTER", error.remedy) from error
    seconds = float(values["exposure_time"].to_value("s"))
    utc = values["datetime_begin"].utc.to_datetime(timezone=UTC)
    if not 0 <= seconds < math.inf or (kind == "science" and seconds == 0):
        raise BadInputError(f"EXPTIME is {seconds}", f"{where}, card EXPTIME", ARCHIVE)
    pointing = info.tracking_radec.icrs if info.tracking_radec is not None else None
    if kind == "science" and pointing is None:
        raise BadInputError("The pointing is missing: no TELRA and TELDEC", f"{where}, card TELRA", ARCHIVE)
    dark = info.dark_time
    sky = info.boresight_rotation_angle if pointing is not None else None
    return RawExposure(
        path=path,
        exposure=int(values["exposure_id"]),
        obs_id=str(values["observation_id"]).strip(),
        observation_type=kind,
        observation_reason=info.observation_reason or "unknown",
        target=str(info.object or "").strip(),
        program=str(info.science_program or "").strip(),
        group=info.exposure_group or str(values["exposure_id"]),
        physical_filter=physical_filter,
        day_obs=night_of(utc),
        night=night_served(utc, calibration=kind in _CALIBRATIONS),
        begin=float(values["datetime_begin"].tai.mjd),
        exposure_time=seconds,
        dark_time=float(dark.to_value("s")) if dark is not None else seconds,
        ra=float(pointing.ra.deg) if pointing is not None else None,
        dec=float(pointing.dec.deg) if pointing is not None else None,
        sky_angle=float(sky.degree) if sky is not None else None,
        azimuth=float(info.altaz_begin.az.deg) if info.altaz_begin is not None else None,
        zenith_angle=float(info.altaz_begin.zen.deg) if info.altaz_begin is not None else None,
        can_see_sky=info.can_see_sky,
        has_simulated=info.has_simulated_content,
        on_file=found,
        detectors=found,
    )

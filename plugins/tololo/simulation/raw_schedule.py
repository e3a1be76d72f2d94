"""When the exposures of raw nights are taken, and what the weather is then."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from tololo.facility.errors import BadInputError
from tololo.facility.nights import MJD_EPOCH, night_bounds, night_of
from tololo.simulation.cards import Observation
from tololo.simulation.plan import PlannedExposure
from tololo.simulation.raw_plan import Kind, RawFault, RawNight, RawPlan
from tololo.simulation.sky import PIXEL_SCALE

CODES: dict[str, str] = {"zero": "zri", "dome flat": "fri", "object": "ori"}
"""How the archive names raws of each kind."""

# AB magnitude of 1 e-/s at airmass 1, extinction per airmass, brightness of the sky in mag/arcsec^2: DECam's,
# as the Legacy Surveys have them.
_ZERO_POINT = {"g": 26.61, "r": 26.82, "i": 26.76, "z": 26.48}
_EXTINCTION = {"g": 0.17, "r": 0.09, "i": 0.05, "z": 0.06}
_SKY = {"g": 22.0, "r": 20.9, "i": 19.9, "z": 18.5}

_LATITUDE, _SOLAR_NOON = math.radians(-30.16606), 16.721  # UTC hours at CTIO
_READOUT = 29.0
_FLAT_EXPTIME = 10.0
_NUMBERS_BEGIN, _PER_NIGHT = 56000, 500  # EXPNUM: MJD of the first night that can be, exposures of a night
_LOWEST = 70.0  # zenith distance beyond which the telescope does not point, degrees


@dataclass(frozen=True)
class RawExposure:
    """One file to be.

    Attributes
    ----------
    kind : `str`
        OBSTYPE.
    night : `RawNight`
        That it is planned for; see ``seen.planned.night`` for its ``day_obs``.
    number : `int`
        Among those of its kind in the night.
    seen : `Observation`
        True pointing, seeing, zero point (AB magnitude of 1 e- in the exposure), sky (e-).
    header_ra, header_dec : `float`
        Where the telescope says it points, degrees.
    turn : `float`
        By how much the camera is turned, degrees; the header does not know.
    transparency_slope : `tuple` [`float`, `float`]
        Change of the transparency per 225 mm along x and y of the focal plane, relative.
    sky_slope : `tuple` [`float`, `float`]
        Of the sky, likewise.
    fault : `RawFault` or `None`
    """

    kind: Kind
    night: RawNight
    number: int
    seen: Observation
    header_ra: float
    header_dec: float
    turn: float
    transparency_slope: tuple[float, float]
    sky_slope: tuple[float, float]
    fault: RawFault | None

    @property
    def name(self) -> str:
        """File name, as the archive gives it."""
        return f"c4d_{self.seen.begin:%y%m%d_%H%M%S}_{CODES[self.kind]}.fits.fz"

    @property
    def caldat(self) -> str:
        """The archive's calendar date: that of the local noon before."""
        local = self.seen.begin.astimezone(ZoneInfo("America/Santiago")) - timedelta(hours=12)
        return f"{local:%Y-%m-%d}"


def schedule(plan: RawPlan, random: np.random.Generator) -> list[RawExposure]:
    """Draw all exposures of a plan, in time order."""
    return [
        exposure
        for night in sorted(plan.nights, key=lambda night: night.night)
        for exposure in _night(plan, night, random)
    ]


def _night(plan: RawPlan, night: RawNight, random: np.random.Generator) -> Iterator[RawExposure]:
    seeing = night.seeing or float(random.uniform(*plan.seeing))
    clear = float(random.uniform(0.88, 0.98))
    bright = float(random.uniform(0.85, 1.3))
    science = _science(plan, night)
    calibrations = _calibrations(night)
    slots = sorted(science + calibrations, key=lambda slot: slot[0])
    if len(slots) > _PER_NIGHT:
        raise BadInputError(
            f"Night {night.night} has {len(slots)} exposures", "plan, nights", f"plan {_PER_NIGHT} at most"
        )
    first = ((night_bounds(night.night)[0] - MJD_EPOCH).days - _NUMBERS_BEGIN) * _PER_NIGHT + 1
    count: dict[str, int] = {}
    for place, (begin, kind, band) in enumerate(slots):
        number = count[kind] = count.get(kind, -1) + 1
        yield _exposure(
            plan, night, kind, number, first + place, begin, band, (seeing, clear, bright), random
        )


def _exposure(
    plan: RawPlan,
    night: RawNight,
    kind: Kind,
    number: int,
    expnum: int,
    begin: datetime,
    band: str,
    weather: tuple[float, float, float],
    random: np.random.Generator,
) -> RawExposure:
    fault = next(
        (f for f in plan.faults if (f.night, f.obstype, f.number) == (night.night, kind, number)), None
    )
    exptime = {"zero": 0.0, "dome flat": _FLAT_EXPTIME, "object": night.exptime}[kind]
    planned = PlannedExposure(night_of(begin), band, kind == "object" and night.transients, exptime)
    east, north = random.uniform(-1, 1, 2) * plan.dither * PIXEL_SCALE / 3600
    off_east, off_north = random.normal(0, plan.pointing_error / 3600, 2)
    turn = float(random.normal(0, plan.turn))
    seeing, clear, bright = weather
    fwhm = seeing * float(random.uniform(0.95, 1.06))
    transparency = clear * float(random.uniform(0.98, 1.02))
    brightness = bright * float(random.uniform(0.97, 1.03))
    sky_slope = random.normal(0, 0.015, 2)
    cloud = random.normal(0, 0.25, 2)
    clouded = fault is not None and fault.kind == "clouded"
    if clouded and fault is not None:
        transparency = fault.transparency * float(random.uniform(0.8, 1.2))
        brightness *= 1.2
    stretch = math.cos(math.radians(plan.dec))
    seen = Observation(
        visit=expnum,
        planned=planned,
        begin=begin,
        ra=plan.ra + east / stretch,
        dec=plan.dec + north,
        fwhm=fwhm,
        zero_point=0.0,
        header_zero_point=0.0,
        transparency=transparency,
        sky=0.0,
    )
    if kind == "object":
        seen = _light(seen, brightness)
    if fault is not None and fault.kind == "wrong_pointing":
        off_north += fault.arcsec / 3600
    return RawExposure(
        kind=kind,
        night=night,
        number=number,
        seen=seen,
        header_ra=seen.ra + float(off_east) / stretch,
        header_dec=seen.dec + float(off_north),
        turn=turn,
        transparency_slope=(float(cloud[0]), float(cloud[1])) if clouded else (0.0, 0.0),
        sky_slope=(float(sky_slope[0]), float(sky_slope[1])),
        fault=fault,
    )


def _light(seen: Observation, brightness: float) -> Observation:
    """Fill in zero point and sky, which depend on where and when the exposure is taken."""
    zenith = seen.horizon()[0]
    if zenith > _LOWEST:
        raise BadInputError(
            f"The field is not up in night {seen.planned.night}: it is {zenith:.0f} degrees from the zenith",
            f"plan, ra {seen.ra:.3f}, dec {seen.dec:.3f}",
            "choose a field for the season, or a season for the field",
        )
    band, exptime = seen.planned.band, seen.planned.exptime
    zero_point = (
        _ZERO_POINT[band]
        - _EXTINCTION[band] * (seen.airmass - 1)
        + 2.5 * math.log10(exptime * seen.transparency)
    )
    per_pixel = 10 ** (0.4 * (_ZERO_POINT[band] - _SKY[band])) * PIXEL_SCALE**2
    return Observation(**{**vars(seen), "zero_point": zero_point, "sky": per_pixel * exptime * brightness})


def _calibrations(night: RawNight) -> list[tuple[datetime, Kind, str]]:
    """Biases first, then the flats band by band, in the afternoon or the morning."""
    if night.calibrations == "afternoon":
        begin = _sun(night.night, -0.83, rising=False) - timedelta(hours=3)
    elif night.calibrations == "morning":
        begin = _sun(night.night, -8.0, rising=True)
    else:
        begin = night_bounds(night.night)[1] + timedelta(minutes=30)
    kinds: list[tuple[Kind, str]] = [("zero", night.bands[0])] * night.zeros
    kinds += [("dome flat", band) for band in night.bands for _ in range(night.flats)]
    slots: list[tuple[datetime, Kind, str]] = []
    for kind, band in kinds:
        slots.append((begin, kind, band))
        begin += timedelta(seconds=_READOUT + (_FLAT_EXPTIME if kind == "dome flat" else 0))
    if slots and night.calibrations == "morning" and night_of(begin) != night.night:
        raise BadInputError(
            f"So many calibrations do not fit into the morning of night {night.night}",
            "plan, nights",
            "take them in the afternoon, or `late`",
        )
    return slots


def _science(plan: RawPlan, night: RawNight) -> list[tuple[datetime, Kind, str]]:
    """Science exposures about the field's culmination, as far as the Sun is 15 degrees below the horizon."""
    step = timedelta(seconds=night.exptime + _READOUT)
    bands = [band for band in night.bands for _ in range(night.objects)]
    length = step * len(bands)
    dusk, dawn = _sun(night.night, -15.0, rising=False), _sun(night.night, -15.0, rising=True)
    if length > dawn - dusk:
        raise BadInputError(
            f"The science exposures of night {night.night} take {length}, the dark lasts {dawn - dusk}",
            "plan, nights",
            "plan fewer or shorter ones",
        )
    midnight = dusk + (dawn - dusk) / 2
    angle = Observation(
        0, PlannedExposure(night.night), midnight, plan.ra, plan.dec, 0, 0, 0, 0, 0
    ).hour_angle
    begin = midnight - timedelta(hours=angle / 15.041) - length / 2
    begin = max(dusk, min(begin, dawn - length)).replace(microsecond=0)
    return [(begin + number * step, "object", band) for number, band in enumerate(bands)]


def _sun(night: int, altitude: float, *, rising: bool) -> datetime:
    """Return when the Sun passes an altitude (degrees) in a night, to some minutes, on a whole second."""
    midday = datetime(night // 10000, night // 100 % 100, night % 100, tzinfo=UTC) + timedelta(
        hours=_SOLAR_NOON
    )
    declination = math.radians(-23.44) * math.cos(2 * math.pi * (midday.timetuple().tm_yday + 10) / 365.24)
    cosine = (math.sin(math.radians(altitude)) - math.sin(_LATITUDE) * math.sin(declination)) / (
        math.cos(_LATITUDE) * math.cos(declination)
    )
    half_day = timedelta(hours=math.degrees(math.acos(cosine)) / 15)
    moment = midday + timedelta(days=1) - half_day if rising else midday + half_day
    return moment.replace(microsecond=0)

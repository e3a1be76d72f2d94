"""What is read from an exposure's `ObservationInfo`, where every property may be missing."""

from __future__ import annotations

from typing import Any

from astro_metadata_translator import ObservationInfo

from tololo.facility.errors import BadInputError


def visit_of(info: ObservationInfo) -> int:
    """Return the number of the visit."""
    return int(_known(info, "visit_id"))


def night_of(info: ObservationInfo) -> int:
    """Return the observing night, YYYYMMDD."""
    return int(_known(info, "observing_day"))


def begin_mjd_tai(info: ObservationInfo) -> float:
    """Return the begin of the exposure, MJD TAI."""
    return float(_known(info, "datetime_begin").tai.mjd)


def midpoint_mjd_tai(info: ObservationInfo) -> float:
    """Return the middle of the exposure, MJD TAI."""
    return begin_mjd_tai(info) + float(_known(info, "exposure_time").to_value("d")) / 2


def exposure_seconds(info: ObservationInfo) -> float:
    """Return the exposure time, s."""
    return float(_known(info, "exposure_time").to_value("s"))


def _known(info: ObservationInfo, name: str) -> Any:
    value = getattr(info, name)
    if value is None:
        raise BadInputError(
            f"The header does not give {name}",
            str(info.observation_id),
            "take the file from the archive again",
        )
    return value

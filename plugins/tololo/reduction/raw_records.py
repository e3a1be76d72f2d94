"""Dimension records of raw exposures, and of the visits of those of the sky."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from astropy.time import Time, TimeDelta
from lsst.daf.butler import Timespan

from .instrument.detectors import INSTRUMENT
from .instrument.pointing import nominal_regions
from .records import NAME, Record, Visit, insert_exposures, insert_visits

if TYPE_CHECKING:
    from lsst.daf.butler import Butler

    from .formats.raw_exposure import RawExposure

_REASON = 68  # characters that the registry keeps of a reason


def insert_records(butler: Butler, exposures: Sequence[RawExposure]) -> None:
    """Write what the registry has to know about exposures; what is there stays.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable, in a transaction.
    exposures : sequence of `~tololo.reduction.formats.raw_exposure.RawExposure`

    Notes
    -----
    The visit of an exposure is defined with all 62 detectors, also where the file lacks some. One that was
    defined by an InstCal of the same exposure keeps its regions, which are better; its own is widened.
    """
    insert_exposures(butler, [exposure_record(exposure) for exposure in exposures])
    insert_visits(butler, [_visit(exposure) for exposure in exposures if exposure.is_science])


def exposure_record(exposure: RawExposure) -> Record:
    """Return the ``exposure`` record of a raw."""
    return _common(exposure) | {
        "obs_id": exposure.obs_id[:NAME],
        "group": exposure.group,
        "dark_time": exposure.dark_time,
        "observation_type": exposure.observation_type,
        "seq_start": exposure.exposure,
        "seq_end": exposure.exposure,
        "tracking_ra": exposure.ra,
        "tracking_dec": exposure.dec,
        "sky_angle": exposure.sky_angle,
        "has_simulated": exposure.has_simulated,
        "can_see_sky": exposure.can_see_sky,
    }


def _visit(exposure: RawExposure) -> Visit:
    assert exposure.ra is not None  # or it would have been rejected
    assert exposure.dec is not None
    record = _common(exposure) | {"name": exposure.obs_id[:NAME]}
    return Visit(record, nominal_regions(exposure.ra, exposure.dec))


def _common(exposure: RawExposure) -> Record:
    """Return what exposure and visit have in common."""
    begin = Time(exposure.begin, format="mjd", scale="tai")
    return {
        "instrument": INSTRUMENT,
        "id": exposure.exposure,
        "physical_filter": exposure.physical_filter,
        "day_obs": exposure.day_obs,
        "seq_num": exposure.exposure,
        "exposure_time": exposure.exposure_time,
        "target_name": exposure.target[:NAME] or "unknown",
        "observation_reason": exposure.observation_reason[:_REASON],
        "science_program": exposure.program[:NAME] or "unknown",
        "azimuth": exposure.azimuth,
        "zenith_angle": exposure.zenith_angle,
        "timespan": Timespan(begin, begin + TimeDelta(exposure.exposure_time, format="sec")),
    }

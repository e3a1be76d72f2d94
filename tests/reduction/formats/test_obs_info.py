from __future__ import annotations

import pytest
from astro_metadata_translator import ObservationInfo, makeObservationInfo
from astropy import units as u
from astropy.time import Time

from tololo.facility.errors import BadInputError
from tololo.reduction.formats.obs_info import (
    begin_mjd_tai,
    exposure_seconds,
    midpoint_mjd_tai,
    night_of,
    visit_of,
)


def made(**properties: object) -> ObservationInfo:
    return makeObservationInfo(**{"observation_id": "c4d_180212", **properties})


def test_times_are_tai_and_the_middle_is_half_an_exposure_later() -> None:
    # UTC was 37 s behind TAI in 2018.
    info = made(
        datetime_begin=Time("2018-02-12T08:30:09", scale="utc"),
        exposure_time=100.0 * u.s,
        visit_id=720558,
        observing_day=20180211,
    )
    begin = 58161 + (8 * 3600 + 30 * 60 + 9 + 37) / 86400
    assert begin_mjd_tai(info) == pytest.approx(begin, abs=1e-9)
    assert midpoint_mjd_tai(info) == pytest.approx(begin + 50 / 86400, abs=1e-9)
    assert (visit_of(info), night_of(info), exposure_seconds(info)) == (720558, 20180211, 100.0)


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (visit_of, "visit_id"),
        (night_of, "observing_day"),
        (begin_mjd_tai, "datetime_begin"),
        (exposure_seconds, "exposure_time"),
    ],
)
def test_what_a_header_does_not_give_is_named(read, name) -> None:
    with pytest.raises(BadInputError, match=f"{name}.*\n?.*c4d_180212"):
        read(made())

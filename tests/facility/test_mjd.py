"""Time scales against astropy."""

from __future__ import annotations

from datetime import UTC

import pytest
from astropy.time import Time

from tololo.facility.mjd import mjd_utc_of, tai_to_utc, utc_to_tai


# the last night of 2016 ends with a leap second; the others lie on both sides of each step since 2009
@pytest.mark.parametrize(
    "mjd", [55197.3, 56108.9, 56109.1, 57203.99, 57204.01, 57753.2, 57753.9, 57754.3, 58161.341]
)
def test_time_scales_agree_with_astropy(mjd: float) -> None:
    assert tai_to_utc(mjd) == pytest.approx(Time(mjd, format="mjd", scale="tai").utc.mjd, abs=1e-10)
    assert utc_to_tai(mjd) == pytest.approx(Time(mjd, format="mjd", scale="utc").tai.mjd, abs=1e-10)
    moment = Time(mjd, format="mjd", scale="utc").to_datetime(timezone=UTC)
    assert mjd_utc_of(moment) == pytest.approx(mjd, abs=1e-10)

"""Heliocentric dates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tololo.reduction.heliocentric import CERRO_TOLOLO, hjd_utc
from tololo.reduction.timeseries.times import frame_times

LIGHT_DAY = 499.004784 / 86400
"""Light time of one astronomical unit, d."""


def test_the_same_as_of_a_frame() -> None:
    frame = frame_times("2018-02-12T05:00:00", 0.0, 186.744, 25.462, CERRO_TOLOLO)
    assert hjd_utc([frame.mjd_utc], 186.744, 25.462)[0] == pytest.approx(frame.hjd_utc, abs=1e-9)


def test_a_year_on_the_ecliptic_and_at_its_pole() -> None:
    """The Earth runs round the Sun: first point of Aries, from where the Sun stands there on 20 March."""
    mjd = 58197.677 + np.arange(0, 366, 1.0)  # equinox of 20 March 2018, 16:15 UTC
    delay = np.array(hjd_utc(list(mjd), 0.0, 0.0)) - 2400000.5 - mjd
    assert delay[0] == pytest.approx(-LIGHT_DAY, rel=0.01)  # the Earth is behind the Sun
    assert delay[186] == pytest.approx(LIGHT_DAY, rel=0.01)  # and in front of it in September
    wave = -LIGHT_DAY * np.cos(2 * math.pi * (mjd - mjd[0]) / 365.25)
    assert np.abs(delay - wave).max() < 0.05 * LIGHT_DAY  # its orbit is no circle
    pole = np.array(hjd_utc(list(mjd), 270.0, 66.5607)) - 2400000.5 - mjd
    assert np.abs(pole).max() < 1e-4 * LIGHT_DAY + 2 * 0.0213 / 86400  # but for the radius of the Earth

"""From real InstCal cutouts to differences, compared with what the Legacy Surveys measured on them."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
from astropy.table import Table

from real_data import FIELD, needs
from tololo.facility.errors import BadInputError
from tololo.reduction.formats.images import planes_of

from .chain import Chain, Subtracted, calibrated_detector, robust_scatter

pytestmark = needs(FIELD)

BANDS = {
    "z": (720558, (431608, 630780, 640615)),
    "r": (730182, (650104, 716705)),
    "g": (725257, (634850,)),
}
EPOCHS = sorted(visit for science, template in BANDS.values() for visit in (science, *template))


@pytest.fixture(scope="module")
def survey() -> dict[int, Table.Row]:
    """What the Legacy Surveys say of each exposure."""
    ccds = Table.read(FIELD / "survey-ccds-1.fits.gz")
    return {int(row["expnum"]): row for row in ccds}


@pytest.fixture(scope="module")
def differences(real_field: Chain) -> dict[str, Subtracted]:
    return {
        band: real_field.subtract(*real_field.keys(science)[0], list(template))
        for band, (science, template) in BANDS.items()
    }


def test_all_nine_epochs_are_there(real_field: Chain) -> None:
    assert sorted(real_field.exposures) == EPOCHS


@pytest.mark.parametrize("visit", EPOCHS)
def test_seeing_and_astrometry(real_field: Chain, survey: dict[int, Table.Row], visit: int) -> None:
    summary = real_field.detector(*real_field.keys(visit)[0]).summary
    assert summary["fwhm_pixels"] == pytest.approx(float(survey[visit]["fwhm"]), rel=0.10)
    assert math.hypot(summary["shift_x"], summary["shift_y"]) < 0.3
    assert summary["astrometric_rms"] < 0.15
    assert summary["n_astrometric"] >= 3


@pytest.mark.parametrize("band", BANDS)
def test_zero_points_up_to_one_offset(real_field: Chain, survey: dict[int, Table.Row], band: str) -> None:
    science, template = BANDS[band]
    offsets = []
    for visit in (science, *template):
        summary = real_field.detector(*real_field.keys(visit)[0]).summary
        per_second = summary["zero_point"] - 2.5 * math.log10(real_field.exposures[visit].exptime)
        assert per_second == pytest.approx(summary["zero_point_per_second"], abs=1e-6)
        offsets.append(per_second - float(survey[visit]["ccdzpt"]))
        # Two to four stars: the error says that they allow no more.
        assert 0.02 < summary["zero_point_error"] < 0.08
    middle = (max(offsets) + min(offsets)) / 2
    assert max(abs(offset - middle) for offset in offsets) < 0.05
    # The convention is theirs (AB, 1 ADU/s); Gaia's relation and Pan-STARRS differ by this much.
    assert abs(middle) < 0.15


def test_an_exposure_with_bad_astrometry_is_registered_and_named(caplog: pytest.LogCaptureFixture) -> None:
    folder = Chain(FIELD / "bad_astrometry", FIELD / "gaia")
    (key,) = folder.keys(431608)
    with caplog.at_level(logging.WARNING, logger="tololo.reduction.calibrate"):
        detector = folder.detector(*key)
    size = math.hypot(detector.summary["shift_x"], detector.summary["shift_y"])
    assert 0.75 < size < 1.05
    assert detector.summary["astrometric_rms"] < 0.15
    (warning,) = [r.getMessage() for r in caplog.records if "astrometry" in r.getMessage()]
    assert "visit 431608, detector 34" in warning
    assert "re-registered" in warning
    # The newer reduction of the same exposure is where the reference stars say.
    good = Chain(FIELD / "exposures", FIELD / "gaia").detector(*key)
    ra, dec = good.calibrated.wcs.all_pix2world([[60.0, 80.0]], 0)[0]
    x, y = detector.calibrated.wcs.all_world2pix([[ra, dec]], 0)[0]
    bx, by = detector.pixels.wcs.all_world2pix([[ra, dec]], 0)[0]
    assert math.hypot(x - bx, y - by) == pytest.approx(size, abs=0.01)


def test_astrometry_that_is_far_off_is_refused(real_field: Chain) -> None:
    (key,) = real_field.keys(720558)
    pixels = real_field.read(*key)
    wcs = pixels.wcs.deepcopy()
    wcs.wcs.crpix = wcs.wcs.crpix + np.array([4.0, -3.0])
    with pytest.raises(BadInputError, match=r"off by 5\.\d\d pixels") as caught:
        calibrated_detector(replace(pixels, wcs=wcs), real_field.shards, "z", key[1])
    assert "visit 720558, detector 34" in str(caught.value)


@pytest.mark.parametrize("band", BANDS)
def test_the_noise_of_the_difference_is_the_expected(differences: dict[str, Subtracted], band: str) -> None:
    subtracted = differences[band]
    assert 0.9 < robust_scatter(subtracted.pull) < 1.15
    assert 0.9 < subtracted.image.metadata["NOISE RATIO"] < 1.15
    assert np.isnan(subtracted.pull).mean() < 0.06
    assert np.count_nonzero(np.abs(subtracted.pull) > 5) < 124  # the worst that hotpants does on them
    assert subtracted.image.metadata["FLUX RATIO"] == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize("band", BANDS)
def test_no_star_is_taken_for_a_transient(differences: dict[str, Subtracted], band: str) -> None:
    subtracted = differences[band]
    references = subtracted.science.references
    clean = subtracted.sources[subtracted.sources["rejection"] == ""]
    for source in clean[np.abs(clean["snr"]) > 10]:
        assert np.hypot(references.x - source["x"], references.y - source["y"]).min() > 3
    # Nothing is known to have changed in this field: no source of any kind is believed.
    assert len(subtracted.accepted) == 0


def test_the_brightest_star_leaves_little(differences: dict[str, Subtracted]) -> None:
    subtracted = differences["z"]
    science = planes_of(subtracted.science.image)
    stars = subtracted.science.stars
    star = stars[np.argmax(np.where(stars["refId"] > 0, stars["psfFlux"], 0))]
    y, x = np.ogrid[: science.image.shape[0], : science.image.shape[1]]
    disk = np.hypot(x - star["x"], y - star["y"]) < 8
    left = np.nansum(subtracted.planes.image[disk])
    assert abs(left) < 0.06 * np.nansum(science.image[disk])

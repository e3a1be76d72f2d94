from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from lsst.daf.butler import Butler, Config, DatasetType
from lsst.images import MaskedImage

from tololo.reduction.formats.compact_formatter import NOISE_STEPS, STORAGE_CLASSES, VARIANCE_STEPS
from tololo.reduction.formats.images import Planes, planes_of
from tololo.reduction.formats.masks import BIT

SHAPE, SIGMA = (150, 210), 0.37


@pytest.fixture
def butler(tmp_path: Path) -> Butler:
    config = Config()
    for name in STORAGE_CLASSES:
        config["datastore", "formatters", name] = (
            "tololo.reduction.formats.compact_formatter.CompactFormatter"
        )
    Butler.makeRepo(str(tmp_path / "repository"), config)
    butler = Butler.from_config(str(tmp_path / "repository"), run="r", writeable=True)
    butler.registry.registerDatasetType(DatasetType("thing", (), "MaskedImageV2", universe=butler.dimensions))
    return butler


def planes() -> Planes:
    random = np.random.default_rng(1)
    image = random.normal(0, SIGMA, SHAPE).astype(np.float32)
    variance = np.full(SHAPE, SIGMA**2, np.float32)
    image[70:75, 80:85] += 1e5
    variance[70:75, 80:85] += 1e5
    bits = np.zeros(SHAPE, np.int32)
    bits[3, 5] = BIT["SATURATED"] | BIT["BAD"]
    image[3, 5] = np.nan
    return Planes(image, variance, bits)


def written(butler: Butler, given: Planes) -> tuple[Planes, Path]:
    ref = butler.put(MaskedImage(**given.as_images()), "thing")
    return planes_of(butler.get(ref)), Path(butler.getURI(ref).ospath)


def test_steps_are_well_below_the_noise_and_masks_exact(butler: Butler) -> None:
    given = planes()
    read, path = written(butler, given)
    np.testing.assert_array_equal(read.bits, given.bits)
    assert np.isnan(read.image[3, 5])
    good = np.isfinite(given.image)
    off = (read.image - given.image)[good]
    assert np.abs(off).max() <= SIGMA / NOISE_STEPS * 0.51 + 1e-2  # float32 has steps of 0.008 at 1e5
    assert off.mean() == pytest.approx(0, abs=SIGMA / NOISE_STEPS / 50)
    np.testing.assert_allclose(read.variance, given.variance, atol=SIGMA**2 / VARIANCE_STEPS)
    with fits.open(path, disable_image_compression=True) as hdus:
        coded = {hdu.name: hdu.header.get("ZCMPTYPE") for hdu in hdus if "ZCMPTYPE" in hdu.header}
    assert coded == {"IMAGE": "RICE_1", "MASK": "RICE_1", "VARIANCE": "RICE_1"}


def test_the_repository_records_the_formatter_of_lsst(butler: Butler) -> None:
    ref = butler.put(MaskedImage(**planes().as_images()), "thing")
    (record,) = butler._datastore.export_records([ref])[butler._datastore.name].records.values()
    (info,) = next(iter(record.values()))
    assert info.formatter == "lsst.images.formatters.GenericFormatter"


def test_the_same_image_gives_the_same_file(butler: Butler) -> None:
    first, _ = written(butler, planes())
    other = butler.clone(run="s")
    second, _ = written(other, planes())
    np.testing.assert_array_equal(first.image, second.image)


@pytest.mark.parametrize("variance", [0.0, np.nan, np.inf])
def test_without_noise_nothing_is_lost(butler: Butler, variance: float) -> None:
    given = planes()
    given.variance[:] = variance
    read, _ = written(butler, given)
    np.testing.assert_array_equal(read.image, given.image)
    np.testing.assert_array_equal(read.variance, given.variance)

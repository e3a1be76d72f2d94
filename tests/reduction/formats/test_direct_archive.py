"""The archive that is written in one go is LSST's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from lsst.images import Box, DifferenceImage, MaskedImage, VisitImage
from lsst.images.cells import CellCoadd
from lsst.images.serialization import read_archive, write_archive
from pydantic_core import PydanticSerializationError

from reduction.chain import Simulation
from tololo.reduction.formats.compact_formatter import compression_options, write_image
from tololo.reduction.formats.images import Planes, planes_of
from tololo.reduction.formats.masks import BIT

KEY = (840004, 28)


def small() -> MaskedImage:
    random = np.random.default_rng(1)
    bits = np.where(random.random((70, 90)) < 0.1, BIT["CLIPPED"], 0).astype(np.int32)
    image = random.normal(0, 1, (70, 90)).astype(np.float32)
    image[5, 6] = np.nan
    variance = random.uniform(0.9, 1.1, (70, 90)).astype(np.float32)
    return MaskedImage(**Planes(image, variance, bits, 100, 200).as_images(), metadata={"ANSWER": 42})


def cards(hdu: fits.PrimaryHDU) -> list[str]:
    """Return the cards of a header but the date and what depends on the length of the file."""
    changing = ("DATE", "INDXADDR", "JSONADDR", "JSONSIZE", "PCOUNT", "TFORM1")
    return [str(card) for card in hdu.header.cards if card.keyword not in changing]


def same_but_for_steps(ours: MaskedImage, theirs: MaskedImage, given: MaskedImage) -> None:
    """Compare images from our file and from LSST's: the same masks, and values within one step."""
    assert type(ours) is type(theirs)
    found, expected, original = planes_of(ours), planes_of(theirs), planes_of(given)
    np.testing.assert_array_equal(found.bits, original.bits)
    assert (found.x0, found.y0) == (original.x0, original.y0)
    np.testing.assert_array_equal(np.isnan(found.image), np.isnan(original.image))
    options = compression_options(given)
    for name in ("image", "variance"):
        step = -options[name].quantization.level
        exact = getattr(original, name)
        tolerance = step * 0.501 + np.finfo(np.float32).eps * np.nan_to_num(np.abs(exact))
        for plane in (getattr(found, name), getattr(expected, name)):
            off = np.abs(plane.astype(float) - exact)
            assert (np.nan_to_num(off) <= tolerance).all()
    assert ours.mask.schema == given.mask.schema
    assert dict(ours.metadata) == dict(given.metadata)


def both(image: MaskedImage, folder: Path) -> tuple[Path, Path]:
    """Write an image by ours and by LSST's code, with the same options."""
    ours, theirs = folder / "ours.fits", folder / "theirs.fits"
    write_image(image, ours, seed=7)
    write_archive(image, theirs, compression_options=compression_options(image), compression_seed=7)
    return ours, theirs


def test_the_file_is_that_of_lsst(tmp_path: Path) -> None:
    ours, theirs = both(small(), tmp_path)
    with fits.open(ours) as found, fits.open(theirs) as expected:
        found.verify("exception")
        assert [hdu.name for hdu in found] == [hdu.name for hdu in expected]
        for hdu, other in zip(found, expected, strict=True):
            assert cards(hdu) == cards(other)
        for name in ("IMAGE", "MASK", "VARIANCE"):
            np.testing.assert_array_equal(found[name].data, expected[name].data)
    same_but_for_steps(read_archive(ours, MaskedImage), read_archive(theirs, MaskedImage), small())


@pytest.mark.parametrize("kind", [VisitImage, DifferenceImage, CellCoadd])
def test_every_kind_of_image_comes_back(simulation: Simulation, tmp_path: Path, kind: type) -> None:
    image = simulation.chain.detector(*KEY).image
    if kind is DifferenceImage:
        image = simulation.differences[0].image
    elif kind is CellCoadd:
        image = simulation.chain.coadds(simulation.template_visits, image)[0][0]
    ours, theirs = both(image, tmp_path)
    same_but_for_steps(read_archive(ours, kind), read_archive(theirs, kind), image)
    with fits.open(ours) as found, fits.open(theirs) as expected:
        for name in ("IMAGE", "MASK", "VARIANCE"):
            assert cards(found[name]) == cards(expected[name])
        if kind is CellCoadd:
            np.testing.assert_array_equal(found["PSF"].data, expected["PSF"].data)


def test_a_cutout_of_a_file_is_read_and_written_again(tmp_path: Path) -> None:
    write_image(small(), tmp_path / "whole.fits")
    box = Box.factory[230:260, 120:170]
    part = read_archive(tmp_path / "whole.fits", MaskedImage, bbox=box)
    write_image(part, tmp_path / "part.fits")
    again = read_archive(tmp_path / "part.fits", MaskedImage)
    assert again.bbox == box
    np.testing.assert_array_equal(planes_of(again).bits, planes_of(small()).bits[30:60, 20:70])
    with fits.open(tmp_path / "part.fits") as hdus:
        keys = list(hdus["MASK"].header)
        assert len(keys) == len(set(keys))


def test_a_file_that_exists_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "image.fits"
    path.write_text("precious")
    with pytest.raises(OSError, match="already exists"):
        write_image(small(), path)
    assert path.read_text() == "precious"


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    image = small()
    image.metadata["KEY"] = object()
    with pytest.raises(PydanticSerializationError):
        write_image(image, tmp_path / "image.fits")
    assert not list(tmp_path.iterdir())

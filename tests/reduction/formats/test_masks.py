"""Mask bits to LSST's masks and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from lsst.images import Box, Mask, MaskPlane, MaskSchema
from lsst.images.serialization import read_archive, write_archive

from tololo.reduction.formats.masks import BIT, PLANES, UNUSABLE, FlatMask, pack_mask, unpack_mask


def test_all_planes_come_back() -> None:
    assert len(BIT) == len(PLANES) == len(set(BIT.values()))
    bits = np.random.default_rng(1).integers(0, 1 << len(PLANES), (37, 53)).astype(np.int32)
    for n, value in enumerate(BIT.values()):
        bits[0, n] = value
    mask = pack_mask(bits)
    np.testing.assert_array_equal(unpack_mask(mask), bits)
    for name, value in BIT.items():
        np.testing.assert_array_equal(mask.get(name), (bits & value) != 0)


def test_planes_go_by_name_in_a_foreign_mask() -> None:
    schema = MaskSchema([MaskPlane("SATURATED", ""), MaskPlane("OTHER", ""), MaskPlane("BAD", "")])
    mask = Mask(0, schema=schema, shape=(4, 5))
    mask.set("SATURATED", np.eye(4, 5, dtype=bool))
    mask.set("OTHER", np.ones((4, 5), bool))
    mask.set("BAD", np.eye(4, 5, k=1, dtype=bool))
    expected = np.eye(4, 5) * BIT["SATURATED"] + np.eye(4, 5, k=1) * BIT["BAD"]
    np.testing.assert_array_equal(unpack_mask(mask), expected)


def test_what_is_suspect_is_still_measured() -> None:
    for name in ("SUSPECT", "CLIPPED", "INEXACT_PSF", "DETECTED", "SATURATED_TEMPLATE"):
        assert UNUSABLE & BIT[name] == 0
    for name in ("BAD", "SATURATED", "COSMIC_RAY", "NO_DATA", "STREAK", "SPOILED"):
        assert UNUSABLE & BIT[name]


@pytest.mark.parametrize("planes", [1, 8, 9, 13, 16])
def test_a_flat_mask_makes_the_file_of_the_mask_itself(tmp_path: Path, planes: int) -> None:
    schema = MaskSchema([MaskPlane(f"PLANE{n}", f"Number {n}.") for n in range(planes)])
    mask = Mask(0, schema=schema, bbox=Box.factory[20:57, 30:83])
    random = np.random.default_rng(planes)
    for name in schema.names:
        mask.set(name, random.random((37, 53)) < 0.2)
    flat = FlatMask.of(mask)
    assert isinstance(flat, FlatMask)
    for given, name in ((mask, "mask.fits"), (flat, "flat.fits")):
        write_archive(given, tmp_path / name)
    expected, found = (read_archive(tmp_path / name, Mask) for name in ("mask.fits", "flat.fits"))
    assert expected == mask
    assert found == mask
    with fits.open(tmp_path / "mask.fits") as theirs, fits.open(tmp_path / "flat.fits") as ours:
        np.testing.assert_array_equal(ours["MASK"].data, theirs["MASK"].data)
        cards = [[str(card) for card in hdus["MASK"].header.cards] for hdus in (ours, theirs)]
        assert cards[0][:-1] == cards[1][:-1]  # the last is the date


@pytest.mark.parametrize(
    "schema",
    [
        MaskSchema([MaskPlane("A", ""), None, MaskPlane("B", "")]),
        MaskSchema([MaskPlane(f"P{n}", "") for n in range(17)]),
        MaskSchema([MaskPlane("A", "")], dtype=np.int32),
    ],
)
def test_other_masks_are_left_to_lsst(schema: MaskSchema) -> None:
    mask = Mask(0, schema=schema, shape=(4, 5))
    assert FlatMask.of(mask) is mask

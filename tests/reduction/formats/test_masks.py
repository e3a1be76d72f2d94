"""Mask bits to LSST's masks and back."""

from __future__ import annotations

import numpy as np
from lsst.images import Mask, MaskPlane, MaskSchema

from tololo.reduction.formats.masks import BIT, PLANES, UNUSABLE, pack_mask, unpack_mask


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
    for name in ("BAD", "SATURATED", "COSMIC_RAY", "NO_DATA", "STREAK"):
        assert UNUSABLE & BIT[name]

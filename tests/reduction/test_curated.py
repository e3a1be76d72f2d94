from __future__ import annotations

import math

import numpy as np

from tololo.reduction.curated import crosstalk_of, defects_of, reasons_of
from tololo.reduction.isr import Crosstalk, Neighbour, Share

CROSSTALK = {
    "detector": 28,
    "source": "measured",
    "couplings": [
        {"victim": "28A", "source": "28B", "linear": 3e-4, "onset": None, "polynomial": []},
        {"victim": "28B", "source": "28A", "linear": 2e-4, "onset": 4e4, "polynomial": [1e-4, 2e-8]},
        {"victim": "28A", "source": "29B", "linear": 1e-5, "onset": None, "polynomial": []},
        {"victim": "28B", "source": "29B", "linear": 0.0, "onset": None, "polynomial": []},
    ],
}
DEFECTS = {
    "detector": 28,
    "boxes": [
        {"x0": 10, "y0": 0, "width": 2, "height": 4096, "reason": "dead"},
        {"x0": 40, "y0": 5, "width": 1, "height": 3, "reason": "hot"},
        {"x0": 41, "y0": 5, "width": 1, "height": 3, "reason": "hot"},
    ],
}


def test_crosstalk_within_and_between_ccds() -> None:
    crosstalk = crosstalk_of(CROSSTALK)
    assert crosstalk.a_from_b == Share(3e-4, math.inf)
    assert crosstalk.b_from_a == Share(2e-4, 4e4, 1e-4, 2e-8, 0.0)
    assert crosstalk.neighbours == (Neighbour("A", 29, "B", Share(1e-5)),)
    assert crosstalk.sources == [29]
    assert crosstalk_of(None) == Crosstalk()


def test_defects_are_rectangles_of_the_ccd() -> None:
    bad = defects_of(DEFECTS)
    assert bad.shape == (4096, 2048)
    assert bad.sum() == 2 * 4096 + 6
    assert bad[:, 10:12].all()
    np.testing.assert_array_equal(defects_of(DEFECTS, (100, 64)), bad[:100, :64])
    assert not defects_of(None, (100, 64)).any()
    assert reasons_of(DEFECTS) == "dead; hot"

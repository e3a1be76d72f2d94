"""What the curated calibrations of a CCD say: its crosstalk, and which pixels are defects."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tololo.facility.curated_crosstalk import amplifier_of
from tololo.reduction.instrument.detectors import HEIGHT, WIDTH
from tololo.reduction.isr import Crosstalk, Neighbour, Share


def crosstalk_of(content: Mapping[str, Any] | None) -> Crosstalk:
    """Return the crosstalk of a dataset ``crosstalk``; none if there is none.

    Parameters
    ----------
    content : mapping, optional
        ``detector`` and ``couplings``, each with ``victim``, ``source``, ``linear``, ``onset``,
        ``polynomial`` as in `~tololo.facility.curated_crosstalk.Coupling`.
    """
    if content is None:
        return Crosstalk()
    own: dict[str, Share] = {}
    neighbours: list[Neighbour] = []
    for row in content["couplings"]:
        victim, (detector, source) = amplifier_of(row["victim"])[1], amplifier_of(row["source"])
        onset = math.inf if row["onset"] is None else float(row["onset"])
        terms = (*map(float, row["polynomial"]), 0.0, 0.0, 0.0)
        share = Share(float(row["linear"]), onset, terms[0], terms[1], terms[2])
        if share.linear == 0.0:
            continue
        if detector == content["detector"]:
            own[victim] = share
        else:
            neighbours.append(Neighbour(victim, detector, source, share))
    return Crosstalk(own.get("A", 0.0), own.get("B", 0.0), tuple(neighbours))


def defects_of(
    content: Mapping[str, Any] | None, shape: tuple[int, int] = (HEIGHT, WIDTH)
) -> NDArray[np.bool_]:
    """Return where a dataset ``defects`` has its rectangles on a CCD of (ny, nx) pixels; nowhere without."""
    bad = np.zeros(shape, np.bool_)
    for box in content["boxes"] if content is not None else ():
        bad[box["y0"] : box["y0"] + box["height"], box["x0"] : box["x0"] + box["width"]] = True
    return bad


def reasons_of(content: Mapping[str, Any]) -> str:
    """Return why pixels are defects, each reason once."""
    return "; ".join(dict.fromkeys(str(box["reason"]) for box in content["boxes"]))

"""What a run of a night would do with its raws, before anything is ingested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tololo.facility.waiting import numbered

if TYPE_CHECKING:
    from tololo.reduction.formats.raw_exposure import RawExposure


@dataclass(frozen=True)
class NightPlan:
    """What would be done.

    Attributes
    ----------
    exposures : `dict` [`str`, `int`]
        Number of exposures by type and filter: ``dome flat r``.
    quanta : `dict` [`str`, `int`]
        By task, as many as the raws call for.
    missing : `list` [`str`]
        Calibrations that the night itself cannot give, and detectors that an exposure lacks.
    """

    exposures: dict[str, int]
    quanta: dict[str, int]
    missing: list[str]

    def lines(self) -> list[str]:
        """Say it for people."""
        said = [", ".join(f"{number} {kind}" for kind, number in self.exposures.items()) or "no exposures"]
        said += [f"would run {task}: {number} quanta" for task, number in self.quanta.items()]
        return said + [f"missing: {what}" for what in self.missing]

    def summary(self) -> dict[str, Any]:
        """Return it for the XCom."""
        return {"by_type": self.exposures, "would_run": self.quanta, "missing": self.missing}


def plan_night(
    exposures: Iterable[RawExposure],
    proc_types: Collection[str],
    detectors: Collection[int] = (),
    filters: Collection[str] = (),
) -> NightPlan:
    """Say what the raws of a night call for.

    Parameters
    ----------
    exposures : iterable of `~tololo.reduction.formats.raw_exposure.RawExposure`
    proc_types : collection of `str`
        Among ``bias``, ``flat`` and ``drp``.
    detectors : collection of `int`, optional
        Those to work on; all if empty.
    filters : collection of `str`, optional
        Bands or physical filters to work on; all if empty.

    Returns
    -------
    plan : `NightPlan`
        A data query that narrows the run down further is not in it.
    """
    from tololo.reduction.formats.raw_exposure import KINDS
    from tololo.reduction.instrument.filters import band_of

    seen: dict[str, dict[str, list[set[int]]]] = {kind: {} for kind in KINDS.values()}
    counts: Counter[str] = Counter()
    for exposure in exposures:
        band = "" if exposure.observation_type == "zero" else band_of(exposure.physical_filter)
        counts[f"{exposure.observation_type} {band}".strip()] += 1
        kind = KINDS.get(exposure.observation_type, "")
        if not kind or (kind != "bias" and filters and not {band, exposure.physical_filter} & set(filters)):
            continue
        ccds = set(exposure.detectors) & set(detectors) if detectors else set(exposure.detectors)
        seen[kind].setdefault(band, []).append(ccds)
    biases = set().union(*seen["bias"].get("", []))
    flats = {band: set().union(*ccds) for band, ccds in seen["flat"].items()}
    science = [ccds for of_band in seen["drp"].values() for ccds in of_band]
    quanta: dict[str, int] = {}
    if "bias" in proc_types:
        quanta["combineBias"] = len(biases)
    if "flat" in proc_types:
        quanta["measureFlat"] = quanta["combineFlat"] = sum(map(len, flats.values()))
        quanta["normalizeFlat"] = len(flats)
    missing: list[str] = []
    if "drp" in proc_types:
        quanta["calibrateVisit"] = sum(map(len, science))
        quanta["summarizeVisit"] = len(science)
        needed = set().union(*science)
        if lacking := needed - biases:
            missing.append(f"biases of {numbered('detector', lacking)}")
        for band, of_band in sorted(seen["drp"].items()):
            if lacking := set().union(*of_band) - flats.get(band, set()):
                missing.append(f"flats in {band} of {numbered('detector', lacking)}")
        if any(ccds != needed for ccds in science):
            short = sum(ccds != needed for ccds in science)
            missing.append(f"detectors in {short} of {len(science)} science exposures")
    return NightPlan(dict(sorted(counts.items())), {task: n for task, n in quanta.items() if n}, missing)

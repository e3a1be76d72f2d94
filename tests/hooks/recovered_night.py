"""A night with injected sources in a repository: its tables are made up, so that what is true is known."""

from __future__ import annotations

from pathlib import Path

from lsst.daf.butler import Butler

from conftest import DETECTOR
from reduction.recovered import Sky, detector
from tololo.facility import collections
from tololo.hooks.chains import write_chain
from tololo.hooks.dataset_types import register_dataset_type

CATALOGUE = "injection/ring"


def chain_of(night: int) -> str:
    return collections.chain("diff_instcal_injected", night, "2019", "meanclip")


def plant(repository: Path, night: int, *visits: tuple[int, Sky]) -> str:
    """Write what the two difference runs of a night leave, and return the chain with injected sources."""
    injected = chain_of(night)
    plain = injected.removesuffix(collections.INJECTED)
    with Butler.from_config(str(repository), writeable=True) as butler:
        for kind in ("injected_source", "dia_source_unfiltered"):
            register_dataset_type(butler, kind, ("instrument", "visit", "detector"), "ArrowAstropy")
        butler.collections.register(CATALOGUE)
        runs = {
            chain: f"{chain}/difference_imaging/difference/20260101T000000Z" for chain in (injected, plain)
        }
        for chain, run in runs.items():
            butler.collections.register(run)
            write_chain(butler, chain, [run], [CATALOGUE] if chain == injected else [])
        for visit, sky in visits:
            data_id = {"instrument": "DECam", "visit": visit, "detector": DETECTOR}
            one = detector(visit, sky, DETECTOR)
            butler.put(one.truth, "injected_source", data_id, run=runs[injected])
            butler.put(one.sources, "dia_source_unfiltered", data_id, run=runs[injected])
            if one.plain is not None:
                butler.put(one.plain, "dia_source_unfiltered", data_id, run=runs[plain])
    return injected

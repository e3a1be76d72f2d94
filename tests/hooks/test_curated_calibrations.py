from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from lsst.daf.butler import Butler, CollectionType

from tololo.facility.collections import CALIBS
from tololo.facility.errors import BadInputError
from tololo.hooks.curated_calibrations import CURATED
from tololo.hooks.curation import CurationHook
from tololo.hooks.validity import parse_validity

from .curated import build_empty, content, in_process, snapshot

CROSSTALK = """versions:
- source: before
  valid: ..20190401
  coefficients:
    28A: {28B: 3.0e-4, 29B: 1.0e-5}
    28B: {28A: -2.0e-4}
    29A: {28A: 4.0e-5}
- source: after
  valid: 20190402..
  coefficients:
    28A: {28B: 5.0e-4}
"""
HEADER = "x0 y0 width height valid reason\n"


@pytest.fixture
def hook(tmp_path: Path) -> CurationHook:
    return CurationHook(build_empty(tmp_path / "repo"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    (folder / "defects").mkdir(parents=True)
    (folder / "crosstalk.yaml").write_text(CROSSTALK)
    (folder / "defects" / "31.ecsv").write_text(
        HEADER + "0 0 10 20 .. dead\n50 0 1 4096 20190401..20190410 hot\n"
    )
    return folder


def on(hook: CurationHook, kind: str, night: int, detector: int) -> Any:
    """What is valid in a night, `None` if nothing."""
    with Butler.from_config(str(hook.repository)) as butler:
        span = parse_validity(str(night))
        data_id = {"instrument": "DECam", "detector": detector}
        ref = butler.find_dataset(kind, data_id, collections=CALIBS, timespan=span)
        return None if ref is None else butler.get(ref)


def parts(hook: CurationHook, night: int, detector: int) -> dict[str, float]:
    found = on(hook, "crosstalk", night, detector)
    return {f"{row['victim']}<{row['source']}": row["linear"] for row in found["couplings"]}


def columns(hook: CurationHook, night: int) -> list[int]:
    return sorted(box["x0"] for box in on(hook, "defects", night, 31)["boxes"])


def test_each_time_has_what_the_files_say_of_it(hook: CurationHook, folder: Path) -> None:
    report = hook.register_curated(folder)
    # Three CCDs' crosstalk; defects before, while and after there is a hot column, the same before and after.
    assert (report.written, report.certified, report.known, report.removed) == (5, 6, 0, 0)
    assert parts(hook, 20190401, 28) == {"28A<28B": 3e-4, "28A<29B": 1e-5, "28B<28A": -2e-4}
    assert parts(hook, 20190402, 28) == {"28A<28B": 5e-4}
    assert parts(hook, 20190401, 29) == {"29A<28A": 4e-5}
    assert on(hook, "crosstalk", 20190402, 29) is None
    assert [columns(hook, night) for night in (20190331, 20190401, 20190410, 20190411)] == [
        [0],
        [0, 50],
        [0, 50],
        [0],
    ]
    assert on(hook, "defects", 20190401, 30) is None


def test_again_adds_nothing_and_a_change_is_a_new_version(hook: CurationHook, folder: Path) -> None:
    before = snapshot(hook.repository)
    assert hook.register_curated(folder, dry_run=True).written == 5
    assert snapshot(hook.repository) == before
    hook.register_curated(folder)
    first = content(hook.repository)
    report = hook.register_curated(folder)
    assert (report.written, report.certified, report.known, report.removed) == (0, 0, 6, 0)
    assert content(hook.repository) == first

    (folder / "crosstalk.yaml").write_text(CROSSTALK.replace("5.0e-4", "6.0e-4"))
    report = hook.register_curated(folder)
    # The whole CCD is certified anew, with what has stayed the same of it.
    assert (report.written, report.certified, report.known, report.removed) == (1, 2, 4, 2)
    assert (parts(hook, 20190402, 28), parts(hook, 20190401, 28)["28A<28B"]) == ({"28A<28B": 6e-4}, 3e-4)

    (folder / "crosstalk.yaml").write_text(CROSSTALK)
    report = hook.register_curated(folder)
    assert (report.written, report.certified, report.removed) == (0, 2, 2)
    assert parts(hook, 20190402, 28) == {"28A<28B": 5e-4}


def test_what_a_folder_does_not_speak_of_stays(hook: CurationHook, folder: Path) -> None:
    hook.register_curated(folder)
    (folder / "crosstalk.yaml").unlink()
    (folder / "defects" / "31.ecsv").write_text(HEADER)
    report = hook.register_curated(folder)
    assert (report.written, report.certified, report.removed) == (0, 0, 3)
    assert on(hook, "defects", 20190401, 31) is None
    assert parts(hook, 20190402, 28) == {"28A<28B": 5e-4}


def test_the_chain_of_a_facility_keeps_what_it_has(hook: CurationHook, folder: Path) -> None:
    with hook.session(writeable=True) as butler:
        butler.collections.register("external/calib", CollectionType.CALIBRATION)
        butler.collections.register(CALIBS, CollectionType.CHAINED)
        butler.collections.prepend_chain(CALIBS, "external/calib")
    for _ in range(2):
        hook.register_curated(folder)
        with hook.session() as butler:
            assert butler.collections.get_info(CALIBS).children == (CURATED, "external/calib")


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("crosstalk.yaml", CROSSTALK.replace("..20190401", "..20190402"), r"hold at the same time.*line 8"),
        ("crosstalk.yaml", CROSSTALK.replace("20190402..", "next year"), r"next year.*line 8"),
        ("defects/31.ecsv", HEADER + "0 0 1 1 20190401..20180401 hot\n", r"31\.ecsv, line 2, column valid"),
        ("defects/31.ecsv", HEADER + "0 0 1 1 .. hot\n0 0 0 1 .. hot\n", r"31\.ecsv, line 3, column width"),
    ],
)
def test_a_mistake_changes_nothing(hook: CurationHook, folder: Path, file: str, text: str, says: str) -> None:
    hook.register_curated(folder)
    before = snapshot(hook.repository)
    (folder / file).write_text(text)
    with pytest.raises(BadInputError, match=says):
        hook.register_curated(folder)
    assert snapshot(hook.repository) == before
    with pytest.raises(BadInputError, match="no curated calibrations"):
        hook.register_curated(folder / "nowhere")


@pytest.mark.parametrize("place", ["put", "certify"])
def test_killed_and_run_again(hook: CurationHook, folder: Path, place: str) -> None:
    hook.register_curated(folder)
    changed = CROSSTALK.replace("3.0e-4", "7.0e-4").replace("4.0e-5", "8.0e-5")
    (folder / "crosstalk.yaml").write_text(changed)

    def work() -> None:
        calls = 0

        def die_at_the_second(real: Any) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == 2:
                    os._exit(9)
                return real(*args, **kwargs)

            return call

        with hook.session(writeable=True) as butler:
            owner: Any = butler if place == "put" else butler.registry
            setattr(type(owner), place, die_at_the_second(getattr(type(owner), place)))
        hook.register_curated(folder)

    process = in_process(work)
    process.join(120)
    assert process.exitcode == 9
    assert parts(hook, 20190401, 28)["28A<28B"] == 3e-4
    report = hook.register_curated(folder)
    assert report.written == 2
    assert parts(hook, 20190401, 28)["28A<28B"] == 7e-4
    assert parts(hook, 20190401, 29) == {"29A<28A": 8e-5}

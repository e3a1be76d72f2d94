from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from tololo.facility import collections
from tololo.facility.errors import BadInputError


def test_chains_are_named_as_proc_decam_names_them() -> None:
    assert collections.chain("bias", 20190401) == "20190401/bias"
    assert collections.chain("coadd", coadd_subset=2019, template_type="meanclip") == "2019/meanclip/coadd"
    assert collections.chain("diff_drp", "20190401", "2019", "meanclip") == "20190401/2019/meanclip/diff_drp"
    assert collections.calib(20190401, "bias") == "20190401/calib/bias"
    assert collections.raws("20180211/instcal") == "20180211/instcal/raw"
    assert collections.injected("20190401/drp") == "20190401/drp_injected"
    assert collections.injected("20190401/drp_injected") == "20190401/drp_injected"
    assert collections.coadd_inputs(2019, "min") == "2019/min/coadd/inputs"
    assert collections.template_version("2019", "meanclip", 3) == "2019/meanclip/coadd/v3"
    assert collections.apdb("2019", "meanclip") == "2019_meanclip"


def test_run_carries_true_utc() -> None:
    local = datetime(2026, 3, 1, 20, 15, 30, tzinfo=timezone(timedelta(hours=-3)))
    name = collections.run("20180211/instcal", "nightly_decam", "instcal", local)
    assert name == "20180211/instcal/nightly_decam/instcal/20260301T231530Z"
    assert collections.run_time(name) == datetime(2026, 3, 1, 23, 15, 30, tzinfo=UTC)
    with pytest.raises(ValueError, match="time zone"):
        collections.run("a", "b", "c", datetime(2026, 3, 1))


@pytest.mark.parametrize("part", ["", "a/b", "20*", "a b", "[12]", "a.b", "..", "é", "a\n"])
def test_bad_part_is_named(part: str) -> None:
    for make in (
        lambda: collections.chain(part),
        lambda: collections.run("a", part, "s", datetime.now(UTC)),
        lambda: collections.calib(20190401, part),
    ):
        with pytest.raises(BadInputError) as caught:
            make()
        assert repr(part) in str(caught.value) or "empty" in str(caught.value)
    if part and "/" not in part:
        with pytest.raises(BadInputError, match="coadd_subset"):
            collections.chain("coadd", coadd_subset=part)
    with pytest.raises(BadInputError):
        collections.check_name(f"a/{part}/" if part else "a//b")


def test_runs_are_sorted_newest_first_then_undated_by_name() -> None:
    runs = ["c/p/_/20200101T000000Z", "c/b", "c/p/_/20210101T000000Z", "c/a", "c/z/_/20200601T000000Z"]
    assert collections.newest_first(runs) == [runs[2], runs[4], runs[0], "c/a", "c/b"]
    assert collections.run_time("c/p/_/20209901T000000Z") is None


def test_versions_of_a_template() -> None:
    coadd = collections.coadd("2019", "meanclip")
    assert collections.version_of(f"{coadd}/v12/template_coadds/coadd/20260101T000000Z", coadd) == 12
    assert collections.version_of(f"{coadd}/v0/x", coadd) is None
    assert collections.version_of("elsewhere/v1", coadd) is None
    with pytest.raises(BadInputError, match="0"):
        collections.template_version("2019", "meanclip", 0)


def test_search_order_of_inputs() -> None:
    assert collections.chain_inputs("instcal", 20180211) == ["refcats", "skymaps", "20180211/instcal/raw"]
    assert collections.chain_inputs("diff_instcal", 20180211, "2018", "mean") == [
        "2018/mean/coadd",
        "20180211/instcal",
    ]
    assert collections.chain_inputs("diff_drp_injected", 20180211, "2018", "mean") == [
        "2018/mean/coadd",
        "20180211/drp_injected",
    ]
    assert collections.chain_inputs("drp", 20190401)[-1] == "20190401/drp/raw"
    assert collections.chain_inputs("coadd", "", "2018", "mean") == [
        "2018/mean/coadd/inputs",
        "skymaps",
        "refcats",
    ]
    with pytest.raises(BadInputError, match="nonsense"):
        collections.chain_inputs("nonsense", 20190401)


def test_injected_sources_have_names_of_their_own() -> None:
    assert collections.injection("ring") == "injection/ring"
    inputs = collections.chain_inputs("drp_injected", 20190401, catalogue="ring")
    assert inputs == ["injection/ring", *collections.chain_inputs("drp", 20190401)]
    assert (
        collections.chain_inputs("instcal_injected", 20190401, catalogue="ring")[-1] == "20190401/instcal/raw"
    )
    chain = collections.chain("diff_drp_injected", 20190401, 2019, "meanclip")
    assert chain == "20190401/2019/meanclip/diff_drp_injected"
    assert collections.injected("20190401/2019/meanclip/diff_drp") == chain
    assert collections.is_injected(f"{chain}/difference_imaging/difference/20260101T000000Z")
    assert not collections.is_injected("20190401/2019/meanclip/diff_drp")
    assert not collections.is_injected("injection/ring")
    with pytest.raises(BadInputError, match="injection catalogue"):
        collections.injection("ring/a")


@pytest.mark.parametrize(
    ("proc_type", "catalogue", "reason"),
    [
        ("drp_injected", "", "needs a catalogue"),
        ("drp", "ring", "no sources of 'ring'"),
        ("bias_injected", "ring", "'bias_injected' is not known"),
        ("coadd_injected", "ring", "'coadd_injected' is not known"),
    ],
)
def test_only_visits_have_injected_sources(proc_type: str, catalogue: str, reason: str) -> None:
    with pytest.raises(BadInputError, match=reason):
        collections.chain_inputs(proc_type, 20190401, "2019", "meanclip", catalogue)


def test_injected_sources_never_share_an_apdb() -> None:
    assert collections.apdb("2019", "meanclip", injected=True) == "2019_meanclip_injected"
    assert collections.apdb("2019", "meanclip", name="trial") == "trial"
    assert collections.apdb("2019", "meanclip", injected=True, name="trial_injected") == "trial_injected"
    for name, injected in (("trial", True), ("trial_injected", False)):
        with pytest.raises(BadInputError, match=f"'{name}'"):
            collections.apdb("2019", "meanclip", injected=injected, name=name)

from __future__ import annotations

import os
import shutil
import signal
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from astropy.table import Table
from lsst.daf.butler.direct_butler import DirectButler

from tololo.facility import collections
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.hooks.injection import InjectionHook, visits_of

from .curated import build_empty


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_empty(tmp_path_factory.mktemp("empty") / "repository")


@pytest.fixture
def hook(empty: Path, tmp_path: Path) -> InjectionHook:
    return InjectionHook(shutil.copytree(empty, tmp_path / "repository"))


def catalogue(folder: Path, name: str = "ring.csv", mag: float = 20.0) -> Path:
    path = folder / name
    path.write_text(
        "RA,DEC,MAG,BAND,EXPNUM\n" + "".join(f"{150 + i},2,{mag},{'rY'[i % 2]},{i}\n" for i in range(10))
    )
    return path


def test_a_catalogue_is_ingested_once(hook: InjectionHook, tmp_path: Path) -> None:
    report = hook.ingest(catalogue(tmp_path))
    assert (report.collection, report.sources, report.bands, report.new) == (
        "injection/ring",
        10,
        ("r", "y"),
        True,
    )
    with hook.open() as butler:
        refs = butler.query_datasets("injection_catalog", "injection/ring")
        assert refs[0].datasetType.storageClass_name == "ArrowAstropy"
        assert set(refs[0].datasetType.dimensions.required) == {"htm7", "band"}
        shards = [(ref.dataId["band"], butler.get(ref)) for ref in refs]
    assert len(shards) == report.shards
    assert sorted(i for _, shard in shards for i in shard["injection_id"].tolist()) == list(range(1, 11))
    assert all(set(shard["band"]) == {band} for band, shard in shards)
    files = sorted((tmp_path / "repository").rglob("*.parq"))
    again = hook.ingest(catalogue(tmp_path, "copy.csv"), "ring")
    assert (again.new, again.shards) == (False, report.shards)
    assert sorted((tmp_path / "repository").rglob("*.parq")) == files
    assert hook.find("ring") == again


def test_a_name_means_one_catalogue_for_ever(hook: InjectionHook, tmp_path: Path) -> None:
    hook.ingest(catalogue(tmp_path))
    with pytest.raises(BadInputError, match=r"'ring' belongs to .* 10 other sources.*another name"):
        hook.ingest(catalogue(tmp_path, mag=21.0))
    assert hook.ingest(catalogue(tmp_path, "ring-21.csv", mag=21.0)).collection == "injection/ring-21"


def test_a_catalogue_that_is_not_there_is_told_with_those_that_are(
    hook: InjectionHook, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match=r"no injection catalogue 'ring'.*has none"):
        hook.find("ring")
    hook.ingest(catalogue(tmp_path, "arc.csv"))
    with pytest.raises(BadInputError, match="which has arc"):
        hook.find("ring")


def test_a_bad_name_or_a_foreign_collection_is_refused(hook: InjectionHook, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="my ring"):
        hook.ingest(catalogue(tmp_path, "my ring.csv"))
    with hook.open(writeable=True) as butler:
        butler.collections.register("injection/ring")
    with pytest.raises(BadInputError, match="not one of an injection catalogue"):
        hook.ingest(catalogue(tmp_path))


def test_a_dry_run_checks_and_writes_nothing(hook: InjectionHook, tmp_path: Path) -> None:
    assert hook.ingest(catalogue(tmp_path), dry_run=True).sources == 10
    assert hook.collections("injection/*") == []
    with pytest.raises(BadInputError, match="MAG"):
        hook.ingest(catalogue(tmp_path, "bad.csv", mag=99.0), dry_run=True)


def die_at_put(after: int) -> None:
    """Let this process be killed when it writes its next dataset but `after`."""
    original, numbers = DirectButler.put, count()

    def put(*args: Any, **kwargs: Any) -> Any:
        if next(numbers) == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    DirectButler.put = put


@pytest.mark.parametrize("after", [0, 3])
def test_a_killed_ingest_is_completed(hook: InjectionHook, tmp_path: Path, after: int) -> None:
    path = catalogue(tmp_path)
    pid = os.fork()
    if pid == 0:
        try:
            die_at_put(after)
            hook.ingest(path)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    with pytest.raises(BadInputError, match="no injection catalogue"):
        hook.find("ring")
    assert hook.ingest(path).new
    with hook.open() as butler:
        tables = [butler.get(ref) for ref in butler.query_datasets("injection_catalog", "injection/ring")]
    assert sum(map(len, tables)) == 10
    assert isinstance(tables[0], Table)


def test_a_chain_holds_the_sources_of_one_catalogue(hook: InjectionHook, tmp_path: Path) -> None:
    chain, run = collections.injected("20190401/drp"), "20190401/drp_injected/p/inject/20260101T000000Z"
    difference = "20190401/2019/min/diff_drp_injected/p/difference/20260101T000000Z"
    for name in ("ring.csv", "arc.csv"):
        hook.ingest(catalogue(tmp_path, name))
    hook.claim(chain, "ring", dry_run=True)
    assert chain not in hook.collections()
    hook.claim(chain, "ring")
    with hook.open(writeable=True) as butler:
        for name in (run, collections.REFCATS, collections.SKYMAPS):
            butler.collections.register(name)
    hook.write_chain(chain, inputs=["injection/ring", collections.SKYMAPS])
    for dry_run in (True, False):
        with pytest.raises(BadInputError, match="holds images with the sources of injection/ring"):
            hook.claim(chain, "arc", dry_run=dry_run)
    hook.claim(chain, "ring")
    with hook.open(writeable=True) as butler:
        assert butler.collections.get_info(chain).children == (run, "injection/ring", collections.SKYMAPS)
        butler.collections.redefine_chain(chain, ["injection/ring"])
        butler.removeRuns([run])
        butler.collections.register(difference)
    with pytest.raises(BadInputError, match="1 RUNs such as 20190401/2019/min/diff_drp_injected/"):
        hook.claim(chain, "arc")
    with hook.open(writeable=True) as butler:
        butler.removeRuns([difference])
    hook.claim(chain, "arc")
    with hook.open() as butler:
        assert butler.collections.get_info(chain).children == ("injection/arc",)


def test_a_chain_of_difference_images_belongs_to_one_catalogue(hook: InjectionHook, tmp_path: Path) -> None:
    chain = "20190401/2019/min/diff_drp_injected"
    for name in ("ring.csv", "arc.csv"):
        hook.ingest(catalogue(tmp_path, name))
    hook.claim(chain, "ring")
    # Nothing has been made with it yet.
    hook.claim(chain, "arc")
    with hook.open(writeable=True) as butler:
        assert butler.collections.get_info(chain).children == ("injection/arc",)
        butler.collections.register(f"{chain}/injection/difference/20260101T000000Z")
    with pytest.raises(BadInputError, match="holds images with the sources of injection/arc"):
        hook.claim(chain, "ring")
    # The visits of the night are another matter.
    hook.claim("20190401/drp_injected", "ring")


@pytest.mark.parametrize(
    "chain",
    ["20190401/drp_injected", "20190401/2019/meanclip/diff_drp_injected", "20190401/diff_drp_injected"],
)
def test_each_chain_knows_its_visits(chain: str) -> None:
    assert visits_of(chain) == "20190401/drp"


def test_sources_go_into_the_visits_on_the_way(hook: InjectionHook, tmp_path: Path) -> None:
    report = hook.ingest(catalogue(tmp_path))
    chain = "20190401/2019/min/diff_drp_injected"
    assert hook.route(chain, report) == ("injection.yaml", "injection/ring,20190401/drp")
    # A chain of injected visits without any visit in it is no better.
    hook.claim("20190401/drp_injected", "ring")
    assert hook.route(chain, report)[0] == "injection.yaml"


def test_a_name_is_free_again_where_nothing_was_written(hook: InjectionHook, tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            die_at_put(0)
            hook.ingest(catalogue(tmp_path))
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert hook.ingest(catalogue(tmp_path, mag=21.0)).new
    assert hook.ingest(catalogue(tmp_path, mag=21.0)).new is False


def test_a_night_without_visits_gets_no_catalogue(hook: InjectionHook) -> None:
    for chain in ("20190401/drp_injected", "20190401/2019/min/diff_drp_injected"):
        with pytest.raises(NothingToDoError, match=r"Night 20190401 has no visits .* 20190401/drp"):
            hook.automatic(chain)
    assert hook.collections("injection/*") == []

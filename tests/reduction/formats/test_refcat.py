from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from lsst.daf.butler import Butler

from real_data import FIELD, INSTCAL, REAL, needs
from tololo.facility.errors import BadInputError
from tololo.reduction.formats.refcat import htm_index, ingest_refcat, read_refcat, shards

GAIA = FIELD / "gaia"
COSMOS = REAL / "refcats_cosmos"


def stars(number: int = 500, seed: int = 1) -> Table:
    rng = np.random.default_rng(seed)
    table = Table(
        {
            "source_id": np.arange(number) + 1000,
            "ra": (rng.uniform(-2, 2, number)) % 360,
            "dec": rng.uniform(-2, 2, number),
            "ra_error": rng.uniform(0.1, 1, number),
            "pmra": rng.uniform(-50, 50, number),
            "pmdec": rng.uniform(-50, 50, number),
            "parallax": rng.uniform(0, 5, number),
            "ref_epoch": np.full(number, 2015.5),
        }
    )
    for band in ("g", "bp", "rp"):
        table[f"phot_{band}_mean_mag"] = rng.uniform(14, 20, number).astype("f4")
        table[f"phot_{band}_mean_flux_over_error"] = rng.uniform(20, 200, number).astype("f4")
    table["phot_bp_mean_mag"][3] = 0.0
    table["pmra"][4] = np.nan
    return table


@pytest.fixture
def butler(tmp_path: Path) -> Butler:
    Butler.makeRepo(str(tmp_path / "repo"))
    return Butler.from_config(str(tmp_path / "repo"), writeable=True)


@pytest.mark.parametrize("name", ["stars.fits", "stars.ecsv", "stars.parquet"])
def test_gaia_columns_in_every_format(tmp_path: Path, name: str) -> None:
    given = stars()
    if name.endswith("parquet"):
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({c: np.asarray(given[c]) for c in given.colnames}), tmp_path / name)
    else:
        given.write(tmp_path / name)
    read = read_refcat(tmp_path / name)
    np.testing.assert_array_equal(read["id"], given["source_id"])
    np.testing.assert_allclose(np.degrees(read["coord_ra"]), given["ra"], rtol=1e-14)
    moving = np.arange(len(given)) != 4
    motion = np.radians(given["pmdec"] / 3.6e6)
    np.testing.assert_allclose(read["pm_dec"][moving], motion[moving], rtol=1e-12)
    np.testing.assert_allclose(
        31.4 - 2.5 * np.log10(read["phot_g_mean_flux"]), given["phot_g_mean_mag"], atol=1e-6
    )
    np.testing.assert_allclose(
        read["phot_rp_mean_flux"] / read["phot_rp_mean_fluxErr"],
        given["phot_rp_mean_flux_over_error"],
        rtol=1e-6,
    )
    assert np.isnan(read["phot_bp_mean_flux"][3])
    assert (read["pm_ra"][4], read["pm_dec"][4]) == (0, 0)
    assert read["epoch"][0] == pytest.approx(57205.8744, abs=1e-3)  # J2015.5 in MJD


def test_shards_hold_each_star_once() -> None:
    table = Table({"coord_ra": np.radians(stars()["ra"]), "coord_dec": np.radians(stars()["dec"])})
    table["id"] = np.arange(len(table))
    divided = shards(table)
    assert sorted(np.concatenate([shard["id"] for shard in divided.values()])) == list(range(len(table)))
    for trixel, shard in divided.items():
        assert (htm_index(np.degrees(shard["coord_ra"]), np.degrees(shard["coord_dec"])) == trixel).all()


def test_ingest_again_adds_nothing_and_more_stars_supplement(tmp_path: Path, butler: Butler) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    given = stars()
    given[:300].write(folder / "a.fits")
    given[250:400].write(folder / "b.ecsv")  # overlaps a
    report = ingest_refcat(butler, folder)
    assert (report.stars, report.run, report.unchanged) == (400, "refcats/gaia_dr2", ())
    again = ingest_refcat(butler, folder)
    assert (again.written, len(again.unchanged), again.run) == ((), len(report.written), "")

    given.write(folder / "c.fits")
    more = ingest_refcat(butler, folder / "c.fits")
    assert more.run == "refcats/gaia_dr2/v2"
    assert butler.collections.get_info("refcats").children == ("refcats/gaia_dr2/v2", "refcats/gaia_dr2")
    refs = butler.query_datasets("gaia_dr2", "refcats", find_first=True)
    ids = np.concatenate([butler.get(ref)["id"] for ref in refs])
    assert sorted(ids) == sorted(given["source_id"])
    assert ingest_refcat(butler, folder).written == ()


def test_killed_ingest_is_completed(tmp_path: Path, butler: Butler, monkeypatch: pytest.MonkeyPatch) -> None:
    stars().write(tmp_path / "stars.fits")
    put, done = butler.put, []

    def killed(*args: object, **kwargs: object) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(put(*args, **kwargs))

    with monkeypatch.context() as patched:
        patched.setattr(butler, "put", killed)
        with pytest.raises(KeyboardInterrupt):
            ingest_refcat(butler, tmp_path / "stars.fits")
    report = ingest_refcat(butler, tmp_path / "stars.fits")
    assert (len(report.unchanged), report.run) == (2, "refcats/gaia_dr2")
    refs = butler.query_datasets("gaia_dr2", "refcats")
    assert sum(len(butler.get(ref)) for ref in refs) == 500


def test_nonsense_is_refused_in_one_message(tmp_path: Path, butler: Butler) -> None:
    def refused(path: Path, match: str) -> None:
        with pytest.raises(BadInputError, match=match) as caught:
            ingest_refcat(butler, path)
        assert str(path) in str(caught.value)
        assert not list(butler.registry.queryDatasetTypes("gaia_dr2"))

    refused(tmp_path / "absent", "does not exist")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no reference catalogue")
    stars()[:0].write(tmp_path / "none.fits")
    refused(tmp_path / "none.fits", "no star")
    Table({"x": [1.0], "y": [2.0]}).write(tmp_path / "other.ecsv")
    refused(tmp_path / "other.ecsv", "known form")
    wrong = stars(5)
    wrong["dec"][2] = 95.0
    wrong.write(tmp_path / "wrong.ecsv")
    refused(tmp_path / "wrong.ecsv", "row 2")
    (tmp_path / "junk.fits").write_bytes(b"SIMPLE  = nonsense" * 300)
    refused(tmp_path / "junk.fits", "cannot be read|no table")
    stars().write(tmp_path / "whole.fits")
    (tmp_path / "cut.fits").write_bytes((tmp_path / "whole.fits").read_bytes()[:20000])
    refused(tmp_path / "cut.fits", "cannot be read")
    (tmp_path / "junk.parquet").write_bytes(b"PAR1")
    refused(tmp_path / "junk.parquet", "cannot be read")


@needs(GAIA)
def test_real_gaia_rows() -> None:
    assert len(read_refcat(GAIA)) == 149


@needs(COSMOS)
def test_real_lsst_shards_in_the_same_convention(butler: Butler) -> None:
    cosmos = read_refcat(COSMOS / "gaia_dr2")
    assert len(cosmos) == 41326
    # the file names are the trixels
    names = {int(path.name.split("_")[3]) for path in (COSMOS / "gaia_dr2").glob("gaia_dr2_20200414_*.fits")}
    assert set(shards(cosmos)) == names

    # Gaia's own magnitudes and LSST's shards put stars on one and the same locus
    def locus(table: Table) -> float:
        assert not any((table[f"phot_{band}_mean_flux"] <= 0).any() for band in ("g", "bp", "rp"))
        g, bp, rp = (31.4 - 2.5 * np.log10(table[f"phot_{band}_mean_flux"]) for band in ("g", "bp", "rp"))
        near = (g < 18) & (bp - rp > 0.8) & (bp - rp < 1.2)
        return float(np.median((g - rp - 0.5 * (bp - rp))[near]))

    folders = [path for path in INSTCAL.glob("*/gaia") if any(path.iterdir())]
    own = np.mean([locus(read_refcat(folder)) for folder in folders])
    assert locus(cosmos) == pytest.approx(own, abs=0.02)

    report = ingest_refcat(butler, COSMOS / "ps1", "ps1")
    assert (report.stars, len(report.written)) == (118195, 6)
    shard = butler.get("ps1", htm7=231871, collections="refcats")
    assert 55000 < shard["epoch"][0] < 57500

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table, vstack
from lsst.sphgeom import ConvexPolygon, LonLat, UnitVector3d
from scipy.spatial import cKDTree

from tololo.reduction.injection_auto import CLOSEST, MARGIN, SOURCES, WIDEST, Footprint, auto_catalogue
from tololo.reduction.injection_catalog import SHARD_COLUMNS, content_hash

NIGHT = 20190401


def box(ra: float, dec: float, width: float = 0.15, height: float = 0.075) -> ConvexPolygon:
    """A CCD of DECam on the sky, half its sides in degrees."""
    wide = width / np.cos(np.radians(dec))
    corners = [(ra - wide, dec - height), (ra + wide, dec - height), (ra + wide, dec + height)]
    corners.append((ra - wide, dec + height))
    return ConvexPolygon([UnitVector3d(LonLat.fromDegrees(*corner)) for corner in corners])


def ccd(
    ra: float = 150.0, dec: float = 2.0, band: str = "r", depth: float = 23.5, visit: int = 1
) -> Footprint:
    return Footprint(visit, 28, band, box(ra, dec), depth)


def make(*footprints: Footprint, night: int = NIGHT, stars: Table | None = None) -> Table:
    return auto_catalogue(night, footprints, lambda item: stars)


def separations(sources: Table) -> np.ndarray:
    """Distance of each source from its nearest neighbour, arcsec."""
    xy = np.column_stack(
        [np.asarray(sources["ra"]) * np.cos(np.radians(np.mean(sources["dec"]))), sources["dec"]]
    )
    return cKDTree(xy).query(xy, k=2)[0][:, 1] * 3600


def test_the_same_night_gives_the_same_sources() -> None:
    first = make(ccd())
    assert content_hash(first) == content_hash(make(ccd()))
    assert tuple(first.colnames) == SHARD_COLUMNS
    other = make(ccd(), night=NIGHT + 1)
    assert not np.isin(np.asarray(first["ra"]), np.asarray(other["ra"])).any()


def test_sources_lie_on_the_footprint_and_never_close_together() -> None:
    sources = make(ccd())
    inside = box(150.0, 2.0).contains(np.radians(sources["ra"]), np.radians(sources["dec"]))
    assert inside.all()
    assert len(set(sources["injection_id"].tolist())) == len(sources) > 500
    assert separations(sources).min() >= 2 * MARGIN * CLOSEST


def test_more_sky_gets_sources_further_apart() -> None:
    wide = make(
        *(ccd(150 + 0.3 * i, 2.0, visit=i) for i in range(3)), *(ccd(150, 4 + 0.2 * i) for i in range(3))
    )
    assert len(wide) == pytest.approx(SOURCES, rel=0.2)
    assert separations(wide).min() > separations(make(ccd())).min()
    assert make(ccd(band="g"))["band"].tolist()[0] == "g"


def test_each_band_has_magnitudes_of_its_own_around_its_depth() -> None:
    sources = make(ccd(depth=23.5), ccd(band="g", depth=24.5))
    r, g = (sources[np.asarray(sources["band"]) == band] for band in "rg")
    assert r["injection_id"].tolist() == g["injection_id"].tolist()
    for rows, depth in ((r, 23.5), (g, 24.5)):
        relative = np.asarray(rows["mag"]) - depth
        assert relative.min() >= -5
        assert relative.max() <= 1
        assert 0.6 < np.mean(relative > -2) < 0.8
    assert abs(np.corrcoef(r["mag"], g["mag"])[0, 1]) < 0.15


def test_a_footprint_across_ra_0_and_one_near_the_pole() -> None:
    across = make(ccd(ra=0.0))
    assert (np.asarray(across["ra"]) > 359).any()
    assert (np.asarray(across["ra"]) < 1).any()
    number = len(make(ccd(ra=150.0)))
    assert len(across) == pytest.approx(number, rel=0.05)
    assert len(make(ccd(dec=-85.0))) == pytest.approx(number, rel=0.1)


def test_some_sources_are_upon_others() -> None:
    random = np.random.default_rng(1)
    number = 1500
    stars = Table(
        {
            "ra": random.uniform(149.85, 150.15, number),
            "dec": random.uniform(1.925, 2.075, number),
            "snr": np.full(number, 30.0),
            "flags": np.zeros(number, bool),
            "extendedness": np.zeros(number),
            "fwhm": np.full(number, 1.2),
        }
    )
    plain, hosted = make(ccd()), make(ccd(), stars=stars)
    moved = np.asarray(plain["ra"] != hosted["ra"])
    assert 0.1 < moved.mean() < 0.5
    scale = np.array([np.cos(np.radians(2.0)), 1.0])
    tree = cKDTree(np.column_stack([stars["ra"], stars["dec"]]) * scale)
    distance, _ = tree.query(np.column_stack([hosted["ra"], hosted["dec"]]) * scale)
    assert (distance[moved] * 3600 <= 3 * 0.6 + 1e-3).all()
    # A galaxy beside each star is preferred to it.
    galaxies = stars.copy()
    galaxies["extendedness"], galaxies["fwhm"] = 0.2, 0.0
    upon = make(ccd(), stars=vstack([stars, galaxies]))
    distance, _ = tree.query(np.column_stack([upon["ra"], upon["dec"]]) * scale)
    assert (distance[moved] * 3600 < 1e-3).all()
    flagged = stars.copy()
    flagged["flags"] = True
    assert content_hash(make(ccd(), stars=flagged)) == content_hash(plain)


def test_a_place_that_no_visit_covers_has_none() -> None:
    assert len(make()) == 0
    assert len(make(Footprint(1, 1, "r", box(10, 0, 0.001, 0.001), 23.0))) in (0, 1)
    assert WIDEST > CLOSEST

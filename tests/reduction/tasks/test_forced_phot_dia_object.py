"""The table of forced fluxes at diaObjects."""

from __future__ import annotations

import numpy as np
from astropy.table import Table

from reduction.chain import Simulation
from tololo.reduction.tasks.forced_phot_dia_object import ForcedPhotDiaObjectConfig, ForcedPhotDiaObjectTask


def measure(simulation: Simulation, objects: Table) -> Table:
    subtracted = simulation.differences[0]
    task = ForcedPhotDiaObjectTask(config=ForcedPhotDiaObjectConfig())
    return task.measure(subtracted.image, subtracted.science.image, objects)


def objects_at(ra, dec) -> Table:
    return Table({"diaObjectId": np.arange(len(ra), dtype=np.int64) + 7, "ra": ra, "dec": dec})


def test_objects_on_the_detector_get_a_row_each(simulation: Simulation) -> None:
    subtracted = simulation.differences[0]
    wcs = subtracted.science.calibrated.wcs
    x, y = np.array([100.0, 512.0, -50.0, 700.0]), np.array([900.0, 512.0, 300.0, 5000.0])
    ra, dec = wcs.all_pix2world(x, y, 0)
    table = measure(simulation, objects_at(ra, dec))
    assert table["diaObjectId"].tolist() == [7, 8]
    np.testing.assert_allclose(table["x"], x[:2], atol=1e-2)
    assert set(table["visit"]) == {subtracted.science.visit}
    assert set(table["band"]) == {"r"}
    expected = """diaObjectId visit detector band midpointMjdTai ra dec x y psfFlux psfFluxErr scienceFlux
        scienceFluxErr flags"""
    assert set(expected.split()) == set(table.colnames)


def test_no_objects_give_the_same_columns(simulation: Simulation) -> None:
    empty = measure(simulation, objects_at(np.empty(0), np.empty(0)))
    assert len(empty) == 0
    subtracted = simulation.differences[0]
    full = measure(
        simulation, objects_at(*subtracted.science.calibrated.wcs.all_pix2world([512.0], [512.0], 0))
    )
    assert empty.colnames == full.colnames
    assert [empty[name].dtype.kind for name in empty.colnames] == [
        full[name].dtype.kind for name in full.colnames
    ]

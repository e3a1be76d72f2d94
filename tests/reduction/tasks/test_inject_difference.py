"""Sources injected into the calibrated visits of a night on the way to their difference images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from lsst.daf.butler import Butler
from scipy import ndimage

from tololo.facility import collections
from tololo.facility.recovery import Limits
from tololo.hooks.injection import InjectionHook, InjectionReport
from tololo.hooks.recovery import RecoveryHook
from tololo.reduction import injection
from tololo.reduction.injection import Placed, Scene
from tololo.reduction.injection_pixels import add_to_visit, electron_of
from tololo.reduction.kernels.psf import PixelPsf

from .injected import run
from .injected_night import DETECTOR, NIGHT, TEMPLATE, Night

PLAIN = collections.chain("diff_instcal", NIGHT, "2019", "mean")
INJECTED = collections.injected(PLAIN)
WHERE = "skymap = 'decam_rings'"
LIMITS = Limits(depth={"r": 22.0}, bias=0.03)


def inject(night: Night, chain: str) -> InjectionReport:
    """Do what the DAG does with the param ``injected`` at ``auto``."""
    hook = InjectionHook(night.repository)
    report = hook.automatic(chain)
    hook.claim(chain, report.catalogue)
    pipeline, inputs = hook.route(chain, report)
    run(night.repository, f"{pipeline}#difference", [TEMPLATE, *inputs.split(","), "skymaps"], chain, WHERE)
    return report


@dataclass
class Both:
    """The night's difference images without and with sources."""

    night: Night
    report: InjectionReport

    def get(self, name: str, chain: str = INJECTED) -> Any:
        data_id = {"instrument": "DECam", "visit": self.night.visit, "detector": DETECTOR}
        with Butler.from_config(str(self.night.repository)) as butler:
            ref = butler.find_dataset(name, data_id, collections=chain)
            return None if ref is None else butler.get(ref)


@pytest.fixture(scope="module")
def both(night: Night) -> Both:
    inputs = [TEMPLATE, f"{NIGHT}/instcal", "skymaps"]
    run(night.repository, "difference_imaging.yaml#difference", inputs, PLAIN, WHERE)
    return Both(night, inject(night, INJECTED))


@pytest.fixture(scope="module")
def scene(both: Both) -> Scene:
    return Scene.of(both.get("visit_image", f"{NIGHT}/instcal"), both.night.visit)


def test_the_night_has_a_catalogue_of_its_own(both: Both) -> None:
    assert both.report.catalogue == f"auto_{NIGHT}"
    assert both.report.bands == ("r",)
    assert both.report.sources > 60
    again = InjectionHook(both.night.repository).automatic(INJECTED)
    assert (again.new, again.sources) == (False, both.report.sources)


def test_the_recovery_is_what_the_noise_predicts(both: Both) -> None:
    measured = RecoveryHook(both.night.repository).measure(INJECTED, LIMITS)
    found = measured.summary["bands"]["r"]
    assert measured.alarms == []
    assert found["completeness"] > 0.9
    assert found["purity"] > 0.95
    assert abs(found["bias"]) < 0.015
    # What the default limits ask for is a little more than 5 sigma.
    predicted = found["depth_noise"] - 2.5 * np.log10(5.5 / 5)
    assert found["depth"] == pytest.approx(predicted, abs=0.25)
    assert 0.7 < found["pull"] < 1.4
    again = RecoveryHook(both.night.repository).measure(INJECTED, LIMITS)
    assert (again.new, again.run) == (False, measured.run)


def test_the_plain_run_is_not_touched_and_the_other_is_marked(both: Both) -> None:
    plain, injected = both.get("difference_image", PLAIN), both.get("difference_image")
    assert "INJECTED" not in plain.mask.schema.names
    light = injected.mask.get("INJECTED")
    assert 0.02 < light.mean() < 0.98
    assert both.get("injected_source", PLAIN) is None
    truth = both.get("injected_source")
    assert len(truth) > 60
    assert (truth["snr_beneath"] > 5).any()
    core = injected.mask.get("INJECTED_CORE")
    bright = truth[(truth["snr"] > 50) & truth["inside"]]
    assert all(core[round(row["y"]), round(row["x"])] for row in bright)
    change = injected.image.array - plain.image.array
    noise = np.sqrt(np.nanmedian(plain.variance.array))
    assert np.nanmedian(np.abs(change[~light])) < 0.1 * noise


def wider(image: Any, visit: int) -> Scene:
    """A scene whose PSF is a fifth wider than that of the image."""
    scene = REAL_OF(image, visit)
    sigma = np.sqrt(1.2**2 - 1) * scene.psf.fwhm(400, 400) / 2.355
    terms = np.array([ndimage.gaussian_filter(term, sigma) for term in scene.psf.coefficients])
    return replace(scene, psf=PixelPsf(terms, scene.psf.order, scene.psf.center, scene.psf.scale))


def dimmer(scene: Scene, sources: Table) -> Placed:
    """Sources that have 5 % less light than the truth says."""
    placed = REAL_PLACE(scene, sources)
    return replace(placed, stamps=[replace(stamp, light=0.95 * stamp.light) for stamp in placed.stamps])


REAL_OF, REAL_PLACE = injection.Scene.of, injection.Scene.place


@pytest.mark.parametrize(
    ("subset", "name", "wrong", "bias"),
    [("psf", "of", staticmethod(wider), (-0.25, -0.08)), ("flux", "place", dimmer, (-0.07, -0.035))],
)
def test_a_sample_that_is_wrong_raises_the_alarm(
    both: Both,
    monkeypatch: pytest.MonkeyPatch,
    subset: str,
    name: str,
    wrong: Callable[..., Any],
    bias: tuple[float, float],
) -> None:
    chain = collections.chain("diff_instcal_injected", NIGHT, subset, "mean")
    monkeypatch.setattr(injection.Scene, name, wrong)
    inject(both.night, chain)
    measured = RecoveryHook(both.night.repository).measure(chain, LIMITS)
    low, high = bias
    assert low < measured.summary["bands"]["r"]["bias"] < high
    assert any("fluxes are -" in alarm for alarm in measured.alarms)


def test_light_and_noise_are_added_to_the_visit(scene: Scene) -> None:
    y, x = np.mgrid[100:700:100, 100:700:100]
    projection = scene.image.sky_projection
    sky = projection.pixel_to_sky(x=x.ravel().astype(float), y=y.ravel().astype(float))
    number = x.size
    table = injection.no_sources()
    sources = Table({name: np.full(number, np.nan) for name in table.colnames})
    sources["injection_id"], sources["visit"] = np.arange(1, number + 1), np.zeros(number, np.int64)
    sources["ra"], sources["dec"], sources["mag"] = sky.ra.deg, sky.dec.deg, np.full(number, 19.0)
    sources["band"], sources["source_type"] = np.full(number, "r"), np.full(number, "DeltaFunction")
    placed = scene.place(sources)
    image, added = add_to_visit(scene, placed)
    assert len(placed) == number
    true = np.asarray(placed.table["flux"])
    assert added.flux.mean() == pytest.approx(true.mean(), rel=0.01)
    change = image.image.array - scene.image.image.array
    assert change.sum() == pytest.approx(added.flux.sum(), rel=1e-3)
    # As many photons as the noise says: their scatter is that of a Poisson process.
    electron = electron_of(scene)
    expected = np.sqrt(true.mean() * electron)
    assert np.std(added.flux) == pytest.approx(expected, rel=0.4)
    more = image.variance.array - scene.image.variance.array
    assert np.nansum(more) == pytest.approx(true.sum() * electron, rel=0.01)
    again, _ = add_to_visit(scene, placed)
    assert np.array_equal(again.image.array, image.image.array, equal_nan=True)


def test_a_source_beyond_the_full_well_saturates(scene: Scene) -> None:
    stamp = scene.psf.stamp(300.0, 300.0)[0]
    peak = 60000 * scene.njy_per_adu
    table = injection.no_sources()
    row = Table({name: [np.nan] for name in table.colnames})
    sky = scene.image.sky_projection.pixel_to_sky(x=np.array([300.0]), y=np.array([300.0]))
    row["injection_id"], row["visit"], row["ra"], row["dec"] = [1], [0], sky.ra.deg, sky.dec.deg
    row["mag"] = [31.4 - 2.5 * np.log10(peak / stamp.max())]
    row["band"], row["source_type"] = ["r"], ["DeltaFunction"]
    image, added = add_to_visit(scene, scene.place(row))
    assert added.saturated.tolist() == [True]
    assert image.mask.get("SATURATED")[300, 300]
    assert not image.mask.get("SATURATED")[340, 300]

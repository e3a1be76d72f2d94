"""Injected sources whose fate is known: the numbers have to say what was done to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from reduction.recovered import Sky, detector
from tololo.facility.recovery import Limits, alarms
from tololo.reduction.recovery import Night, bins, follow, summarise
from tololo.reduction.recovery_fit import ALL_FOUND, FEW, NONE_FOUND, completeness, fit_depth
from tololo.reduction.recovery_history import history, plot_history
from tololo.reduction.recovery_plots import plot_recovery


def measured(*skies: Sky) -> dict[str, dict[str, Any]]:
    return summarise(Night.of(detector(visit, sky) for visit, sky in enumerate(skies, 1)))


@pytest.mark.parametrize(("depth", "width", "top"), [(23.2, 0.15, 0.97), (22.0, 0.3, 1.0), (24.0, 0.1, 0.8)])
def test_the_depth_and_its_error_are_right(depth: float, width: float, top: float) -> None:
    pulls = []
    for seed in range(12):
        random = np.random.default_rng(seed)
        mag = random.uniform(19, 25.5, 500)
        fit = fit_depth(mag, random.random(500) < completeness(mag, depth, width, top))
        assert fit.depth == pytest.approx(depth, abs=4 * fit.error)
        pulls.append((fit.depth - depth) / fit.error)
    assert abs(np.mean(pulls)) < 0.9
    assert 0.4 < np.std(pulls) < 1.7


def test_at_the_depth_completeness_is_one_half() -> None:
    assert completeness(np.array([23.0]), 23.0, 0.2, 0.9) == pytest.approx(0.5)
    assert completeness(np.array([10.0, 40.0]), 23.0, 0.2, 0.9) == pytest.approx([0.9, 0.0])


def test_a_depth_that_cannot_be_known_is_none() -> None:
    mag, every = np.linspace(18, 22, 100), np.ones(100, bool)
    assert fit_depth(mag, every).note == ALL_FOUND
    assert fit_depth(mag, ~every).note == NONE_FOUND
    assert fit_depth(mag[:10], every[:10]).note == FEW
    assert np.isnan(fit_depth(mag, every).depth)


def test_completeness_depth_and_flux_are_what_was_done() -> None:
    found = measured(Sky(depth=23.0, seed=1), Sky(depth=23.0, seed=2))["r"]
    assert found["depth"] == pytest.approx(23.0, abs=3 * found["depth_error"])
    assert found["depth_error"] < 0.05
    assert found["completeness"] > 0.99
    assert found["bias"] == pytest.approx(0.0, abs=4 * found["bias_error"])
    assert found["pull"] == pytest.approx(1.0, abs=0.1)
    assert found["purity"] == 1.0
    assert found["depth_noise"] == pytest.approx(Sky().limit, abs=0.1)
    assert found["detected"] > found["recovered"]
    assert [item["visit"] for item in found["visits"]] == [1, 2]


def test_a_bias_of_the_fluxes_and_lost_sources_raise_the_alarm() -> None:
    good, bad = measured(Sky()), measured(Sky(bias=0.05))
    assert bad["r"]["bias"] == pytest.approx(0.05, abs=0.005)
    limits = Limits(depth={"r": 22.5})
    assert alarms(good, limits) == []
    assert "fluxes are +5" in alarms(bad, limits)[0]
    (shallow,) = alarms(measured(Sky(depth=22.0)), Limits(depth={"r": 22.5}, completeness=None))
    assert "half of the sources are recovered at 22.0" in shallow
    (lost,) = alarms(measured(Sky(top=0.7)), limits)
    assert "of the bright sources are recovered" in lost


def test_new_detections_that_nobody_injected_are_impure() -> None:
    found = measured(Sky(spurious=100))["r"]
    assert found["spurious"] == 100
    assert found["purity"] == pytest.approx(found["recovered"] / (found["recovered"] + 100))
    # What the night has without injection says nothing about the injected sources.
    real = measured(Sky(real=100))["r"]
    assert (real["spurious"], real["purity"]) == (0, 1.0)
    unknown = measured(Sky(spurious=100, plain=False))["r"]
    assert (unknown["spurious"], unknown["purity"]) == (None, None)


def test_rejected_and_unreliable_detections_are_detected_only() -> None:
    for kept in ({"rejection": "dipole"}, {"reliability": 0.2}):
        one = detector(1, Sky())
        for name, value in kept.items():
            one.sources[name] = value
        injected, new = follow(one)
        assert injected["detected"].sum() > 100
        assert injected["recovered"].sum() == 0
        assert len(new) == 0


def test_sources_that_cannot_be_found_do_not_count() -> None:
    one = detector(1, Sky())
    number = len(follow(one)[0])
    one.truth["masked"][:10] = True
    one.truth["inside"][10:20] = False
    one.truth["saturated"][20:30] = True
    assert len(follow(one)[0]) == number - 30


def test_where_the_night_has_a_detection_a_match_would_prove_nothing() -> None:
    one = detector(1, Sky())
    number = len(follow(one)[0])
    there = replace(one, plain=one.sources[one.sources["rejection"] == ""][:5])
    assert len(follow(there)[0]) == number - 5


def test_a_negative_detection_is_no_recovery() -> None:
    one = detector(1, Sky())
    one.sources["isNegative"] = True
    assert follow(one)[0]["recovered"].sum() == 0


def test_the_table_has_bins_by_band_visit_and_what_lies_beneath() -> None:
    night = Night.of(
        [detector(1, Sky(seed=1)), detector(2, Sky(seed=2)), detector(3, Sky(band="g", depth=24.0))]
    )
    table = bins(night)
    assert set(table["band"]) == {"r", "g"}
    whole = table[(table["visit"] == 0) & (table["band"] == "r")]
    everything = whole[whole["beneath"] == "all"]
    parts = [whole[whole["beneath"] == name]["injected"].sum() for name in ("sky", "source")]
    assert everything["injected"].sum() == sum(parts) == (night.injected["band"] == "r").sum()
    visits = table[(table["visit"] > 0) & (table["band"] == "r")]
    assert visits["injected"].sum() == sum(parts)
    assert everything["completeness"][0] > 0.95
    assert everything["completeness"][-1] < 0.1
    assert np.allclose(everything["mag_to"] - everything["mag_from"], 0.5)
    bright = everything[everything["mag_to"] < 21]
    assert np.allclose(bright["flux_ratio"], 1, atol=0.01)


def summary(night: int, *skies: Sky) -> dict[str, Any]:
    bands = measured(*skies)
    return {
        "night": night,
        "chain": f"{night}/2019/meanclip/diff_drp_injected",
        "catalogue": "ring",
        "bands": bands,
        "alarms": alarms(bands, Limits()),
        "limits": {"depth": {"r": 22.5}, "bias": 0.03, "purity": 0.9, "completeness": None},
    }


def test_nights_follow_each_other_in_the_history() -> None:
    told = history([summary(20190402, Sky(depth=22.8)), summary(20190401, Sky(), Sky(band="g"))])
    assert [(int(row["night"]), str(row["band"])) for row in told] == [
        (20190401, "g"),
        (20190401, "r"),
        (20190402, "r"),
    ]
    assert told["depth"][2] == pytest.approx(22.8, abs=0.1)
    assert isinstance(plot_history(told, summary(1, Sky())["limits"]), Figure)


@pytest.mark.parametrize("sky", [Sky(depth=30.0), Sky(depth=10.0), Sky(number=4, plain=False)])
def test_whatever_there_is_can_be_drawn(sky: Sky) -> None:
    told = summary(20190401, sky)
    figure = plot_recovery(bins(Night.of([detector(1, sky)])), told)
    notes = " ".join(text.get_text() for axes in figure.axes for text in axes.texts)
    assert told["bands"]["r"]["depth_note"] in notes
    assert told["bands"]["r"]["depth"] is None


def test_a_narrow_band_is_a_band() -> None:
    sky = Sky(band="N964")
    night = Night.of([detector(1, sky), detector(2, Sky())])
    assert night.bands == ["r", "N964"]
    told = summary(20190401, sky)
    assert told["bands"]["N964"]["depth"] == pytest.approx(23.0, abs=0.2)
    assert isinstance(plot_recovery(bins(Night.of([detector(1, sky)])), told), Figure)
    assert isinstance(plot_history(history([told]), told["limits"] | {"depth": {"N964": 22.0}}), Figure)

"""Params of the DAG difference_imaging, and locks of its runs. Read at every DAG parse: must stay quick."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Param

from tololo.facility import collections
from tololo.params import MACROS, REPOSITORY, SELECTION, apdb_param, night_macro

APDB = "APDB"
TEMPLATE = "Template"
DIFFERENCE = "Difference"


def difference_params() -> dict[str, Param]:
    """Return the params that say what is waited for, how it is subtracted, and what comes after."""
    return {
        "wait": Param(
            12,
            type="number",
            minimum=0,
            maximum=240,
            title="Wait",
            description="Hours after the end of the night that its visits and templates are waited for; "
            "a night that ended longer ago is not waited for, unless another run works on it.",
            section=SELECTION,
        ),
        "coverage": Param(
            0.8,
            type="number",
            minimum=0,
            maximum=1,
            title="Template coverage",
            description="Fraction of the patches under the night's detectors, in each band, "
            "that must have a template before the waiting ends early.",
            section=TEMPLATE,
        ),
        "partial": Param(
            "go_on",
            type="string",
            enum=["go_on", "stop"],
            values_display={"go_on": "go on with what is covered", "stop": "stop"},
            title="Partial coverage",
            description="What to do when the time is up and less is covered; what is missing is named.",
            section=TEMPLATE,
        ),
        "allow_own_night": Param(
            False,
            type="boolean",
            title="Allow own night",
            description="Subtract also templates that hold visits of the night itself: "
            "what changed in that night is partly subtracted from itself.",
            section=TEMPLATE,
        ),
        "method": Param(
            "alard_lupton",
            type="string",
            enum=["alard_lupton", "zogy"],
            title="Method",
            description="How PSFs are matched and images subtracted.",
            section=DIFFERENCE,
        ),
        "alerts": Param(
            False,
            type="boolean",
            title="Alert packets",
            description="Write Avro alert packets of what entered the APDB.",
            section=DIFFERENCE,
        ),
        "injected": Param(
            None,
            type=["null", "string"],
            examples=["auto", "/data/ring.csv", "ring"],
            title="Injected sources",
            description="Difference the night once more with injected sources and measure what is recovered: "
            "auto (a catalogue is made for the night), a file, or the name of a catalogue that the "
            "repository has; empty: none.",
            section="Injection",
        ),
        **apdb_param(APDB),
        "apdb_policy": Param(
            "use",
            type="string",
            enum=["use", "refuse", "reset"],
            title="APDB policy",
            description="What to do when it exists: use it, refuse to, or reset it "
            "(which deletes all that it holds).",
            section=APDB,
        ),
        "apdb_templates": Param(
            "refuse",
            type="string",
            enum=["refuse", "use"],
            title="Other template version",
            description="What to do when the APDB was made with another version of the template: "
            "refuse, or go on with both (which is recorded in the APDB).",
            section=APDB,
        ),
        "earlier_nights": Param(
            "wait",
            type="string",
            enum=["wait", "go_on"],
            title="Earlier nights",
            description="Whether to wait for runs of earlier nights that have not reached the APDB yet.",
            section=APDB,
        ),
        "late_nights": Param(
            "refuse",
            type="string",
            enum=["refuse", "replay"],
            title="Late nights",
            description="What to do when the APDB holds a later night: refuse, "
            "or take the later nights out and associate them again.",
            section=APDB,
        ),
    }


def apdb_name(params: Mapping[str, Any]) -> str:
    """Return the name of a run's APDB.

    Raises
    ------
    BadInputError
        It is one for injected sources, which never enter an APDB of the sky.
    """
    return collections.apdb(params["coadd_subset"], params["template_type"], name=params["apdb"])


def apdb_lock(params: Mapping[str, Any]) -> str:
    """Return the lock of a run's APDB, for templates."""
    return f"apdb:{apdb_name(params)}"


def difference_lock(night: str, params: Mapping[str, Any]) -> str:
    """Return the lock of the difference images of a night with one template, for templates."""
    where = "" if params["repo"] == REPOSITORY else f"@{params['repo']}"
    name = collections.chain("diff", night, params["coadd_subset"], params["template_type"])
    return f"collection:{name}{where}"


DIFFERENCE_MACROS = {
    **MACROS,
    "apdb_lock": apdb_lock,
    "difference_lock": lambda dag_run, params: difference_lock(night_macro(dag_run, params), params),
}
APDB_LOCK = "{{ apdb_lock(params) }}"
"""Template of the APDB's lock."""
DIFFERENCE_LOCK = "{{ difference_lock(dag_run, params) }}"
"""Template of the lock of the night's difference images."""

"""Params that the DAGs share, and how a run learns its night. Read at every DAG parse: must stay quick."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook, CronPartitionTimetable, Param
from airflow.sdk.exceptions import AirflowNotFoundException

from tololo.facility.configuration import INCLUDE, TEMPLATE_TYPES, facility
from tololo.facility.errors import BadInputError
from tololo.facility.nights import resolve_night

if TYPE_CHECKING:
    from airflow.sdk import Context

PIPELINES = INCLUDE / "pipelines" / "embedded"
RUN = "Run"
SELECTION = "Selection"
REPOSITORY = "butler_default"
"""Connection of the facility's own repository."""
BANDS = ("u", "g", "r", "i", "z", "y", "VR")

DEFAULT_ARGS: dict[str, Any] = {"owner": "tololo", "retries": 1, "retry_delay": timedelta(seconds=20)}


def night_timetable() -> CronPartitionTimetable:
    """Return the timetable of nightly DAGs: midnight in UTC-12, so that the partition key is the night.

    A DAG that is unpaused waits for its next night: by default Airflow would make a run of the last one up to
    2.4 hours after it was due (a tenth of the interval, also where ``run_immediately`` is false).
    """
    return CronPartitionTimetable(
        "0 0 * * *",
        timezone="Etc/GMT+12",
        run_offset=-1,
        run_immediately=timedelta(0),
        key_format="%Y%m%d",
    )


def common_params() -> dict[str, Param]:
    """Return the params that every DAG has."""
    return {
        "repo": Param(
            REPOSITORY,
            type="string",
            examples=[REPOSITORY],
            title="Repository",
            description="Connection of the Butler repository.",
            section=RUN,
        ),
        **night_param(
            "Observing night (LSST day_obs) as YYYYMMDD; "
            "empty: the partition key, else the night that just ended."
        ),
        "detectors": Param(
            None,
            type=["null", "string"],
            pattern=r"^\s*\d{1,2}(\s*,\s*\d{1,2})*\s*$",
            title="Detectors",
            description="CCD numbers, separated by commas; empty: all.",
            section=SELECTION,
        ),
        "where": Param(
            None,
            type=["null", "string"],
            title="Data query",
            description="Butler expression, passed on as it is: visit = 720558 AND detector IN (25, 34)",
            section=SELECTION,
        ),
        "site": Param(
            facility().site,
            type="string",
            enum=list(facility().sites),
            title="Compute site",
            description="Where the quanta run; facility.yaml says which there are.",
            section=RUN,
        ),
        "dry_run": Param(
            False,
            type="boolean",
            title="Dry run",
            description="Say what would be done; touch nothing.",
            section=RUN,
        ),
    }


def night_param(description: str) -> dict[str, Param]:
    """Return the param that names a night."""
    return {
        "night": Param(
            None,
            type=["null", "string"],
            pattern=r"^\d{8}$",
            title="Night",
            description=description,
            section=SELECTION,
        )
    }


def template_params() -> dict[str, Param]:
    """Return the params that name a set of templates."""
    return {
        "coadd_subset": Param(
            facility().template_subset,
            type="string",
            pattern="^[A-Za-z0-9_]+$",
            title="Template subset",
            description="Name of the set of templates, the first part of their collection: 2019",
            section="Template",
        ),
        "template_type": Param(
            facility().template_type,
            type="string",
            enum=list(TEMPLATE_TYPES),
            title="Template type",
            description="How the warps are combined.",
            section="Template",
        ),
    }


def visits_param() -> dict[str, Param]:
    """Return the param that says which visits of a night are used."""
    return {
        "proc_type": Param(
            None,
            type=["null", "string"],
            enum=[None, "drp", "instcal"],
            values_display={"null": "drp, else instcal"},
            title="Visits",
            description="drp: from raws; instcal: from InstCal; "
            "empty: of each night those from raws, if it has some.",
            section=SELECTION,
        )
    }


def apdb_param(section: str) -> dict[str, Param]:
    """Return the param that names an APDB."""
    return {
        "apdb": Param(
            None,
            type=["null", "string"],
            pattern="^[A-Za-z0-9_]+$",
            title="APDB",
            description="Name of the APDB; empty: that of the template, {subset}_{type}.",
            section=section,
        )
    }


def threshold_param() -> dict[str, Param]:
    """Return the param that says how much must succeed; the form shows it as a number."""
    return {
        "thresholds": Param(
            1.0,
            type=["number", "object"],
            minimum=0,
            maximum=1,
            additionalProperties={"type": "number", "minimum": 0, "maximum": 1},
            title="Threshold",
            description="Fraction of the quanta that must be good for the run to count as a success; "
            'in the JSON configuration also one for each step: {"instcal": 0.95}',
            section=RUN,
        )
    }


def retry_param() -> dict[str, Param]:
    """Return the param that has permanent failures run again."""
    return {
        "retry_failed": Param(
            False,
            type="boolean",
            title="Retry failures",
            description="Run again what failed permanently, once its cause is mended.",
            section=RUN,
        )
    }


def pipeline_params() -> dict[str, Param]:
    """Return the params that name a pipeline, what it reads and writes, and how it is configured."""
    return {
        "pipeline": Param(
            type="string",
            minLength=1,
            examples=_known_pipelines(),
            title="Pipeline",
            description="Pipeline file, below include/pipelines or anywhere, with #subset for a part of it.",
            section="Pipeline",
        ),
        "inputs": Param(
            type="string",
            minLength=1,
            title="Inputs",
            description="Collections to search, in this order, separated by commas: "
            "refcats, skymaps, 20190401/instcal/raw",
            section="Pipeline",
        ),
        "output": Param(
            type="string",
            minLength=1,
            title="Output",
            description="Chain of the result, u/someone/trial; each run becomes its first child.",
            section="Pipeline",
        ),
        "config": Param(
            {},
            type="object",
            additionalProperties={"type": ["string", "number", "boolean", "array", "null"]},
            title="Configuration",
            description='Overrides, label:field to value: {"assembleTemplateCoadd:method": "median"}',
            section="Pipeline",
        ),
    }


def _known_pipelines() -> list[str]:
    import yaml

    names = []
    for path in sorted(PIPELINES.glob("*.yaml")):
        name = path.relative_to(PIPELINES.parent).as_posix()
        subsets = (yaml.safe_load(path.read_text()) or {}).get("subsets") or {}
        names += [name, *(f"{name}#{subset}" for subset in subsets)]
    return names


def night_of(context: Context | Mapping[str, Any]) -> str:
    """Return the night of a run: its partition key, else its param, else the last night before it was due."""
    run = context["dag_run"]
    due = run.run_after or datetime.now(UTC)
    return str(resolve_night(run.partition_key, context["params"].get("night"), due))


def night_macro(dag_run: Any, params: Mapping[str, Any]) -> str:
    """`night_of` for templates: ``{{ night_of(dag_run, params) }}``."""
    return night_of({"dag_run": dag_run, "params": params})


def night_lock(dag_run: Any, params: Mapping[str, Any]) -> str:
    """Return the lock of a run's night in its repository, for templates."""
    where = "" if params["repo"] == REPOSITORY else f"@{params['repo']}"
    return f"collection:{night_macro(dag_run, params)}{where}"


def not_asked_for(params: Mapping[str, Any], source: str, proc_type: str = "", *steps: str) -> str:
    """Say why a run has no use for a task of one source, one kind of processing and some steps.

    Empty if it has.
    """
    if params["source"] != source:
        return f"The source of this run is {params['source']}"
    if proc_type and proc_type not in params["proc_types"]:
        return f"{proc_type} is not among the proc types of this run: {', '.join(params['proc_types'])}"
    if steps and params["steps"] and not set(steps) & set(params["steps"]):
        return f"{steps[0]} is not among the steps of this run: {', '.join(params['steps'])}"
    return ""


def filter_query(params: Mapping[str, Any]) -> str:
    """Return the term of a data query that the param ``filters`` means; empty for all filters.

    Raises
    ------
    BadInputError
        A name cannot be that of a band or a filter.
    """
    names = [str(name).strip() for name in params.get("filters") or ()]
    if odd := [name for name in names if not name or set(name) & set("'\"\\")]:
        raise BadInputError(f"{odd[0]!r} is no filter", "param filters", f"name some of {', '.join(BANDS)}")
    bands = ", ".join(f"'{name}'" for name in names if name in BANDS)
    filters = ", ".join(f"'{name}'" for name in names if name not in BANDS)
    terms = [f"band IN ({bands})"] * bool(bands) + [f"physical_filter IN ({filters})"] * bool(filters)
    return f"({' OR '.join(terms)})" if terms else ""


def by_source(raw: str, instcal: str) -> str:
    """Return the template of what depends on the param ``source``; both may be templates themselves."""
    return f"{{% if params.source == 'raw' %}}{raw}{{% else %}}{instcal}{{% endif %}}"


def subset_of(params: Mapping[str, Any], main: str) -> str:
    """Return the subset of the pipeline that makes visits, or only their summary if no more is asked for."""
    return main if not params["steps"] or main in params["steps"] else "summary"


MACROS = {
    "night_of": night_macro,
    "night_lock": night_lock,
    "not_asked_for": not_asked_for,
    "subset_of": subset_of,
    "filter_query": filter_query,
}
NIGHT = "{{ night_of(dag_run, params) }}"
"""Template of the night."""
NIGHT_LOCK = "{{ night_lock(dag_run, params) }}"
"""Template of the night's lock."""


def detector_numbers(params: Mapping[str, Any]) -> list[int]:
    """Return the numbers of the param ``detectors``; none if it is empty, which means all."""
    return [int(number) for number in (params.get("detectors") or "").split(",") if number.strip()]


def data_query(params: Mapping[str, Any], *terms: str) -> str:
    """Join the given terms with those of the params ``detectors`` and ``where``."""
    parts = [term for term in terms if term]
    if numbers := detector_numbers(params):
        parts.append(f"detector IN ({', '.join(map(str, numbers))})")
    if params.get("where"):
        parts.append(f"({params['where']})")
    return " AND ".join(parts)


def pipeline_file(name: str) -> str:
    """Return a pipeline as the middleware finds it: a relative name is one of ``include/pipelines``."""
    name = name.strip()
    if name.startswith(("/", "$", "~")) or "://" in name:
        return name
    return str(PIPELINES.parent / name)


def step_of(pipeline: str) -> str:
    """Return the name of a step: the subset of a pipeline, else the name of its file."""
    file, _, subset = pipeline.partition("#")
    name = subset or Path(file).stem
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)


def collection_list(names: str) -> list[str]:
    """Split names of collections at commas.

    Raises
    ------
    BadInputError
        One is a pattern: its matches would have no order.
    """
    found = [name.strip() for name in names.split(",") if name.strip()]
    if patterns := [name for name in found if set(name) & set("*?[]")]:
        raise BadInputError(
            f"An input is a pattern: {', '.join(patterns)}",
            "input collections",
            "name collections, in the order in which they are to be searched",
        )
    return found


def repository_of(conn_id: str) -> str:
    """Return the repository that a connection names.

    Raises
    ------
    BadInputError
        There is no such connection.
    """
    try:
        return str(BaseHook.get_connection(conn_id).host)
    except AirflowNotFoundException:
        raise BadInputError(
            f"There is no connection {conn_id!r}", "param repo", "name one of Admin, Connections"
        ) from None


def config_overrides(params: Mapping[str, Any]) -> dict[str, str]:
    """Return the param ``config`` in the form that a run takes.

    Raises
    ------
    BadInputError
        A key is not ``label:field``.
    """
    given = params.get("config") or {}
    for key in given:
        label, _, field = key.partition(":")
        if not label or not field:
            raise BadInputError(
                f"The configuration key {key!r} names no task and field",
                "param config",
                "write label:field, or parameters:name for a parameter of the pipeline",
            )
    return {key: value if isinstance(value, str) else repr(value) for key, value in given.items()}


def threshold_of(params: Mapping[str, Any], step: str, steps: Collection[str]) -> float:
    """Return the fraction of a step's quanta that must be good.

    Parameters
    ----------
    params : mapping
        The params; ``thresholds`` is one number, or a mapping from steps to numbers.
    step : `str`
        The step; one that the mapping lacks needs all.
    steps : collection of `str`
        Every step that the mapping may name.

    Raises
    ------
    BadInputError
        The mapping names a step that is none.
    """
    given = params.get("thresholds", 1.0)
    if not isinstance(given, Mapping):
        return float(given)
    if unknown := sorted(set(given) - set(steps)):
        raise BadInputError(
            f"There is no step {', '.join(map(repr, unknown))}",
            "param thresholds",
            f"name one of: {', '.join(sorted(steps))}",
        )
    return float(given.get(step, 1.0))

"""
# Difference imaging

Subtracts the template from each visit of a night, finds what changed, associates it with known diaObjects in
the Alert Production Database (APDB), visit after visit in time order, and measures every known diaObject in
the night's images.

**Makes** `template_detector`, `difference_image`, `dia_source_unfiltered`, `dia_source` and `forced_source`
in the chain `{night}/{subset}/{type}/diff_drp` (visits from raws) or `diff_instcal`, and rows in the APDB
`{subset}_{type}`.

**Leaves out** visits that the scorecard of the night rejects, and says which and why.

**Waits** for the lock of the APDB while another run works on it, without a worker slot.

**Safe to repeat**: a visit that the APDB holds is neither stored twice nor dropped. Nights must come in time
order; an earlier night that comes late is refused, because it would rewrite history. A detector that no
template covers is reported as *no data*, with the reason.
"""

from airflow.sdk import DAG, Param

from tololo.facility.configuration import facility
from tololo.operators.apdb import PrepareApdbOperator
from tololo.operators.bps import RunPipelineOperator
from tololo.operators.locks import AcquireLockOperator, ReleaseLockOperator
from tololo.params import (
    DEFAULT_ARGS,
    MACROS,
    NIGHT,
    PIPELINES,
    apdb_param,
    common_params,
    night_timetable,
    retry_param,
    template_params,
    threshold_param,
    visits_param,
)

PROC_TYPE = "{{ ti.xcom_pull('prepare')['proc_type'] }}"
TEMPLATE = "{{ params.coadd_subset }}/{{ params.template_type }}"
APDB_LOCK = (
    "apdb:{{ params.apdb or params.coadd_subset ~ '_' ~ params.template_type "
    "~ ('_injected' if params.injected else '') }}"
)

with DAG(
    "difference_imaging",
    schedule=night_timetable(),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    user_defined_macros=MACROS,
    doc_md=__doc__,
    tags=["night", "apdb"],
    params={
        **common_params(),
        **template_params(),
        **threshold_param(),
        **retry_param(),
        **visits_param(),
        "injected": Param(
            False,
            type="boolean",
            title="Injected sources",
            description="Use the visits with injected sources, and an APDB of their own.",
            section="Selection",
        ),
        **apdb_param("APDB"),
        "apdb_policy": Param(
            "use",
            type="string",
            enum=["use", "refuse", "reset"],
            title="APDB policy",
            description="What to do when it exists: use it, refuse to, or reset it "
            "(which deletes all that it holds).",
            section="APDB",
        ),
    },
):
    # Visits are associated in time order: one run at a time works on an APDB, whatever started it.
    lock = AcquireLockOperator(task_id="lock", locks=[APDB_LOCK], policy="if_run_ended")
    unlock = ReleaseLockOperator(task_id="unlock", locks=[APDB_LOCK]).as_teardown(setups=lock)
    prepare = PrepareApdbOperator(task_id="prepare")
    difference = RunPipelineOperator(
        task_id="difference",
        pipeline=f"{PIPELINES}/difference_imaging.yaml",
        parent=f"{NIGHT}/{TEMPLATE}/diff_{PROC_TYPE}",
        step="difference",
        inputs=f"{TEMPLATE}/coadd,{NIGHT}/{PROC_TYPE},skymaps",
        where_terms=[
            "instrument = 'DECam'",
            f"visit.day_obs = {NIGHT}",
            "{{ ti.xcom_pull('prepare')['where'] }}",
        ],
        pipeline_config={
            "parameters:apdb_config": "{{ ti.xcom_pull('prepare')['apdb_config'] }}",
            "differenceDetector:threshold": str(facility().detection_threshold),
            "associateApdb:radius": str(facility().association_radius),
        },
        locks=[APDB_LOCK],
    )
    lock >> prepare >> difference >> unlock

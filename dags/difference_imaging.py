"""
# Difference imaging

Subtracts the template from each visit of a night, finds what changed, associates it with known diaObjects in
the Alert Production Database (APDB), visit after visit in time order, and measures every known diaObject in
the night's images.

**Makes** `template_detector`, `difference_image`, `dia_source_unfiltered` and `forced_source` in the chain
`{night}/{subset}/{type}/diff_drp` (visits from raws) or `diff_instcal`, and rows in the APDB
`{subset}_{type}`; with *Alert packets* also `alert_packets`.

**Waits**, without a worker slot and *Wait* hours after the end of the night at most, for the night's visits
and for templates under its detectors; for runs of earlier nights that have not reached the APDB yet, so that
a backfill ends in order; and for the lock of the APDB. What is missing is named: night and chain; band, tract
and patches. When the time is up, what is covered must do, unless *Partial coverage* says stop.

**Refuses**, patch by patch, a template that holds visits of the night itself, unless *Allow own night* is
ticked. A detector without a template is *no data*, with the reason; if none is left, the run is skipped.

**Leaves out** visits that the scorecard of the night rejects, and says which and why.

**Injected sources**: the night is differenced once more with sources of known brightness, in a chain of its
own (`..._injected`), after the plain one and without the APDB; then what is recovered is measured.

**Publishes** an event of the asset `differences` when it has succeeded, with night, chain, template and APDB;
it starts nothing.

**Safe to repeat**: a visit that the APDB holds is neither stored twice nor dropped. A night that is earlier
than what the APDB holds is refused, or the later nights are replayed after it, as *Late nights* says. For a
range of nights, several at a time:

    bin/airflow backfill create --dag-id difference_imaging --from-date 2019-04-01 --to-date 2019-04-10
"""

from airflow.sdk import DAG, chain

from tololo import assets
from tololo.difference_params import (
    APDB_LOCK,
    DIFFERENCE_LOCK,
    DIFFERENCE_MACROS,
    difference_params,
)
from tololo.facility.configuration import facility
from tololo.operators.apdb import PrepareApdbOperator
from tololo.operators.apdb_nights import ReplayNightsOperator
from tololo.operators.bps import RunPipelineOperator
from tololo.operators.difference import AwaitEarlierNightsOperator, SelectDifferenceInputsOperator
from tololo.operators.finish import FinishOperator
from tololo.operators.injection import IngestInjectionCatalogOperator
from tololo.operators.locks import AcquireLockOperator, ReleaseLockOperator
from tololo.operators.recovery import MeasureRecoveryOperator
from tololo.params import (
    DEFAULT_ARGS,
    NIGHT,
    PIPELINES,
    common_params,
    night_timetable,
    retry_param,
    template_params,
    threshold_param,
    visits_param,
)
from tololo.sensors.night_visits import VISITS, NightVisitsSensor
from tololo.sensors.templates import NightTemplatesSensor

PIPELINE = f"{PIPELINES}/difference_imaging.yaml"
GOES_ON = "none_failed_min_one_success"
PROC_TYPE = "{{ ti.xcom_pull('prepare')['proc_type'] }}"
TEMPLATE = "{{ ti.xcom_pull('prepare')['template'] }}"
PARENT = f"{NIGHT}/{{{{ params.coadd_subset }}}}/{{{{ params.template_type }}}}/diff_{PROC_TYPE}"
INPUTS = f"{TEMPLATE},{NIGHT}/{PROC_TYPE},skymaps"
INJECTED_INPUTS = f"{TEMPLATE},{{{{ ti.xcom_pull('injection')['inputs'] }}}},skymaps"
OF_THE_NIGHT = ["instrument = 'DECam'", f"visit.day_obs = {NIGHT}", "{{ ti.xcom_pull('prepare')['where'] }}"]
SUBTRACTION = {
    "differenceDetector:threshold": str(facility().detection_threshold),
    "differenceDetector:method": "{{ params.method }}",
    "differenceDetector:allow_own_night": "{{ params.allow_own_night }}",
    **facility().difference_limits.overrides("differenceDetector"),
}
APDB_CONFIG = {"parameters:apdb_config": "{{ ti.xcom_pull('apdb')['apdb_config'] }}"}
ASSOCIATION = {
    "associateApdb:radius": str(facility().association_radius),
    "associateApdb:late_nights": "{{ params.late_nights }}",
    "associateApdb:ephemerides": facility().ephemerides,
    "associateApdb:ephemerides_radius": str(facility().ephemerides_radius),
}

with DAG(
    "difference_imaging",
    schedule=night_timetable(),
    catchup=False,
    default_args=DEFAULT_ARGS,
    user_defined_macros=DIFFERENCE_MACROS,
    doc_md=__doc__,
    tags=["night", "apdb"],
    params={
        **common_params(),
        **template_params(),
        **threshold_param(),
        **retry_param(),
        **visits_param(),
        **difference_params(),
    },
):
    # From here to the end of its association a run holds its night: the runs of later nights wait for that.
    lock = AcquireLockOperator(task_id="lock", locks=[DIFFERENCE_LOCK], policy="if_run_ended")
    visits = NightVisitsSensor(task_id="visits")
    templates = NightTemplatesSensor(
        task_id="templates",
        visits=VISITS,
        coverage="{{ params.coverage }}",
        own_night=f"{{% if not params.allow_own_night %}}{NIGHT}{{% endif %}}",
    )
    prepare = SelectDifferenceInputsOperator(task_id="prepare")
    difference = RunPipelineOperator(
        task_id="difference",
        pipeline=f"{PIPELINE}#difference",
        parent=PARENT,
        step="difference",
        inputs=INPUTS,
        where_terms=OF_THE_NIGHT,
        pipeline_config=SUBTRACTION,
        locks=[DIFFERENCE_LOCK],
    )
    # Pixels of several nights may be worked on at a time; the APDB takes the nights one by one, in order.
    earlier = AwaitEarlierNightsOperator(task_id="earlier")
    apdb_lock = AcquireLockOperator(task_id="apdb_lock", locks=[APDB_LOCK], policy="if_run_ended")
    apdb = PrepareApdbOperator(
        task_id="apdb",
        template_version="{{ ti.xcom_pull('prepare')['template_version'] }}",
        chain=PARENT,
        where_terms=OF_THE_NIGHT,
    )
    associate = RunPipelineOperator(
        task_id="associate",
        pipeline=f"{PIPELINE}#associate,forced",
        parent=PARENT,
        step="associate",
        inputs=INPUTS,
        where_terms=OF_THE_NIGHT,
        pipeline_config=APDB_CONFIG | ASSOCIATION,
        locks=[DIFFERENCE_LOCK, APDB_LOCK],
        # What refused the night (its order, another one that waits) may be gone; the APDB is asked first.
        retry_failed=True,
    )
    alerts = RunPipelineOperator(
        task_id="alerts",
        pipeline=f"{PIPELINE}#alerts",
        parent=PARENT,
        step="alerts",
        inputs=INPUTS,
        where_terms=OF_THE_NIGHT,
        pipeline_config=APDB_CONFIG,
        skip="{% if not params.alerts %}This run writes no alert packets{% endif %}",
        locks=[DIFFERENCE_LOCK, APDB_LOCK],
    )
    unlock = ReleaseLockOperator(task_id="unlock", locks=[DIFFERENCE_LOCK, APDB_LOCK]).as_teardown(
        setups=[lock, apdb_lock]
    )
    # Nights that were taken out of the APDB for this one are associated again, one after the other.
    replay = ReplayNightsOperator(task_id="replay", trigger_rule="none_failed")
    # Sources are injected once the plain run is done, into a chain of its own that no APDB ever sees.
    injection = IngestInjectionCatalogOperator(
        task_id="injection", chain=f"{PARENT}_injected", trigger_rule=GOES_ON
    )
    inject = RunPipelineOperator(
        task_id="inject",
        pipeline=f"{PIPELINES}/{{{{ ti.xcom_pull('injection')['pipeline'] }}}}#difference",
        parent=f"{PARENT}_injected",
        step="difference",
        inputs=INJECTED_INPUTS,
        where_terms=OF_THE_NIGHT,
        pipeline_config=SUBTRACTION,
    )
    recovery = MeasureRecoveryOperator(task_id="recovery", chain=f"{PARENT}_injected")
    # The run is as good as the worst of its tasks, though the release of the locks comes after them.
    done = FinishOperator(
        task_id="night",
        asset=assets.DIFFERENCES,
        told={
            "prepare": ("template", "visits", "rejected"),
            "apdb": ("apdb",),
            "associate": ("chain", "run", "done"),
        },
        inlets=[assets.VISITS, assets.TEMPLATES],
        trigger_rule="none_failed",
    )

    chain(lock, visits, templates, prepare, difference, earlier, apdb_lock, apdb, associate, alerts, unlock)
    associate >> unlock
    [associate, alerts] >> replay
    [difference, associate] >> injection >> inject >> recovery
    [difference, associate, alerts, replay, recovery] >> done

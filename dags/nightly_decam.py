"""
# Nightly DECam

Turns one night into calibrated visits, from **raw** exposures with master calibrations of their own, or from
NOIRLab Community Pipeline **InstCal** exposures.

*Raw*: biases and dome flats become master calibrations of each detector and filter, which are judged and
certified for the night; what the night lacks, or what is not good enough, is borrowed from the nearest
accepted night within *Age of calibrations*. Then bias, flat, gain, crosstalk, saturation and cosmic rays are
dealt with, and each detector gets its PSF, astrometry and zero point from reference stars. *InstCal*: the
archive's images are measured, checked and calibrated likewise.

Each night gets a **scorecard**: its visits with seeing, depth, zero point and astrometry, accepted, flagged
or rejected by the facility's limits, and what failed and why. Templates take accepted visits only.

**Makes** `visit_image`, `single_visit_star`, `detector_summary` and `visit_summary` in the chain
`{night}/drp` (raw) or `{night}/instcal`, with `night_scorecard`, `night_summary` and `night_plot`; from raws
also `bias` and `flat` in `{night}/calib/bias` and `{night}/calib/flat`.

**Waits** for the files of the night, *Wait for files* hours after its end at most, and while another run
works on the same night; without a worker slot.

**Publishes** an event of the asset `visits` when it has succeeded, with night, chain and verdicts; it starts
nothing.

**Schedule** every day at 12:00 UTC, when the night has ended; paused until you unpause it. The run's
partition key is the night. A run by hand takes the param *Night*. For a range of nights:

    bin/airflow backfill create --dag-id nightly_decam --from-date 2019-04-01 --to-date 2019-04-10

**Safe to repeat**: what is ingested, combined or calibrated already is left alone. A night without exposures
is skipped, with the reason. Of raws, a file with something wrong is named and the rest goes in; of InstCal, a
truncated file, a missing weight map or an unknown filter stops the run before anything is ingested.
"""

from airflow.sdk import DAG, BaseOperator, Param, chain

from tololo import assets
from tololo.facility.configuration import SOURCES, facility
from tololo.hooks.curated_calibrations import CURATED
from tololo.operators.bps import RunPipelineOperator
from tololo.operators.calibrations import CertifyNightOperator
from tololo.operators.finish import FinishOperator
from tololo.operators.ingest import IngestInstcalOperator, IngestRawOperator
from tololo.operators.injection import IngestInjectionCatalogOperator
from tololo.operators.locks import AcquireLockOperator, ReleaseLockOperator
from tololo.operators.scorecard import ScoreNightOperator
from tololo.params import (
    BANDS,
    DEFAULT_ARGS,
    MACROS,
    NIGHT,
    NIGHT_LOCK,
    PIPELINES,
    SELECTION,
    by_source,
    common_params,
    night_timetable,
    retry_param,
    threshold_param,
)
from tololo.sensors.night_files import NightFilesSensor

STEPS = ["bias", "flat", "visit", "instcal", "summary"]
GOES_ON = "none_failed_min_one_success"
RAW_INPUTS = f"{NIGHT}/drp/raw,{NIGHT}/calib/bias,{NIGHT}/calib/flat,{CURATED},refcats,skymaps"
INSTCAL_INPUTS = f"{NIGHT}/instcal/raw,refcats,skymaps"
VISITS = f"{NIGHT}/{by_source('drp', 'instcal')}"
OF_THE_NIGHT = ["instrument = 'DECam'", f"visit.day_obs = {NIGHT}", "{{ filter_query(params) }}"]

with DAG(
    "nightly_decam",
    schedule=night_timetable(),
    catchup=False,
    default_args=DEFAULT_ARGS,
    user_defined_macros=MACROS,
    doc_md=__doc__,
    tags=["night", "visits"],
    params={
        **common_params(),
        "filters": Param(
            [],
            type="array",
            items={"type": "string"},
            examples=list(BANDS),
            title="Filters",
            description="Bands or physical filters of flats and visits; empty: all.",
            section=SELECTION,
        ),
        **threshold_param(),
        **retry_param(),
        "source": Param(
            facility().source,
            type="string",
            enum=list(SOURCES),
            title="Source",
            description="What the night's files are.",
            section="Data",
        ),
        "data": Param(
            None,
            type=["null", "string"],
            title="Folder",
            description="Folder of the files, any depth; empty: the one of the facility's configuration.",
            section="Data",
        ),
        "wait": Param(
            6,
            type="number",
            minimum=0,
            maximum=240,
            title="Wait for files",
            description="Hours after the end of the night that files are waited for; "
            "then what is there must do.",
            section="Data",
        ),
        "proc_types": Param(
            ["bias", "flat", "drp"],
            type="array",
            items={"type": "string", "enum": ["bias", "flat", "drp"]},
            uniqueItems=True,
            examples=["bias", "flat", "drp"],
            title="Proc types",
            description="What to make of raws: master biases, master flats, visits.",
            section="Steps",
        ),
        "steps": Param(
            [],
            type="array",
            items={"type": "string", "enum": STEPS},
            uniqueItems=True,
            examples=STEPS,
            title="Steps",
            description="Subsets of the pipeline to run; empty: all of the proc types.",
            section="Steps",
        ),
        "max_calib_age": Param(
            facility().calibration_age,
            type="integer",
            minimum=0,
            maximum=366,
            title="Age of calibrations",
            description="Days that a borrowed master calibration may be away; 0: borrow none.",
            section="Calibrations",
        ),
        "injected": Param(
            None,
            type=["null", "string"],
            examples=["auto", "/data/ring.csv", "ring"],
            title="Injected sources",
            description="Catalogue of sources to inject into the night once more, in chains of their own: "
            "auto (made for the night), a file, or the name of one that the repository has; empty: none.",
            section="Injection",
        ),
    },
):
    files = NightFilesSensor(task_id="files")
    # One run at a time works on a night, whatever started it.
    lock = AcquireLockOperator(task_id="lock", locks=[NIGHT_LOCK], policy="if_run_ended")
    unlock = ReleaseLockOperator(task_id="unlock", locks=[NIGHT_LOCK]).as_teardown(setups=lock)

    ingest = IngestInstcalOperator(task_id="ingest", skip="{{ not_asked_for(params, 'instcal') }}")
    calibrate = RunPipelineOperator(
        task_id="calibrate",
        pipeline=f"{PIPELINES}/nightly_decam.yaml#{{{{ subset_of(params, 'instcal') }}}}",
        parent=f"{NIGHT}/instcal",
        step="instcal",
        inputs=INSTCAL_INPUTS,
        where_terms=OF_THE_NIGHT,
        skip="{{ not_asked_for(params, 'instcal', '', 'instcal', 'summary') }}",
        locks=[NIGHT_LOCK],
    )

    ingest_raw = IngestRawOperator(task_id="ingest_raw", skip="{{ not_asked_for(params, 'raw') }}")
    steps: list[BaseOperator] = []
    for kind, calibrations in {"bias": "", "flat": f",{NIGHT}/calib/bias"}.items():
        skip = f"{{{{ not_asked_for(params, 'raw', '{kind}', '{kind}') }}}}"
        chosen = "{{ filter_query(params) }}" if kind == "flat" else ""
        steps += [
            RunPipelineOperator(
                task_id=kind,
                pipeline=f"{PIPELINES}/nightly_decam.yaml#{kind}",
                parent=f"{NIGHT}/{kind}",
                inputs=f"{NIGHT}/{kind}/raw{calibrations},{CURATED}",
                where_terms=["instrument = 'DECam'", chosen],
                skip=skip,
                locks=[NIGHT_LOCK],
                trigger_rule=GOES_ON,
            ),
            CertifyNightOperator(
                task_id=f"certify_{kind}",
                kind=kind,
                where=chosen,
                limits=facility().calibration_limits,
                skip=skip,
                trigger_rule=GOES_ON,
            ),
        ]
    visits = RunPipelineOperator(
        task_id="visits",
        pipeline=f"{PIPELINES}/nightly_decam.yaml#{{{{ subset_of(params, 'visit') }}}}",
        parent=f"{NIGHT}/drp",
        step="visit",
        inputs=RAW_INPUTS,
        where_terms=OF_THE_NIGHT,
        skip="{{ not_asked_for(params, 'raw', 'drp', 'visit', 'summary') }}",
        locks=[NIGHT_LOCK],
        trigger_rule=GOES_ON,
    )
    # Sources are injected into the same exposures once more: what holds them is never the night's own chain.
    injection = IngestInjectionCatalogOperator(
        task_id="injection", chain=f"{VISITS}_injected", trigger_rule="none_failed"
    )
    inject = RunPipelineOperator(
        task_id="inject",
        pipeline=f"{PIPELINES}/nightly_decam.yaml#{by_source('inject', 'inject_instcal')}",
        parent=f"{VISITS}_injected",
        step="inject",
        inputs=f"{{{{ ti.xcom_pull('injection')['collection'] }}}},{by_source(RAW_INPUTS, INSTCAL_INPUTS)}",
        where_terms=OF_THE_NIGHT,
        locks=[NIGHT_LOCK],
    )
    # Also of a night that went wrong: that is when it is looked at.
    scorecard = ScoreNightOperator(
        task_id="scorecard",
        proc_type=by_source("drp", "instcal"),
        where="{{ filter_query(params) }}",
        skip=by_source("{{ not_asked_for(params, 'raw', 'drp') }}", ""),
        trigger_rule="all_done",
    )
    # The run is as good as the worst of its tasks, though the scorecard comes after them.
    done = FinishOperator(
        task_id="night",
        asset=assets.VISITS,
        told={"scorecard": ("chain", "run", "visits", "accepted", "flagged", "rejected")},
        trigger_rule="none_failed",
    )

    files >> lock >> [ingest, ingest_raw]
    # A catalogue that is made for the night lies where its visits are.
    [calibrate, visits] >> injection
    ingest >> calibrate
    # One after the other, and each after the ingest too: a step with nothing to do does not stop the next,
    # which may borrow what the night lacks, while a night without raws skips them all.
    chain(ingest_raw, *steps, visits)
    ingest_raw >> [*steps, visits]
    [ingest, calibrate, ingest_raw, visits] >> scorecard
    [injection, scorecard] >> inject >> unlock
    [calibrate, *steps, visits, scorecard, inject] >> done

"""
# Nightly DECam

Turns one night into calibrated visits, from **raw** exposures with master calibrations of their own, or from
NOIRLab Community Pipeline **InstCal** exposures.

*Raw*: biases and dome flats become master calibrations of each detector and filter, which are judged and
certified for the night; what the night lacks, or what is not good enough, is borrowed from the nearest
accepted night within *Age of calibrations*. Then bias, flat, gain, crosstalk, saturation and cosmic rays are
dealt with, and each detector gets its PSF, astrometry and zero point from reference stars. *InstCal*: the
archive's images are measured, checked and calibrated likewise.

**Makes** `visit_image`, `single_visit_star`, `detector_summary` and `visit_summary` in the chain
`{night}/drp` (raw) or `{night}/instcal`, and from raws `bias` and `flat` in `{night}/calib/bias` and
`{night}/calib/flat`.

**Schedule** every day at 12:00 UTC, when the night has ended; paused until you unpause it. The run's
partition key is the night. A run by hand takes the param *Night*. For a range of nights:

    bin/airflow backfill create --dag-id nightly_decam --from-date 2019-04-01 --to-date 2019-04-10

**Safe to repeat**: what is ingested, combined or calibrated already is left alone. A night without exposures
is skipped, with the reason. Of raws, a file with something wrong is named and the rest goes in; of InstCal, a
truncated file, a missing weight map or an unknown filter stops the run before anything is ingested.
"""

from airflow.sdk import DAG, BaseOperator, Param, chain

from tololo.facility.configuration import facility
from tololo.operators.bps import RunPipelineOperator
from tololo.operators.calibrations import CertifyNightOperator
from tololo.operators.ingest import IngestInstcalOperator, IngestRawOperator
from tololo.params import (
    DEFAULT_ARGS,
    MACROS,
    NIGHT,
    PIPELINES,
    common_params,
    night_timetable,
    retry_param,
    threshold_param,
)

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
        **threshold_param(),
        **retry_param(),
        "source": Param(
            "instcal",
            type="string",
            enum=["instcal", "raw"],
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
        "proc_types": Param(
            ["bias", "flat", "drp"],
            type="array",
            items={"type": "string", "enum": ["bias", "flat", "drp"]},
            uniqueItems=True,
            examples=["bias", "flat", "drp"],
            title="Proc types",
            description="What to make of raws: master biases, master flats, visits.",
            section="Calibrations",
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
    },
):
    ingest = IngestInstcalOperator(task_id="ingest", skip="{{ not_asked_for(params, 'instcal') }}")
    calibrate = RunPipelineOperator(
        task_id="calibrate",
        pipeline=f"{PIPELINES}/nightly_decam.yaml#instcal",
        parent=f"{NIGHT}/instcal",
        step="instcal",
        inputs=f"refcats,skymaps,{NIGHT}/instcal/raw",
        where_terms=["instrument = 'DECam'", f"visit.day_obs = {NIGHT}"],
    )
    ingest >> calibrate

    ingest_raw = IngestRawOperator(task_id="ingest_raw", skip="{{ not_asked_for(params, 'raw') }}")
    steps: list[BaseOperator] = []
    for kind, calibrations in {"bias": "", "flat": f",{NIGHT}/calib/bias"}.items():
        skip = f"{{{{ not_asked_for(params, 'raw', '{kind}') }}}}"
        steps += [
            RunPipelineOperator(
                task_id=kind,
                pipeline=f"{PIPELINES}/nightly_decam.yaml#{kind}",
                parent=f"{NIGHT}/{kind}",
                inputs=f"{NIGHT}/{kind}/raw{calibrations}",
                where_terms=["instrument = 'DECam'"],
                skip=skip,
                trigger_rule="none_failed_min_one_success",
            ),
            CertifyNightOperator(
                task_id=f"certify_{kind}",
                kind=kind,
                limits=facility().calibration_limits,
                skip=skip,
                trigger_rule="none_failed_min_one_success",
            ),
        ]
    visits = RunPipelineOperator(
        task_id="visits",
        pipeline=f"{PIPELINES}/nightly_decam.yaml#visit",
        parent=f"{NIGHT}/drp",
        inputs=f"{NIGHT}/drp/raw,{NIGHT}/calib/bias,{NIGHT}/calib/flat,refcats,skymaps",
        where_terms=["instrument = 'DECam'", f"visit.day_obs = {NIGHT}"],
        skip="{{ not_asked_for(params, 'raw', 'drp') }}",
        trigger_rule="none_failed_min_one_success",
    )
    # One after the other, and each after the ingest too: a step with nothing to do does not stop the next,
    # which may borrow what the night lacks, while a night without raws skips them all.
    chain(*steps, visits)
    ingest_raw >> [*steps, visits]

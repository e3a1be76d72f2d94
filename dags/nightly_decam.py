"""
# Nightly DECam

Turns one night of NOIRLab Community Pipeline **InstCal** exposures into calibrated visits: it searches the
data folder by header, ingests what is complete, measures PSF and photometry, checks the astrometry and
measures the zero point against the reference stars, and writes a summary of each visit.

**Makes** `visit_image`, `single_visit_star`, `detector_summary` and `visit_summary` in the chain
`{night}/instcal`.

**Schedule** every day at 12:00 UTC, when the night has ended; paused until you unpause it. The run's
partition key is the night. A run by hand takes the param *Night*. For a range of nights:

    bin/airflow backfill create --dag-id nightly_decam --from-date 2019-04-01 --to-date 2019-04-10

**Safe to repeat**: what is ingested or calibrated already is left alone. A night without exposures is
skipped, with the reason. A truncated file, a missing weight map or an unknown filter stops the run before
anything is ingested.
"""

from airflow.sdk import DAG, Param

from tololo.operators.bps import RunPipelineOperator
from tololo.operators.ingest import IngestInstcalOperator
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
            enum=["instcal"],
            title="Source",
            description="What the night's files are.",
            section="Data",
        ),
        "data": Param(
            None,
            type=["null", "string"],
            title="Folder",
            description="Folder of InstCal files, any depth; empty: the one of the facility's configuration.",
            section="Data",
        ),
    },
):
    ingest = IngestInstcalOperator(task_id="ingest")
    calibrate = RunPipelineOperator(
        task_id="calibrate",
        pipeline=f"{PIPELINES}/nightly_decam.yaml#instcal",
        parent=f"{NIGHT}/instcal",
        step="instcal",
        inputs=f"refcats,skymaps,{NIGHT}/instcal/raw",
        where_terms=["instrument = 'DECam'", f"visit.day_obs = {NIGHT}"],
    )
    ingest >> calibrate

"""
# Run a pipeline

Runs any pipeline, or a subset of one, on any data: what is otherwise done by hand with `pipetask run`,
`bps submit` or `proc-decam pipeline`.

**Reads** the collections of *Inputs*, in that order, after what *Output* holds already. *Data query*, *Night*
and *Detectors* narrow down what is run; all three may be empty.

**Makes** one RUN `{output}/{pipeline}/{subset}/{time}` for each attempt, and the chain *Output*, which has
the newest RUN first, then the earlier ones, then the inputs.

**Examples** One detector of a night again, beside the night's own results:

    {"pipeline": "embedded/nightly_decam.yaml#instcal", "inputs": "refcats, skymaps, 20190401/instcal/raw",
     "output": "u/someone/trial", "night": "20190401", "detectors": "25"}

A template of the same visits, combined in another way:

    {"pipeline": "embedded/template_coadds.yaml#coadd", "inputs": "2019/meanclip/coadd/inputs, skymaps",
     "output": "u/someone/median", "where": "instrument = 'DECam' AND skymap = 'decam_rings'",
     "config": {"assembleTemplateCoadd:method": "median"}}

**Safe to repeat**: what *Output* holds is not made again, so a second run with more data does the rest. What
failed permanently is left out too, until *Retry failures* is ticked. For other results from the same data
name another *Output*. *Dry run* counts the quanta and touches nothing.
"""

from airflow.sdk import DAG

from tololo.facility.configuration import facility
from tololo.operators.bps import RunPipelineOperator
from tololo.params import (
    DEFAULT_ARGS,
    common_params,
    night_param,
    pipeline_params,
    retry_param,
    threshold_param,
)

CHOSEN = "(dag_run.partition_key or params.night)"
# Visits and detectors mean nothing without their instrument.
NEEDED = f"({CHOSEN} or params.detectors or params.where) and 'instrument' not in (params.where or '')"

with DAG(
    "run_pipeline",
    schedule=None,
    default_args=DEFAULT_ARGS,
    doc_md=__doc__,
    tags=["pipeline"],
    params={
        **common_params(),
        **night_param(
            "Observing night (LSST day_obs) as YYYYMMDD; empty: the partition key, else all nights."
        ),
        **pipeline_params(),
        **threshold_param(),
        **retry_param(),
    },
):
    RunPipelineOperator(
        task_id="run",
        pipeline="{{ params.pipeline }}",
        parent="{{ params.output.strip() }}",
        inputs="{{ params.inputs }}",
        where_terms=[
            f"{{% if {NEEDED} %}}instrument = '{facility().instrument}'{{% endif %}}",
            f"{{% if {CHOSEN} %}}day_obs = {{{{ {CHOSEN} }}}}{{% endif %}}",
        ],
    )

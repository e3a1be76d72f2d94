"""
# Template coadds

Combines the visits of several nights into templates for difference imaging, by patch and band. A template has
versions: with the same inputs nothing is done, with other inputs a new version is made, and the chain
`{subset}/{type}/coadd` always points at the accepted one.

Visits come from raws (`{night}/drp`) where a night has such, else from InstCal (`{night}/instcal`), unless
the param *Visits* says which. What the scorecard of its night flags or rejects is left out, and the log says
which and why; of a night without a scorecard all visits are taken.

**Makes** `direct_warp` and `template_coadd` below `{subset}/{type}/coadd/v<N>`; what went in is tagged in
`{subset}/{type}/coadd/inputs`.

**Example**
`{"nights": "20190301:20190331", "coadd_subset": "2019", "template_type": "meanclip", "bands": ["r"]}`
"""

from airflow.sdk import DAG, Param

from tololo.operators.bps import RunPipelineOperator
from tololo.operators.template import AcceptTemplateOperator, SelectTemplateInputsOperator
from tololo.params import (
    BANDS,
    DEFAULT_ARGS,
    PIPELINES,
    common_params,
    retry_param,
    template_params,
    threshold_param,
    visits_param,
)

with DAG(
    "template_coadds",
    schedule=None,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    doc_md=__doc__,
    tags=["template"],
    params={
        **common_params(),
        **template_params(),
        **threshold_param(),
        **retry_param(),
        "nights": Param(
            None,
            type=["null", "string"],
            title="Nights",
            description="A list (20190401, 20190402), a range (20190401:20190430) or a glob (201904*); "
            "empty: all nights.",
            section="Selection",
        ),
        "bands": Param(
            [],
            type="array",
            items={"type": "string"},
            examples=list(BANDS),
            title="Bands",
            description="Empty: all bands that the nights have.",
            section="Selection",
        ),
        **visits_param(),
        "patches": Param(
            None,
            type=["null", "string"],
            title="Patches",
            description="Data query on tract and patch; empty: what the visits cover.",
            section="Selection",
        ),
    },
):
    select = SelectTemplateInputsOperator(task_id="select")
    coadd = RunPipelineOperator(
        task_id="coadd",
        pipeline=f"{PIPELINES}/template_coadds.yaml#coadd",
        parent="{{ ti.xcom_pull('select')['version'] }}",
        step="coadd",
        inputs="{{ ti.xcom_pull('select')['inputs'] }},skymaps",
        where_terms=[
            "instrument = 'DECam'",
            "{{ ti.xcom_pull('select')['where'] }}",
            "{{ params.patches or '' }}",
        ],
        pipeline_config={"assembleTemplateCoadd:method": "{{ params.template_type }}"},
    )
    accept = AcceptTemplateOperator(task_id="accept", trigger_rule="none_failed_min_one_success")
    select >> coadd >> accept
    select >> accept

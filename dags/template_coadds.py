"""
# Template coadds

Combines the visits of several nights into templates for difference imaging, by patch and band. A template has
versions: with the same inputs and settings nothing is done, with others a new version is made and the older
one kept, and the chain `{subset}/{type}/coadd` always points at the accepted one.

**Chooses** from the nights of *Nights*: visits from raws (`{night}/drp`) where a night has such, else from
InstCal (`{night}/instcal`), unless *Visits* says which. *Selection* narrows them down, band by band: what the
scorecard says, seeing, the part of best seeing, the deepest of those that cover the same sky. The log says of
each visit that is left out why.

**Makes** `direct_warp` (or `psf_matched_warp`), `template_coadd`, its number of inputs and their weights, and
`template_metrics` below `{subset}/{type}/coadd/v<N>`; what went in is tagged in
`{subset}/{type}/coadd/inputs`. A table, a summary and a figure of the whole version go with it.

**Accepts** a new version by the facility's limits (*Acceptance* `auto`), or after a person has approved it
(`approval`: the run waits under *Required Actions*), or not yet (`hold`). What is rejected leaves the chain
as it was. The versions are `candidate`, `accepted`, `superseded` or `rejected`, with who, when and why.

**Publishes** an event of the asset `templates` when a version is accepted, with chain, version and bands; it
starts nothing.

**Safe to repeat**: what is made is not made again, and a run that was killed anywhere is completed by the
next one. *Dry run* says what would be chosen and made.

**Examples**
`{"nights": "20190301:20190331", "coadd_subset": "2019", "template_type": "meanclip", "bands": ["r"]}`

The best half of each band, ten visits at most, in two patches, and a person decides:

    {"nights": "201903*", "selection": {"best_seeing": 0.5, "max_visits": 10}, "patches": "9813/41, 9813/42",
     "acceptance": "approval"}
"""

from airflow.sdk import DAG, Param

from tololo import assets
from tololo.facility.template_selection import schema
from tololo.facility.templates import WARPS
from tololo.operators.bps import RunPipelineOperator
from tololo.operators.finish import FinishOperator
from tololo.operators.template import SelectTemplateInputsOperator
from tololo.operators.template_acceptance import (
    AcceptTemplateOperator,
    ApproveTemplateOperator,
    JudgeTemplateOperator,
)
from tololo.params import (
    BANDS,
    DEFAULT_ARGS,
    PIPELINES,
    SELECTION,
    common_params,
    retry_param,
    template_params,
    threshold_param,
    visits_param,
)

GOES_ON = "none_failed_min_one_success"
SUBSET = "coadd{{ '_psf_matched' if params.warp == 'psf_matched' else '' }}"

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
            section=SELECTION,
        ),
        "bands": Param(
            [],
            type="array",
            items={"type": "string"},
            examples=list(BANDS),
            title="Bands",
            description="Empty: all bands that the nights have.",
            section=SELECTION,
        ),
        **visits_param(),
        "selection": Param(
            {},
            type="object",
            additionalProperties=False,
            properties=schema()["properties"],
            title="Selection",
            description="Which visits are taken, of each band: max_seeing (arcsec), best_seeing (fraction), "
            "min_visits, max_visits, verdicts (accepted, flagged). What is not named is as in facility.yaml.",
            section=SELECTION,
        ),
        "patches": Param(
            None,
            type=["null", "string"],
            title="Patches",
            description="A list (9813/41, 9813/42, 9814/*) or a data query on tract and patch; "
            "empty: what the visits cover.",
            section=SELECTION,
        ),
        "warp": Param(
            WARPS[0],
            type="string",
            enum=list(WARPS),
            title="Warps",
            description="direct: visits as they are; psf_matched: all brought to the seeing of the worst.",
            section="Template",
        ),
        "acceptance": Param(
            "auto",
            type="string",
            enum=["auto", "approval", "hold"],
            title="Acceptance",
            description="auto: by the limits of facility.yaml; approval: a person is asked; "
            "hold: a new version stays a candidate.",
            section="Template",
        ),
    },
):
    select = SelectTemplateInputsOperator(task_id="select")
    coadd = RunPipelineOperator(
        task_id="coadd",
        pipeline=f"{PIPELINES}/template_coadds.yaml#{SUBSET},metrics",
        parent="{{ ti.xcom_pull('select')['version'] }}",
        step="coadd",
        inputs="{{ ti.xcom_pull('select')['inputs'] }},skymaps",
        where_terms=["instrument = 'DECam'", "{{ ti.xcom_pull('select')['where'] }}"],
        pipeline_config={
            "assembleTemplateCoadd:method": "{{ params.template_type }}",
            "assembleTemplateCoadd:warp": "{{ params.warp }}",
            "parameters:fwhm": "{{ ti.xcom_pull('select')['fwhm'] }}",
        },
    )
    judge = JudgeTemplateOperator(task_id="judge", trigger_rule=GOES_ON)
    approve = ApproveTemplateOperator(task_id="approve")
    accept = AcceptTemplateOperator(task_id="accept", trigger_rule=GOES_ON)
    template = FinishOperator(
        task_id="template",
        asset=assets.TEMPLATES,
        told={"accept": ("chain", "version", "templates"), "select": ("visits", "bands")},
        night="",
        inlets=[assets.VISITS],
        skip="{% if (ti.xcom_pull('accept') or {}).get('state', 'accepted') != 'accepted' %}"
        "The version is not accepted{% endif %}",
    )
    select >> coadd >> judge >> approve >> accept >> template
    select >> [judge, accept]
    judge >> accept

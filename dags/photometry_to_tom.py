"""
# Photometry to TOM

Publishes light curves in a TOM Toolkit server. For each light curve it finds the target by name or alias, or
creates it, uploads the light curve as a new version, reads it back, compares it point by point, and only then
deletes the older version. Nothing is lost when the TOM dies in the middle, nothing is doubled by a second
run.

**Publishes** MJD (UTC for the TOM, TAI in a column of its own where it comes from the APDB), magnitude with
error or limit, filter, telescope, instrument. *Publish* `after approval` asks a person first, under *Required
Actions*; `no` says what would be uploaded.

**Sources**

- `apdb` publishes diaObjects (forced fluxes on difference images), by default those with the most significant
  detections, or the targets of a list, wherever they lie on difference images.
- `visits` publishes a list of targets, with forced fluxes on the visit images of all nights: from raws where
  a night has such, else from InstCal.
- `datasets` reduces folders of frames that another observatory has calibrated, each
  `<target>/<instrument>/<filter>` with its `reduction_config.yaml`, and publishes those whose configuration
  says `tom: upload: True`. The *Manager* is the configuration file that says which ones and how many at once;
  *Datasets* names some instead. One task each, under the dataset's lock; a dataset that another holds is left
  out and named, one that fails does not stop the others. With *Download* new frames come from the archive of
  Las Cumbres Observatory first.

A list of targets has one a line: `name ra dec` in degrees.

**Safe to repeat**: frames that were measured are not measured again, and a dataset that has nothing new is
not reduced. The tab *Light curves* of a run shows what it has made.

**Examples** `{"source": "apdb", "selection": 5}`

    {"source": "datasets", "manager": "/data/reduction/reduction_manager_config.yaml", "download": "yes"}
"""

from airflow.sdk import DAG, Param

from tololo import assets
from tololo.facility.configuration import facility
from tololo.facility.locks import POLICIES
from tololo.operators.lco import DownloadFramesOperator
from tololo.operators.timeseries import (
    NAME,
    POOL,
    ReduceDatasetOperator,
    ReportDatasetsOperator,
    SelectDatasetsOperator,
)
from tololo.operators.tom import PublishLightCurvesOperator
from tololo.operators.tom_approval import ApprovePublicationOperator, GatherLightCurvesOperator
from tololo.operators.tom_datasets import PublishDatasetOperator
from tololo.params import DEFAULT_ARGS, MACROS, apdb_param, common_params, night_timetable, template_params

OF_DATASETS = {"skip": "{{ not_asked_for(params, 'datasets') }}"}

with DAG(
    "photometry_to_tom",
    schedule=night_timetable(),
    catchup=False,
    default_args=DEFAULT_ARGS,
    user_defined_macros=MACROS,
    doc_md=__doc__,
    tags=["night", "tom"],
    params={
        **common_params(),
        **template_params(),
        "source": Param(
            "apdb",
            type="string",
            enum=["apdb", "visits", "datasets"],
            title="Source",
            description="apdb: diaObjects, on difference images. visits: the targets below, on visit images. "
            "datasets: folders of frames.",
            section="Light curves",
        ),
        **apdb_param("Light curves"),
        "selection": Param(
            20,
            type="integer",
            minimum=1,
            maximum=1000,
            title="diaObjects",
            description="How many diaObjects to publish, the most significant first; "
            "not used with a list of targets.",
            section="Light curves",
        ),
        "targets": Param(
            None,
            type=["null", "string"],
            format="multiline",
            title="Targets",
            description="One a line: name ra dec (degrees). Empty: diaObjects of the APDB.",
            section="Light curves",
        ),
        "manager": Param(
            facility().dataset_manager or None,
            type=["null", "string"],
            title="Manager",
            description="The manager's configuration file: reduction_manager_config.yaml",
            section="Datasets",
        ),
        "datasets": Param(
            [],
            type="array",
            items={"type": "string", "minLength": 1},
            title="Datasets",
            description="Folders, one a line: instead of those that the manager's configuration selects.",
            section="Datasets",
        ),
        "again": Param(
            False,
            type="boolean",
            title="Measure again",
            description="Measure all frames, also those that were measured before.",
            section="Datasets",
        ),
        "lock_policy": Param(
            "if_stale",
            type="string",
            enum=list(POLICIES),
            title="Locks",
            description="Which locks of others may be broken: none, those of DAG runs that have ended, "
            "those without a heartbeat too.",
            section="Datasets",
        ),
        "download": Param(
            "no",
            type="string",
            enum=["no", "yes"],
            title="Download",
            description="yes: first fetch new frames from the archive of Las Cumbres Observatory.",
            section="Download",
        ),
        "proposals": Param(
            [],
            type="array",
            items={"type": "string", "minLength": 1},
            title="Proposals",
            description="One a line; empty: those of the connection lco_archive.",
            section="Download",
        ),
        "start": Param(
            None,
            type=["null", "string"],
            title="From",
            description="YYYY-MM-DD, or with HH:MM; empty: a day before the last complete download.",
            section="Download",
        ),
        "end": Param(
            None,
            type=["null", "string"],
            title="To",
            description="YYYY-MM-DD (the whole day), or with HH:MM; empty: now.",
            section="Download",
        ),
        "tom": Param(
            "tom_default",
            type="string",
            title="TOM",
            description="Connection of the TOM Toolkit server.",
            section="TOM",
        ),
        "publish": Param(
            "yes",
            type="string",
            enum=["yes", "no", "after approval"],
            title="Publish",
            description="no: say what would be uploaded. after approval: ask a person first.",
            section="TOM",
        ),
        "create_targets": Param(
            None,
            type=["null", "string"],
            enum=[None, "never", "missing"],
            values_display={"null": "as the connection says"},
            title="Missing targets",
            description="Whether targets that the TOM does not know are created there.",
            section="TOM",
        ),
    },
):
    download = DownloadFramesOperator(task_id="download", **OF_DATASETS)
    # A few frames that failed do not stop the reduction of what is there.
    select = SelectDatasetsOperator(task_id="select", trigger_rule="all_done", **OF_DATASETS)
    reduce = ReduceDatasetOperator.partial(task_id="reduce", pool=POOL, map_index_template=NAME).expand(
        folder=select.output
    )
    gather = GatherLightCurvesOperator(task_id="gather")
    approve = ApprovePublicationOperator(task_id="approve", trigger_rule="all_done")
    publish = PublishLightCurvesOperator(
        task_id="publish",
        trigger_rule="none_failed",
        skip="{{ 'The source of this run is datasets' if params.source == 'datasets' else '' }}",
        inlets=[assets.DIFFERENCES],
        outlets=[assets.LIGHT_CURVES],
    )
    publish_datasets = PublishDatasetOperator.partial(
        task_id="publish_datasets", trigger_rule="all_done", map_index_template=NAME
    ).expand(dataset=reduce.output)
    # What failed above did not stop the others: the run's state is this one's.
    report = ReportDatasetsOperator(
        task_id="report",
        tasks=["download", "select", "reduce", "approve", "publish_datasets"],
        trigger_rule="all_done",
        outlets=[assets.LIGHT_CURVES],
        **OF_DATASETS,
    )
    download >> select
    gather >> approve >> publish
    gather >> publish
    reduce >> approve >> publish_datasets
    [download, select, reduce, approve, publish_datasets] >> report

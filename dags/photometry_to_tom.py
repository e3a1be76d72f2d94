"""
# Photometry to TOM

Publishes light curves in a TOM Toolkit server: finds or creates each target, uploads
the light curve as a new version, reads it back, compares it point by point, and only then deletes the older
version. Nothing is lost when the TOM dies in the middle, nothing is doubled by a second run.

**Publishes** MJD (UTC for the TOM, TAI in a column of its own), AB magnitude with error or limit, filter,
telescope, instrument.

**Sources**: `apdb` publishes diaObjects (forced fluxes on difference images), by default those with the most
significant detections, or those at the targets of a list. `visits` publishes a list of targets, with forced
fluxes on the visit images of all nights: from raws where a night has such, else from InstCal. A list has one
target a line: `name ra dec` in degrees.
"""

from airflow.sdk import DAG, Param

from tololo.operators.tom import PublishLightCurvesOperator
from tololo.params import DEFAULT_ARGS, MACROS, apdb_param, common_params, night_timetable, template_params

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
            enum=["apdb", "visits"],
            title="Source",
            description="apdb: diaObjects, on difference images. visits: the targets below, on visit images.",
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
            enum=["yes", "no"],
            title="Publish",
            description="no: say what would be uploaded.",
            section="TOM",
        ),
    },
):
    PublishLightCurvesOperator(task_id="publish")

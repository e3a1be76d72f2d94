"""
# Repository bootstrap

Creates the Butler repository and fills it with what every night needs: the instrument with its 62 science
detectors and filters, the sky map, the curated calibrations (crosstalk, defects), the reference catalogue cut
into HTM shards, the collections. Ends with a verification that prints, for each of these, what was expected
and what was found.

**Safe to repeat**: what exists is left alone, what is missing is added. A repository of another instrument,
or one with another registry, is refused.
"""

from airflow.sdk import DAG, Param

from tololo.facility.configuration import facility
from tololo.operators.bootstrap import BootstrapOperator
from tololo.params import DEFAULT_ARGS, common_params

STEPS = ["create", "instrument", "skymap", "calibrations", "refcats", "verify"]

with DAG(
    "repo_bootstrap",
    schedule=None,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    doc_md=__doc__,
    tags=["setup"],
    params={
        **common_params(),
        "registry": Param(
            facility().registry,
            type="string",
            enum=["postgresql", "sqlite"],
            title="Registry",
            description="Database of the registry of a new repository.",
            section="Repository",
        ),
        "instrument": Param(
            "DECam",
            type="string",
            enum=["DECam"],
            title="Instrument",
            description="The instrument whose nights the repository takes.",
            section="Repository",
        ),
        "skymap": Param(
            facility().skymap,
            type="string",
            pattern="^[A-Za-z0-9_]+$",
            title="Sky map",
            description="Name of the sky map; include/configs/skymaps.yaml defines it.",
            section="Repository",
        ),
        "calibrations": Param(
            None,
            type=["null", "string"],
            title="Calibrations",
            description="Folder of curated calibrations (crosstalk, defects); empty: the facility's own.",
            section="Repository",
        ),
        "refcats": Param(
            None,
            type=["null", "string"],
            title="Reference stars",
            description="Folder or file with a table of reference stars, or several catalogues: "
            "gaia_dr2=/data/gaia, ps1=/data/ps1; empty: the facility's configuration.",
            section="Repository",
        ),
        "steps": Param(
            STEPS,
            type="array",
            items={"type": "string", "enum": STEPS},
            examples=STEPS,
            title="Steps",
            description="Which steps to do.",
            section="Repository",
        ),
    },
):
    BootstrapOperator(task_id="bootstrap")

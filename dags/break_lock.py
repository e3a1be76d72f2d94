"""
# Break a lock

Breaks locks whose holder will not come back: another facility's that is gone, another tool's, or a run's that
hangs. Locks of runs of this facility that have ended need nobody: the next run that wants them takes them.

**Names**, one a line: `apdb:2019_meanclip`, `collection:20190401`, `folder:/data/red/ob1/ip`. The log says
whose lock it was, how old its heartbeat was, and the *Reason*. What nobody holds is left alone; a run
that loses its lock is cut off and fails.

**Only if** limits it: `always` breaks whatever is held, `if_stale` and `if_run_ended` what the policy allows.
*Dry run* only says who holds what.

**Example** `{"locks": "apdb:2019_meanclip", "reason": "the machine was replaced"}`
"""

from airflow.sdk import DAG, Param

from tololo.facility.locks import POLICIES
from tololo.operators.locks import BreakLockOperator
from tololo.params import DEFAULT_ARGS, common_params

with DAG(
    "break_lock",
    schedule=None,
    default_args=DEFAULT_ARGS,
    doc_md=__doc__,
    tags=["upkeep"],
    params={
        **common_params(),
        "locks": Param(
            type="string",
            minLength=1,
            format="multiline",
            title="Locks",
            description="Their names, one a line.",
            section="Lock",
        ),
        "reason": Param(
            type="string",
            minLength=1,
            title="Reason",
            description="Why; it is logged with the name of the holder.",
            section="Lock",
        ),
        "only": Param(
            "always",
            type="string",
            enum=["always", *(policy for policy in POLICIES if policy != "never")],
            title="Only if",
            description="always, or the policy that must allow it.",
            section="Lock",
        ),
    },
):
    BreakLockOperator(
        task_id="break",
        locks="{{ params.locks }}",
        reason="{{ params.reason }}",
        only="{{ params.only }}",
    )

"""
# APDB nights

Takes a night out of the Alert Production Database (APDB), or goes on with nights that were taken out.

**Withdraw**: the night's rows go, and those of the later nights too, since what they were associated with is
no longer what it was; both in one transaction. So do their products in the Butler that followed from the
APDB (`dia_object`, `association_summary`, `forced_source`, `alert_packets`); difference images stay. Then the
later nights are associated again, one after the other, each by a run of `difference_imaging`. The withdrawn
night itself stays out until it is run. *Night* has to be given: empty does not stand for the newest one here.

**Replay** only does the latter, for nights that still wait because a run was stopped.

**Waits** for the lock of the APDB while another run works on it, without a worker slot.

**Safe to repeat**: what is out is not taken out again, and what is stored is not stored twice.

**Example** `{"night": "20190402", "action": "withdraw"}`
"""

from airflow.sdk import DAG, Param

from tololo.difference_params import APDB, APDB_LOCK, DIFFERENCE_MACROS
from tololo.operators.apdb_nights import ReplayNightsOperator, WithdrawNightOperator
from tololo.operators.locks import AcquireLockOperator, ReleaseLockOperator
from tololo.params import DEFAULT_ARGS, apdb_param, common_params, template_params, visits_param

with DAG(
    "apdb_nights",
    schedule=None,
    default_args=DEFAULT_ARGS,
    user_defined_macros=DIFFERENCE_MACROS,
    doc_md=__doc__,
    tags=["night", "apdb"],
    params={
        **common_params(),
        **template_params(),
        **visits_param(),
        **apdb_param(APDB),
        "action": Param(
            "replay",
            type="string",
            enum=["replay", "withdraw"],
            title="Action",
            description="withdraw: take the night out, then replay the later ones; "
            "replay: associate again what was taken out before and still waits.",
            section=APDB,
        ),
    },
):
    lock = AcquireLockOperator(task_id="lock", locks=[APDB_LOCK], policy="if_run_ended")
    unlock = ReleaseLockOperator(task_id="unlock", locks=[APDB_LOCK]).as_teardown(setups=lock)
    withdraw = WithdrawNightOperator(
        task_id="withdraw", skip="{% if params.action != 'withdraw' %}This run withdraws no night{% endif %}"
    )
    # The runs that this one triggers wait for the lock.
    replay = ReplayNightsOperator(task_id="replay", own_night=False, trigger_rule="none_failed")

    lock >> withdraw >> unlock
    withdraw >> replay

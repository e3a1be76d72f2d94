"""What operators that work in their own process share: errors become skips, failures or retries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from tololo.facility.errors import NothingToDoError, TololoError, UnavailableError

if TYPE_CHECKING:
    from airflow.sdk import Context


class FacilityOperator(BaseOperator):
    """An operator whose `work` raises the facility's own errors.

    Nothing to do is a skip with the reason; bad input fails at once; what is away for now is tried again.

    :param skip: why there is nothing to do this time (templated); empty if there is.
    """

    template_fields: Sequence[str] = ("skip",)

    def __init__(self, *, skip: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.skip = skip

    def work(self, context: Context) -> Any:
        """Do the task's work; its return value is the XCom."""
        raise NotImplementedError

    def execute(self, context: Context) -> Any:
        """Run `work` and say what its errors mean to Airflow."""
        try:
            if self.skip.strip():
                raise NothingToDoError(self.skip)
            return self.work(context)
        except NothingToDoError as error:
            context["task_state_store"].set("progress", str(error))
            raise AirflowSkipException(str(error)) from None
        except UnavailableError:
            raise
        except TololoError as error:
            raise AirflowFailException(str(error)) from error

"""A sensor as Airflow runs it: in a DAG, deferred, its trigger made anew from what was serialised."""

from __future__ import annotations

import asyncio
import importlib
import json
from typing import Any

from airflow.sdk import DAG
from airflow.sdk.exceptions import TaskDeferred

from conftest import NIGHT
from operators.airflow_context import context
from tololo.facility.errors import UnavailableError
from tololo.params import MACROS
from tololo.sensors.waiting import FacilitySensor
from tololo.triggers.waiting import Waited, WaitTrigger


def make(kind: type[FacilitySensor], **arguments: Any) -> Any:
    """Make a sensor in a DAG of NIGHT, and fill in its templates."""
    own = {"poke_interval": 0.2, "timeout": 60.0} | arguments
    params = own.pop("params", {})
    with DAG("night", schedule=None, user_defined_macros=MACROS):
        sensor = kind(task_id="wait", **own)
    filled = context(key=str(NIGHT), coadd_subset="2019", template_type="meanclip", **params)
    sensor.render_template_fields(filled)
    return sensor, filled


def does_not_answer(*_: Any, **__: Any) -> Any:
    """Be an engine server that is away."""
    raise UnavailableError("The engine server does not answer", "server", "wait")


def rebuilt(trigger: WaitTrigger) -> WaitTrigger:
    """Make a trigger anew as the triggerer does, from a class path and JSON."""
    path, arguments = trigger.serialize()
    module, _, name = path.rpartition(".")
    made = getattr(importlib.import_module(module), name)(**json.loads(json.dumps(arguments)))
    assert made.serialize() == (path, arguments)
    return made


async def only_event(trigger: WaitTrigger) -> Waited:
    """Run a trigger to its end; it gives one event."""
    events = [event.payload async for event in trigger.run()]
    assert len(events) == 1
    return json.loads(json.dumps(events[0]))


def deferred(sensor: FacilitySensor, filled: dict[str, Any]) -> TaskDeferred:
    """Execute a sensor that has to wait."""
    try:
        result = sensor.execute(filled)
    except TaskDeferred as stopped:
        return stopped
    raise AssertionError(f"it did not wait: {result!r}")


def resume(sensor: FacilitySensor, filled: dict[str, Any], stopped: TaskDeferred) -> Any:
    """Run the trigger of a sensor and let the sensor go on."""
    event = asyncio.run(only_event(rebuilt(stopped.trigger)))
    return sensor.resume_execution(stopped.method_name, {"event": event}, filled)


def finish(sensor: FacilitySensor, filled: dict[str, Any]) -> Any:
    """Execute a sensor to its end, whether it has to wait or not."""
    try:
        return sensor.execute(filled)
    except TaskDeferred as stopped:
        return resume(sensor, filled, stopped)

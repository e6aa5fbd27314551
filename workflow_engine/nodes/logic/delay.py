"""`logic/delay`: goes on after a time, or at one, and holds no worker while it waits.

The database's clock alone decides when the time has come, even for a time that is past already.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from workflow_engine.definition.problems import short_repr
from workflow_engine.definition.workflow import LONGEST_WAIT
from workflow_engine.execution.context import ExecutionContext, Wake
from workflow_engine.json_values import is_storable_time
from workflow_engine.nodes.config_fields import Amount, has_expression, seconds_of
from workflow_engine.nodes.contract import Config, NodeType
from workflow_engine.nodes.results import NodeExecutionResult, failure, success, waiting

SECONDS_PER_UNIT = {
    "milliseconds": 0.001,
    "seconds": 1,
    "minutes": 60,
    "hours": 3_600,
    "days": 86_400,
    "weeks": 604_800,
}


def instant(value: Any) -> datetime:
    """Return a point in time written in ISO 8601. Raises ValueError, also if it names no zone."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None:
        raise ValueError(f"must be a time such as '2026-01-31T09:00:00Z', not {short_repr(value)}")
    if moment.tzinfo is None:
        raise ValueError(f"{short_repr(value)} names no zone; add Z for UTC, or an offset such as +01:00")
    if not is_storable_time(moment):
        raise ValueError(f"{short_repr(value)} is not a time between the years 1 and 9999")
    return moment


def _instant_or_expression(value: str) -> str:
    if not has_expression(value):
        instant(value)
    return value


class DelayConfig(Config):
    """Config of `logic/delay`."""

    duration: Amount = Field(None, description="how long, in `unit`: a number, or an expression that is one")
    unit: Literal["milliseconds", "seconds", "minutes", "hours", "days", "weeks"] | None = Field(
        None, description="unit of `duration`; a day has 24 hours"
    )
    until: Annotated[str, AfterValidator(_instant_or_expression)] | None = Field(
        None, description="the time to go on at, in place of a duration: ISO 8601 with its zone"
    )

    @model_validator(mode="after")
    def _has_one_form(self) -> DelayConfig:
        given = {name for name in self.model_fields_set if getattr(self, name) is not None}
        if given not in ({"duration", "unit"}, {"until"}):
            raise ValueError("give either `duration` and `unit`, or `until`")
        is_constant = isinstance(self.duration, int | float)
        if self.unit and is_constant and self.duration * SECONDS_PER_UNIT[self.unit] > LONGEST_WAIT:
            raise ValueError(f"{short_repr(self.duration)} {self.unit} are more than a hundred years")
        return self


class Delay:
    """Returns null once the time has come; a time that is past goes on at once."""

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        try:
            return self._until(node_data["until"]) if "until" in node_data else self._duration(node_data)
        except ValueError as error:
            return failure("INVALID_DELAY", str(error))

    def resume(
        self, node_id: str, node_data: Any, context: ExecutionContext, wake: Wake
    ) -> NodeExecutionResult:
        return success()

    def _until(self, value: Any) -> NodeExecutionResult:
        try:
            moment = instant(value)
        except ValueError as error:
            raise ValueError(f"until: {error}") from None
        return waiting(until=moment)

    def _duration(self, node_data: Any) -> NodeExecutionResult:
        seconds = seconds_of(node_data["duration"], "duration", SECONDS_PER_UNIT[node_data["unit"]])
        return waiting(seconds=seconds) if seconds > 0 else success()


NODE_TYPE = NodeType("logic", "delay", Delay(), DelayConfig, description="Waits for a time; holds no worker.")

"""`logic/wait-events`: waits until named events of one correlation id have arrived, or the time is up.

The node only decides; its wait states which events it wants and how many are enough to wake it. A condition
or time limits of single events take more than counting. Then the node is woken early, looks at the events
so far, and waits again for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from workflow_engine.definition.problems import listed, short_repr
from workflow_engine.errors import ExpressionError
from workflow_engine.execution.context import ExecutionContext, Wake
from workflow_engine.expressions import Scope, compile_template
from workflow_engine.nodes.config_fields import (
    Amount,
    ConstantText,
    can_be_boolean,
    has_expression,
    readable_later,
    seconds_of,
)
from workflow_engine.nodes.contract import Config, NodeType
from workflow_engine.nodes.results import LONGEST_NAME, NodeExecutionResult, failure, success, waiting

VERBATIM = frozenset({"condition", "output"})
"""These keys read `events`, so they are evaluated when events have arrived, not before the node runs."""

CLOCK_GRAIN = 0.01
"""Seconds by which a time limit may seem unfinished to the node that it woke."""


# -- the config as it is written -------------------------------------------------------------------------


def _is_not_too_long(correlation_id: Any) -> Any:
    is_constant = isinstance(correlation_id, str) and not has_expression(correlation_id)
    if is_constant and len(correlation_id) > LONGEST_NAME:
        raise ValueError(f"has {len(correlation_id)} characters, more than the {LONGEST_NAME} allowed")
    return correlation_id


class AwaitedEvent(Config):
    """One event that is waited for."""

    name: ConstantText = Field(min_length=1, max_length=LONGEST_NAME, description="the name it is sent by")
    required: bool = Field(True, description="whether `required_only` waits for it")
    timeout: Amount = Field(None, description="seconds to wait for this event")


class WaitEventsConfig(Config):
    """Config of `logic/wait-events`."""

    correlation_id: Annotated[Any, AfterValidator(_is_not_too_long)] = Field(
        None, description="what events have in common with this wait; left out: the execution's id"
    )
    events: list[AwaitedEvent] = Field(min_length=1, description="the events that are waited for")
    strategy: Literal["all", "any", "required_only", "custom"] = Field(
        "all", description="which events are enough"
    )
    condition: Annotated[str, AfterValidator(can_be_boolean)] | None = Field(
        None, description="for `custom`: an expression over `events`, evaluated with each event that arrives"
    )
    timeout: Amount = Field(None, description="seconds to wait in all; left out: for ever")
    on_timeout: Literal["fail", "continue", "continue_with_partial"] = Field(
        "fail", description="when the time is up: fail, go on without events, or with those that arrived"
    )
    output: dict[str, Annotated[Any, AfterValidator(readable_later)]] | None = Field(
        None, description="the output by name: expressions over `events`; left out: payloads by event name"
    )

    @model_validator(mode="after")
    def _can_be_met(self) -> WaitEventsConfig:
        names = [event.name for event in self.events]
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"the event {repeated!r} is listed twice; name each event once")
        if (self.strategy == "custom") != (self.condition is not None):
            raise ValueError("the strategy 'custom' and a `condition` need each other; give both or neither")
        optional = [event.name for event in self.events if not event.required]
        if optional and self.strategy != "required_only":
            raise ValueError(
                f"{optional[0]!r} is not required, which only the strategy 'required_only' takes into account"
            )
        if len(optional) == len(names):
            raise ValueError("no event is required, so there is nothing to wait for; require one or more")
        return self


# -- deciding --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expectation:
    """What a node waits for, its config evaluated; times are in seconds since it began to wait."""

    strategy: str
    events: Mapping[str, float | None]
    """Time limits by name of event."""
    required: frozenset[str]
    timeout: float | None

    @classmethod
    def of(cls, node_data: Mapping[str, Any]) -> Expectation:
        """Read an evaluated config. Raises ValueError for an invalid time limit."""
        events = node_data["events"]
        return cls(
            strategy=node_data.get("strategy", "all"),
            events={each["name"]: _limit(each, f"timeout of {each['name']!r}") for each in events},
            required=frozenset(each["name"] for each in events if each.get("required", True)),
            timeout=_limit(node_data, "timeout"),
        )

    def is_met_by(self, arrived: Mapping[str, Any]) -> bool:
        """Return whether these events are enough, for a strategy that only counts them."""
        return bool(arrived) if self.strategy == "any" else self.required <= arrived.keys()

    def awaited(self, arrived: Mapping[str, Any], waited: float) -> dict[str, float | None]:
        """Return the events that may still come, by name, with their time limits."""
        return {
            name: limit
            for name, limit in self.events.items()
            if name not in arrived and not _is_over(limit, waited)
        }

    def is_lost(self, arrived: Mapping[str, Any], awaited: Mapping[str, Any], waited: float) -> bool:
        """Return whether the time is up: for the whole wait, or for events that it cannot do without."""
        if _is_over(self.timeout, waited) or not awaited:
            return True
        counts = self.strategy in ("all", "required_only")
        return counts and not self.required <= arrived.keys() | awaited.keys()

    def seconds_left(self, awaited: Mapping[str, float | None], waited: float) -> float | None:
        """Return the seconds to the next time limit; None if there is none."""
        limits = [limit for limit in (self.timeout, *awaited.values()) if limit is not None]
        return max(min(limits) - waited, 0.0) if limits else None

    def enough(self, awaited: Mapping[str, Any]) -> Literal["any"] | tuple[str, ...]:
        """Return which of the awaited events wake the node."""
        if self.strategy in ("any", "custom"):
            return "any"
        return tuple(name for name in awaited if name in self.required)


def _limit(part: Mapping[str, Any], what: str) -> float | None:
    value = part.get("timeout")
    return None if value is None else seconds_of(value, what)


def _is_over(limit: float | None, waited: float) -> bool:
    return limit is not None and waited >= limit - CLOCK_GRAIN


# -- the node type ---------------------------------------------------------------------------------------


class WaitEvents:
    """Returns the payloads by event name; of several events of one name the first counts."""

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        """Begin to wait, even if a time limit is 0: the events may have arrived already."""
        try:
            expectation = Expectation.of(node_data)
            return _wait(expectation, _correlation_id(node_data, context), expectation.events, waited=0.0)
        except ValueError as error:
            return failure("INVALID_WAIT", str(error))

    def resume(
        self, node_id: str, node_data: Any, context: ExecutionContext, wake: Wake
    ) -> NodeExecutionResult:
        """Go on, give up, or wait for the rest."""
        try:
            expectation = Expectation.of(node_data)
            correlation_id = _correlation_id(node_data, context)
            arrived = {name: wake.events[name] for name in expectation.events if name in wake.events}
            if _is_met(expectation, node_data, arrived, context):
                return success(_output(node_data, arrived, context))
            awaited = expectation.awaited(arrived, wake.waited)
            if expectation.is_lost(arrived, awaited, wake.waited):
                return _give_up(expectation, node_data, arrived, context, wake.waited)
        except ValueError as error:
            return failure("INVALID_WAIT", str(error))
        except ExpressionError as error:
            return failure(type(error).__name__, str(error))
        return _wait(expectation, correlation_id, awaited, wake.waited)


def _wait(
    expectation: Expectation, correlation_id: str, awaited: Mapping[str, float | None], waited: float
) -> NodeExecutionResult:
    return waiting(
        events=tuple(awaited),
        required=expectation.enough(awaited),
        correlation_id=correlation_id,
        timeout=expectation.seconds_left(awaited, waited),
    )


def _is_met(
    expectation: Expectation, node_data: Mapping[str, Any], arrived: dict[str, Any], context: ExecutionContext
) -> bool:
    if expectation.strategy != "custom" or not arrived:
        return expectation.strategy != "custom" and expectation.is_met_by(arrived)
    verdict = _evaluate(node_data["condition"], arrived, context)
    if not isinstance(verdict, bool):
        raise ValueError(f"condition: must be true or false, but is {short_repr(verdict)}")
    return verdict


def _give_up(
    expectation: Expectation,
    node_data: Mapping[str, Any],
    arrived: dict[str, Any],
    context: ExecutionContext,
    waited: float,
) -> NodeExecutionResult:
    match node_data.get("onTimeout", "fail"):
        case "continue":
            return success({})
        case "continue_with_partial":
            return success(_output(node_data, arrived, context))
    missing = [name for name in expectation.events if name not in arrived]
    details = {"arrived": list(arrived), "missing": missing}
    if not missing:
        return failure(
            "CONDITION_NOT_MET", "every event has arrived, and `condition` is still false", details
        )
    message = f"no {listed(missing)} within {waited:.3g} s; arrived: {listed(arrived) or 'none'}"
    return failure("EVENTS_TIMED_OUT", message, details)


def _output(node_data: Mapping[str, Any], arrived: dict[str, Any], context: ExecutionContext) -> Any:
    mapping = node_data.get("output")
    return arrived if mapping is None else _evaluate(mapping, arrived, context)


def _evaluate(value: Any, arrived: dict[str, Any], context: ExecutionContext) -> Any:
    """Evaluate a value whose expressions see the payloads as `events`, beside all ordinary names."""
    scope = Scope(
        variables={**context.variables, "events": dict(sorted(arrived.items()))},
        node_outputs=context.node_outputs,
        trigger_node_id=context.trigger_node_id,
        metadata=context.metadata,
    )
    return compile_template(value).evaluate(scope)


def _correlation_id(node_data: Mapping[str, Any], context: ExecutionContext) -> str:
    value = node_data.get("correlationId")
    if value is None:
        return context.execution_id
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(f"correlationId: must be text or a whole number, but is {short_repr(value)}")
    return str(value)


NODE_TYPE = NodeType(
    "logic",
    "wait-events",
    WaitEvents(),
    WaitEventsConfig,
    verbatim=VERBATIM,
    description="Waits for named events; holds no worker.",
)

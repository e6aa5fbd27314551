"""Limits of a workflow or node: which slots an execution or attempt needs, once their keys are evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workflow_engine.definition.workflow import Limit
from workflow_engine.errors import ExpressionError, InvalidValue
from workflow_engine.execution.context import ExecutionContext
from workflow_engine.execution.records import WantedSlot
from workflow_engine.expressions import Scope, Template, compile_template
from workflow_engine.json_values import normalise

LONGEST_KEY = 200
"""Characters of an evaluated key: Postgres must be able to index it, and people to read it."""


@dataclass(frozen=True)
class CompiledLimit:
    """A limit whose key is ready to be evaluated."""

    key: Template
    path: str
    concurrency: int | None
    rate: int | None
    seconds: float | None


def compiled_limits(limits: Sequence[Limit] | None) -> tuple[CompiledLimit, ...]:
    """Return the limits of a definition, compiled. Raises `ExpressionError`."""
    compiled = []
    for index, limit in enumerate(limits or ()):
        rate, seconds = limit.rate_per_seconds or (None, None)
        path = f"limits[{index}].key"
        compiled.append(CompiledLimit(compile_template(limit.key), path, limit.concurrency, rate, seconds))
    return tuple(compiled)


def slots_of_execution(
    limits: Sequence[CompiledLimit], trigger_node_id: str, data: Any, variables: Mapping[str, Any]
) -> tuple[WantedSlot, ...]:
    """Return the slots that an execution needs: its keys read what it was started with.

    Raises `InvalidValue` for a key that cannot be evaluated, or is no short text.
    """
    return _slots(limits, Scope(variables, {trigger_node_id: data}, trigger_node_id)) if limits else ()


def slots_of_attempt(limits: Sequence[CompiledLimit], context: ExecutionContext) -> tuple[WantedSlot, ...]:
    """Return the slots that an attempt of a node needs. Raises as `slots_of_execution` does."""
    scope = Scope(
        variables=context.variables,
        node_outputs=context.node_outputs,
        trigger_node_id=context.trigger_node_id,
        metadata=context.metadata,
        iteration=context.iteration,
    )
    return _slots(limits, scope)


def _slots(limits: Sequence[CompiledLimit], scope: Scope) -> tuple[WantedSlot, ...]:
    by_key: dict[str, WantedSlot] = {}
    for limit in limits:
        key = _key(limit, scope)
        slot = WantedSlot(key, limit.concurrency, limit.rate, limit.seconds)
        by_key[key] = _stricter(by_key[key], slot) if key in by_key else slot
    return tuple(by_key[key] for key in sorted(by_key))


def _key(limit: CompiledLimit, scope: Scope) -> str:
    try:
        value = limit.key.evaluate(scope)
    except ExpressionError as error:
        raise InvalidValue(limit.path, str(error)) from None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_KEY:
        raise InvalidValue(
            limit.path,
            f"a key is a text of 1 to {LONGEST_KEY} characters or a whole number, not {value!r:.60}",
        )
    key: str = normalise(value, limit.path)
    return key


def _stricter(one: WantedSlot, other: WantedSlot) -> WantedSlot:
    """Return one slot for two limits whose keys turned out to be the same."""
    concurrencies = [each.concurrency for each in (one, other) if each.concurrency is not None]
    rates = [each for each in (one, other) if each.rate is not None and each.seconds is not None]
    slowest = min(rates, key=lambda each: (each.rate or 0) / (each.seconds or 1), default=one)
    return WantedSlot(one.key, min(concurrencies, default=None), slowest.rate, slowest.seconds)

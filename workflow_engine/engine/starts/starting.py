"""Starting executions: one with a statement and a message, many with a statement for each batch of them.

All of many are checked before the first one is written. Then a batch is written whole or not at all, and its
messages cost one round trip. A process that dies in between leaves whole batches, whose executions run.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from workflow_engine.definition.workflow import Node
from workflow_engine.engine.executor import WorkflowExecutor
from workflow_engine.engine.starts.given import GivenStart, Start
from workflow_engine.engine.stores import Stores
from workflow_engine.errors import (
    IdempotencyConflict,
    InvalidValue,
    StartRefused,
    StartsRefused,
    TriggerDataInvalid,
    WorkflowEngineError,
    WorkflowNotFound,
)
from workflow_engine.execution.ids import new_execution_id
from workflow_engine.execution.records import NewExecution, StartedExecution, WayIn
from workflow_engine.execution.walk import Walk
from workflow_engine.json_values import check_size, encode, normalise
from workflow_engine.nodes.trigger.direct import check_trigger_data
from workflow_engine.postgres.executions.creation import Key, WayInChanged
from workflow_engine.postgres.workflows.deployments import StartingPoint
from workflow_engine.runner.compiled import CompiledWorkflow, CompiledWorkflows
from workflow_engine.runner.limits import slots_of_execution
from workflow_engine.settings import Settings

if TYPE_CHECKING:
    from workflow_engine.postgres.caller_transaction import CallersTransaction  # brings SQLAlchemy

BATCH = 500
"""Executions that one statement writes."""

BATCH_BYTES = 8 << 20
"""Data and variables that one statement writes: Postgres reads them as one value, of a limited size."""

ENTRIES_KEPT = 100
"""Triggers that a process remembers. It relies on no more than that Postgres checks with the start."""

EntryKey = tuple[str, int | None, str | None]
"""A workflow, and the version and trigger if the caller has named them."""

REFUSALS = (WorkflowNotFound, TriggerDataInvalid, InvalidValue, StartRefused)
"""Why a deployed workflow does not begin with what is given."""


class Starts:
    """Starts executions. Methods may raise `DatabaseUnavailable`."""

    def __init__(
        self, stores: Stores, workflows: CompiledWorkflows, executor: WorkflowExecutor, settings: Settings
    ) -> None:
        self._state = stores.state
        self._deployments = stores.deployments
        self._workflows = workflows
        self._executor = executor
        self._settings = settings
        self._entries: dict[EntryKey, _Entry] = {}

    def start(
        self,
        workflow_id: str,
        start: Start,
        *,
        version: int | None = None,
        transaction: CallersTransaction | None = None,
    ) -> StartedExecution:
        """Start an execution, in the caller's transaction if one is given.

        Raises as `WorkflowClient.start` does.
        """
        given = GivenStart.of(workflow_id, start)
        known = self._entries.get((workflow_id, version, start.trigger)) if transaction is None else None
        if known is not None:
            # What is refused here may begin with the version that is deployed by now.
            with suppress(WayInChanged, *REFUSALS):
                way_in = WayIn.CURRENT if version is None else WayIn.OPEN
                return self._executor.execute_workflow(self._new_execution(known, given, way_in))

        def prepare() -> NewExecution:
            entry = self._entry(workflow_id, self._deployments.way_in(workflow_id, version), start.trigger)
            if transaction is None:
                self._keep(entry, (workflow_id, version, start.trigger))
            return self._new_execution(entry, given)

        try:
            new = prepare() if transaction is None else transaction.beside(prepare)
        except REFUSALS:
            # An execution of the same key may not fit the version that is deployed by now.
            if (started := self._started_before(given.key, transaction)) is not None:
                return started
            raise
        return self._executor.execute_workflow(new, transaction)

    def start_many(
        self,
        workflow_id: str,
        starts: Sequence[Start],
        *,
        version: int | None = None,
        transaction: CallersTransaction | None = None,
    ) -> list[StartedExecution]:
        """Start executions, in the caller's transaction if one is given; return them in the same order.

        Raises as `WorkflowClient.start_many` does.
        """
        refusals: dict[int, WorkflowEngineError] = {}
        given: dict[int, GivenStart] = {}
        for index, start in enumerate(starts):
            try:
                given[index] = GivenStart.of(workflow_id, start)
            except InvalidValue as refusal:
                refusals[index] = refusal
        keys = [each.key for each in given.values() if each.key is not None]
        used = self._state.used_keys(keys, transaction.statements if transaction else None)

        def look() -> StartingPoint:
            way_in = self._deployments.way_in(workflow_id, version)
            self._workflows.get(workflow_id, way_in.version)  # read here, if this process has not yet
            return way_in

        way_in = look() if transaction is None else transaction.beside(look)
        entry = functools.cache(functools.partial(self._entry, workflow_id, way_in))

        started: dict[int, StartedExecution] = {}
        new: dict[int, NewExecution] = {}
        repeated: dict[int, int] = {}
        firsts: dict[str, int] = {}
        for index, each in given.items():
            key = each.key.key if each.key is not None else None
            try:
                if each.key is not None and each.key.key in used:
                    started[index] = used[each.key.key].execution_of(each.key)
                elif key in firsts:
                    each.check_repeats(given[firsts[key]])
                    repeated[index] = firsts[key]
                else:
                    new[index] = self._new_execution(entry(each.start.trigger), each)
                    if key is not None:
                        firsts[key] = index
            except (*REFUSALS, IdempotencyConflict) as refusal:
                refusals[index] = refusal
        if refusals:
            raise StartsRefused(workflow_id, len(starts), refusals)

        for batch in _batches(new):
            try:
                written = self._executor.execute_workflows([new[index] for index in batch], transaction)
            except IdempotencyConflict as conflict:  # another process has just used this key
                index = firsts[conflict.key]
                raise StartsRefused(workflow_id, len(starts), {index: conflict}, started) from conflict
            started.update(zip(batch, written, strict=True))
        started |= {index: replace(started[first], is_new=False) for index, first in repeated.items()}
        return [started[index] for index in range(len(starts))]

    def _started_before(
        self, key: Key | None, transaction: CallersTransaction | None
    ) -> StartedExecution | None:
        if key is not None:
            with suppress(IdempotencyConflict):  # the caller's error says more
                return self._state.started_before(key, transaction.statements if transaction else None)
        return None

    def _entry(self, workflow_id: str, way_in: StartingPoint, trigger: str | None) -> _Entry:
        compiled = self._workflows.get(workflow_id, way_in.version)
        node = compiled.graph.nodes[compiled.trigger(trigger)]
        way_in.check_open(workflow_id, node.id)
        due = Walk.start(compiled.graph, node.id).due
        return _Entry(compiled, node, way_in.trigger_ids[node.id], tuple(due))

    def _keep(self, entry: _Entry, key: EntryKey) -> None:
        if len(self._entries) >= ENTRIES_KEPT:
            self._entries.clear()
        self._entries[key] = entry

    def _new_execution(self, entry: _Entry, given: GivenStart, way_in: WayIn | None = None) -> NewExecution:
        """Check a start against the deployed workflow. Raises one of `REFUSALS`."""
        compiled, trigger, start = entry.workflow, entry.trigger, given.start
        first = compiled.route(entry.due[0]) if entry.due else None
        variables = {**entry.variables, **given.variables}
        return NewExecution(
            execution_id=new_execution_id(),
            workflow_id=compiled.workflow.id,
            version=compiled.version,
            trigger_id=entry.trigger_id,
            trigger_node_id=trigger.id,
            trigger_sub_type=trigger.sub_type,
            trigger_label=trigger.label,
            data=self._checked_data(compiled.workflow.id, trigger, given.data),
            variables=self._checked_variables(compiled, variables, given.variables),
            timeout=compiled.workflow.settings.timeout,
            limits=slots_of_execution(compiled.limits, trigger.id, given.data, variables),
            queue=start.queue or self._settings.queue,
            priority=start.priority,
            due_queue=first.queue if first else None,
            due_priority=first.priority if first else None,
            due=entry.due,
            queue_timeouts=compiled.queue_timeouts_of(entry.due[: compiled.concurrency]),
            idempotency_key=start.idempotency_key,
            fingerprint=given.key.fingerprint if given.key is not None else "",
            names_trigger=given.key is not None and start.trigger is not None,
            user_metadata=given.metadata,
            tags=given.tags,
            way_in=way_in,
        )

    def _checked_data(self, workflow_id: str, trigger: Node, data: Any) -> bytes:
        encoded = encode(data)
        check_size(encoded, self._settings.output_limit, "data")
        if problems := check_trigger_data(trigger.config, data):
            raise TriggerDataInvalid(workflow_id, trigger.id, problems)
        return encoded

    def _checked_variables(
        self, compiled: CompiledWorkflow, variables: Mapping[str, Any], given: Mapping[str, Any]
    ) -> bytes:
        for name in given:
            if name.startswith("_") or name in compiled.graph.nodes:
                raise InvalidValue(
                    f"variables.{name}",
                    "a variable may not start with _ nor have the name of a node; rename it",
                )
        encoded = encode(variables)
        check_size(encoded, self._settings.output_limit, "variables")
        return encoded


@dataclass(frozen=True)
class _Entry:
    """A trigger of a deployed version, with what all starts there have in common."""

    workflow: CompiledWorkflow
    trigger: Node
    trigger_id: str
    due: tuple[str, ...]

    @functools.cached_property
    def variables(self) -> Mapping[str, Any]:
        variables: Mapping[str, Any] = normalise(self.workflow.workflow.variables, "variables")
        return variables


def _batches(new: Mapping[int, NewExecution]) -> Iterator[list[int]]:
    """Yield the indexes of the executions that one statement writes, batch by batch."""
    batch: list[int] = []
    size = 0
    for index, each in new.items():
        size += len(each.data) + len(each.variables)
        if batch and (len(batch) == BATCH or size > BATCH_BYTES):
            yield batch
            batch, size = [], len(each.data) + len(each.variables)
        batch.append(index)
    if batch:
        yield batch

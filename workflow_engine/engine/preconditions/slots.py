"""Slots of limits: an execution or attempt takes those that it needs before a node runs, or waits for them.

The process that runs an attempt renews its slots beside it. If the process dies, or stands still for longer
than their lease, they are freed, and granted to the next in line.
"""

from __future__ import annotations

import threading
from contextlib import suppress

from workflow_engine.engine.hop import Hop
from workflow_engine.engine.steps.admission import NotAdmitted
from workflow_engine.engine.stores import Stores
from workflow_engine.errors import DatabaseUnavailable, InvalidValue
from workflow_engine.execution.context import ExecutionContext
from workflow_engine.execution.states import NodeStatus
from workflow_engine.nodes.results import NodeError
from workflow_engine.outages import outages
from workflow_engine.postgres.limits import RENEWAL_INTERVAL, HeldSlots
from workflow_engine.redis.periodic_call import PeriodicCall, call_in_children
from workflow_engine.runner.compiled import CompiledNode
from workflow_engine.runner.limits import slots_of_attempt, slots_of_execution
from workflow_engine.runner.node_run import Outcome


class Slots:
    """The slots of the nodes that this process runs. One instance serves a process."""

    def __init__(self, stores: Stores) -> None:
        self._limits = stores.limits
        self._cache = stores.cache
        self.held: dict[str, HeldSlots] = {}
        """The slots that attempts in this process hold, by the token of their claim."""
        self._changing = threading.Lock()
        self._renewal = PeriodicCall("slot-renewal", RENEWAL_INTERVAL, self._renew_quietly)
        call_in_children(self._forget_parent)

    def taken(self, hop: Hop, compiled: CompiledNode, context: ExecutionContext) -> Outcome | None:
        """Take what the execution and the attempt need. Return the outcome of a node that lacks a slot.

        Raises `NotAdmitted` if the execution lacks one: it stands in line for it now.
        """
        try:
            if hop.lacks_slot:
                self._take_for_execution(hop, context)
            if not compiled.slot_limits or not _begins(hop):
                return None
            wanted = slots_of_attempt(compiled.slot_limits, context)
        except InvalidValue as refusal:
            return hop.failure_outcome(NodeError(type(refusal).__name__, str(refusal)))
        held = HeldSlots(hop.execution_id, hop.node.id, hop.claim.token)
        if not self._limits.take_for_attempt(held.execution_id, held.node_id, wanted, held.token):
            return Outcome(NodeStatus.WAITING, limits=wanted)
        with self._changing:
            self.held[held.token] = held
        self._renewal.start()
        return None

    def stop_renewing(self, hop: Hop) -> None:
        """Stop renewing the slots of a node that has run: its commit has freed them, or their lease ends."""
        self.held.pop(hop.claim.token, None)

    def _take_for_execution(self, hop: Hop, context: ExecutionContext) -> None:
        wanted = slots_of_execution(
            hop.workflow.limits, context.trigger_node_id, context.trigger_data, context.variables
        )
        if not self._limits.take_for_execution(hop.execution_id, wanted):
            # Or a later message would find the context, and begin without a slot.
            _ = self._cache.discard(hop.claim)
            keys = ", ".join(slot.key for slot in wanted)
            raise NotAdmitted(f"the execution waits for a slot of its limits: {keys}")

    def _renew_quietly(self) -> None:
        with suppress(DatabaseUnavailable), outages.watch("renew slots of limits"):
            with self._changing:
                held = list(self.held.values())
            if not held:
                return
            tokens = self._limits.renew(held)
            with self._changing:
                for each in held:
                    # A worker that walks inline takes the slots of the next node under the same token.
                    if each.token not in tokens and self.held.get(each.token) is each:
                        del self.held[each.token]

    def _forget_parent(self) -> None:
        self.held = {}
        self._changing = threading.Lock()


def _begins(hop: Hop) -> bool:
    """Return whether an attempt begins; one that has waited for anything but a slot has kept its slots."""
    return hop.wake is None

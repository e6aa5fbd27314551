"""WorkflowControl: what a person, or a program on their behalf, does to a workflow or one of its triggers."""

from __future__ import annotations

from workflow_engine.engine.context_cache import ExecutionContextCache
from workflow_engine.errors import InvalidValue
from workflow_engine.execution.bounded_texts import checked_note
from workflow_engine.execution.states import TriggerState, WorkflowState
from workflow_engine.postgres.workflows.deployments import Deployments, WorkflowMove
from workflow_engine.postgres.workflows.history import WorkflowEvent
from workflow_engine.postgres.workflows.triggers import TriggerMove, Triggers


class WorkflowControl:
    """Opens and closes workflows and triggers. Every method may raise `DatabaseUnavailable`.

    Those that set breakpoints may raise `CacheUnavailable`; call them again then.

    A change holds from its return on, in every process: each start reads it. It is recorded in
    `workflow_events` with actor and reason. To repeat one changes nothing and records nothing. All raise
    `WorkflowNotFound`, `TriggerNotFound`, or `InvalidValue` for an `actor` or `reason` that cannot be stored.
    """

    def __init__(self, deployments: Deployments, triggers: Triggers, cache: ExecutionContextCache) -> None:
        self._deployments = deployments
        self._triggers = triggers
        self._cache = cache

    def activate(
        self, workflow_id: str, *, reason: str | None = None, actor: str | None = None
    ) -> WorkflowMove:
        """Let a deactivated or archived workflow start executions again; its schedules skip what is past."""
        return self._set_state(workflow_id, WorkflowState.ACTIVE, reason, actor)

    def deactivate(
        self, workflow_id: str, *, reason: str | None = None, actor: str | None = None
    ) -> WorkflowMove:
        """Let no trigger of a workflow start anything. What runs goes on to its end.

        As a child of another workflow it still starts: that decides whether its executions go on.
        """
        return self._set_state(workflow_id, WorkflowState.DEACTIVATED, reason, actor)

    def archive(
        self, workflow_id: str, *, reason: str | None = None, actor: str | None = None
    ) -> WorkflowMove:
        """Deactivate a workflow, and hide it and its finished executions from lists."""
        return self._set_state(workflow_id, WorkflowState.ARCHIVED, reason, actor)

    def pause_trigger(
        self, workflow_id: str, trigger: str, *, reason: str | None = None, actor: str | None = None
    ) -> TriggerMove:
        """Let one trigger start nothing; the others of its workflow go on."""
        note = checked_note(reason, actor)
        return self._triggers.set_state(workflow_id, trigger, TriggerState.PAUSED, **note)

    def resume_trigger(
        self, workflow_id: str, trigger: str, *, reason: str | None = None, actor: str | None = None
    ) -> TriggerMove:
        """Let a paused trigger start executions again; a schedule skips what is past.

        A trigger in ERROR becomes ACTIVE.
        """
        note = checked_note(reason, actor)
        return self._triggers.set_state(workflow_id, trigger, TriggerState.ACTIVE, **note)

    def pause_before(
        self, workflow_id: str, node: str, *, reason: str | None = None, actor: str | None = None
    ) -> tuple[str, ...]:
        """Pause each execution of a workflow whenever this node becomes due; return all its breakpoints.

        It holds for executions that run and for those that start. Where the node is due already, it goes on.
        Raises `InvalidValue` for a node that the current version does not have.
        """
        known = [each.id for each in self._deployments.version(workflow_id).workflow.nodes]
        if node not in known:
            raise InvalidValue("node", f"{workflow_id!r} has no node {node!r}; it has {', '.join(known)}")
        return self._set_breakpoint(workflow_id, node, reason, actor)

    def clear_breakpoints(
        self, workflow_id: str, *, reason: str | None = None, actor: str | None = None
    ) -> None:
        """Remove all breakpoints of a workflow and of its executions; paused ones stay paused."""
        self._set_breakpoint(workflow_id, None, reason, actor)

    def _set_breakpoint(
        self, workflow_id: str, node: str | None, reason: str | None, actor: str | None
    ) -> tuple[str, ...]:
        note = checked_note(reason, actor)
        breakpoints, executions = self._deployments.set_breakpoint(workflow_id, node, **note)
        for execution_id in executions:
            self._cache.remove_from_cache(execution_id)  # it says whether there are any
        return breakpoints

    def audit(self, workflow_id: str) -> list[WorkflowEvent]:
        """Return what operators did to a workflow and its triggers, oldest first."""
        return self._deployments.events(workflow_id)

    def _set_state(
        self, workflow_id: str, state: WorkflowState, reason: str | None, actor: str | None
    ) -> WorkflowMove:
        return self._deployments.set_state(workflow_id, state, **checked_note(reason, actor))

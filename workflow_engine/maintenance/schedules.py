"""Scheduled triggers are fired: one execution for each due time, however many workers look.

What makes a due time start one execution is the idempotency key, `trigger id:due time`. The trigger moves on
to its next time after the start was written: if a worker dies in between, the trigger stays due, and the next
worker finds the same key.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from workflow_engine.errors import (
    BackingServiceUnavailable,
    IdempotencyConflict,
    InvalidValue,
    StartRefused,
    TriggerDataInvalid,
    WorkflowNotFound,
)
from workflow_engine.nodes.trigger.scheduler import SCHEDULED_FOR, SchedulerConfig
from workflow_engine.postgres.workflows.triggers import DueStart, Triggers
from workflow_engine.telemetry.log_events import LogEvent, log_fields

log = logging.getLogger(__name__)

Start = Callable[..., object]
"""Starts an execution: `(workflow_id, trigger_node_id, data, idempotency_key, queue, metadata=, tags=)`."""


def time_to_fire(
    config: SchedulerConfig, first: datetime, now: datetime, grace: timedelta
) -> datetime | None:
    """Return the due time from `first` on to fire next; it is after `now` if none is to be fired yet.

    A time is missed once it is over by more than `grace`. With `skip` missed times are passed over,
    with `latest` all but the last time that has come, with `all` none. None if the schedule has ended.
    """
    match config.missed:
        case "all":
            return first
        case "latest":
            return config.schedule.last_until(now, first=first)
        case "skip":
            return first if now - first <= grace else config.schedule.next_after(now - grace)


class Schedules:
    """Fires scheduled triggers. Methods may raise `DatabaseUnavailable`."""

    def __init__(self, triggers: Triggers, *, grace: float) -> None:
        self._triggers = triggers
        self._grace = timedelta(seconds=grace)

    def fire_due(self, start: Start, *, limit: int = 100) -> int:
        """Start an execution for every due time that has come; return how many, about `limit` at most.

        An execution that was started for this time before counts as started. A time whose start is refused
        for good is logged and passed; any other trouble with one trigger leaves it due and the others
        unharmed. Raise `BackingServiceUnavailable`, after which everything is still due.
        """
        fired = 0
        while fired < limit and (claimed := self._triggers.claim_due(limit - fired)):
            for due in claimed:
                try:
                    fired += self._fire(due, start)
                except BackingServiceUnavailable:
                    raise
                except Exception as error:
                    self._triggers.fail(due, f"{type(error).__name__}: {error}")
                    log.exception(
                        "Trigger %s of %s could not be fired",
                        due.node_id,
                        due.workflow_id,
                        extra=log_fields(
                            LogEvent.SCHEDULE_FAILED,
                            workflow=due.workflow_id,
                            node_id=due.node_id,
                            error=error,
                        ),
                    )
        return fired

    def _fire(self, due: DueStart, start: Start) -> bool:
        config = SchedulerConfig.model_validate(due.config)
        time = time_to_fire(config, due.next_due, due.now, self._grace)
        if time != due.next_due:
            log.warning(
                "Trigger %s of %s missed its times from %s on; catchUp is %s, so %s is next",
                due.node_id,
                due.workflow_id,
                due.next_due,
                config.missed,
                time or "none",
                extra=log_fields(
                    LogEvent.SCHEDULE_MISSED,
                    workflow=due.workflow_id,
                    node_id=due.node_id,
                    missed_from=due.next_due,
                    next_due=time,
                ),
            )
        if time is None or time > due.now:
            self._triggers.move_on(due, time)
            return False
        refusal = _start(due, time, config, start)
        if refusal is not None:
            self._triggers.fail(due, f"it started nothing for {_in_utc(time)}: {refusal}")
        self._triggers.move_on(due, config.schedule.next_after(time), fired=refusal is None)
        return refusal is None


def _in_utc(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _start(due: DueStart, time: datetime, config: SchedulerConfig, start: Start) -> Exception | None:
    """Start the execution of a due time; return why it was refused for good, if it was."""
    scheduled_for = _in_utc(time)
    try:
        start(
            due.workflow_id,
            due.node_id,
            {SCHEDULED_FOR: scheduled_for, **config.data},
            f"{due.trigger_id}:{scheduled_for}",
            due.queue,
            **({"metadata": config.metadata} if config.metadata else {}),
            **({"tags": config.tags} if config.tags else {}),
        )
    except IdempotencyConflict:
        pass  # it was started with the data of the version before
    except (InvalidValue, TriggerDataInvalid, WorkflowNotFound) as refusal:
        log.error(
            "Trigger %s of %s started nothing for %s: %s",
            due.node_id,
            due.workflow_id,
            time,
            refusal,
            extra=log_fields(
                LogEvent.SCHEDULE_REFUSED,
                workflow=due.workflow_id,
                node_id=due.node_id,
                scheduled_for=time,
                error=refusal,
            ),
        )
        return refusal
    except StartRefused:
        return None  # an operator closed it after it was claimed, which took its due time
    return None

"""Decodes what a statement leads to: executions that start or go on, woken nodes, free slots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from workflow_engine.execution.records import DueWait, FollowUps, StartedChild
from workflow_engine.postgres.values import instant

REQUEST_WAKE = "SELECT FROM {s}.request_wake_v1(%(executions)s::uuid[])"
"""Has the holder of an execution's lock enqueue what is due after its next commit, also in a walk inline."""


def follow_ups_of(returned: str | Mapping[str, Any] | None) -> FollowUps | None:
    """Return the follow-ups in the JSON that a function in Postgres returned; None if there are none."""
    if returned is None:
        return None
    found = orjson.loads(returned) if isinstance(returned, str) else returned
    started = tuple(
        StartedChild(
            each["id"],
            each["workflow_id"],
            each["version"],
            each["trigger_node_id"],
            each["queue"],
            each["priority"],
            instant(each["created_at"]),
            each.get("traceparent"),
        )
        for each in found.get("started", ())
    )
    woken = tuple(
        DueWait(
            each["execution_id"],
            each["workflow_id"],
            each["version"],
            each["node_id"],
            each["seq"],
            each["priority"],
            instant(each["woken_at"]),
            each["queue"],
            traceparent=each.get("traceparent"),
        )
        for each in found.get("woken", ())
    )
    found_all = FollowUps(
        started,
        woken,
        reopened=tuple(found.get("reopened", ())),
        freed=tuple(found.get("freed", ())),
        restarting=tuple(found.get("restarting", ())),
    )
    return found_all if found_all != FollowUps() else None

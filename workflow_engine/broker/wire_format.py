"""The engine's messages in the form of Celery's protocol 2, and as kombu's Redis transport keeps them.

The script that leaves a node sends the next message in the same call, so the engine has to write what kombu
would: a queue is a list, a message is JSON with its body in Base64. A test compares the two.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

from workflow_engine.execution.messages import Dispatch, HopMessage
from workflow_engine.execution.records import FORMAT
from workflow_engine.telemetry.tracing import TRACEPARENT

TASK_NAME = "workflow_engine.run_node"
FORMAT_HEADER = "workflow_engine_format"
COMMITTED_AT_HEADER = "workflow_engine_committed_at"


def committed_at_of(message: bytes) -> datetime | None:
    """Return the time in the header of a message as kombu keeps it in Redis; None for a foreign message."""
    try:
        time = json.loads(message)["headers"].get(COMMITTED_AT_HEADER)
        return datetime.fromisoformat(time) if time else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def execution_of(message: bytes) -> str | None:
    """Return the execution of a message as kombu keeps it in Redis; None for a foreign message."""
    try:
        return _execution_in(orjson.loads(message))
    except (ValueError, KeyError, TypeError):
        return None


def execution_of_taken(entry: bytes) -> str | None:
    """Return the execution of a message that a worker has taken, as kombu keeps it until it is acknowledged.

    None for a foreign message.
    """
    try:
        return _execution_in(json.loads(entry)[0])
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def _execution_in(message: Any) -> str | None:
    headers = message["headers"]
    return str(headers["root_id"]) if headers["task"] == TASK_NAME else None


def task_body(message: HopMessage) -> tuple[Any, ...]:
    """Return Celery's message body, protocol 2: args, kwargs and an empty embed, as of no canvas."""
    return ((), vars(message), {})


def task_headers(dispatch: Dispatch, task_id: str) -> dict[str, Any]:
    """Return Celery's message headers, protocol 2, without those that would only repeat Celery's defaults.

    `shadow` is the name that Flower and its metrics show. `root_id` groups the tasks of an execution. Flower
    searches `kwargsrepr` for an execution's id.
    """
    message = dispatch.message
    traced = {} if dispatch.traceparent is None else {TRACEPARENT: dispatch.traceparent}
    return {
        **traced,
        "lang": "py",
        "task": TASK_NAME,
        "shadow": f"{message.workflow}/{message.node_id}",
        "id": task_id,
        "root_id": message.execution_id,
        "kwargsrepr": repr({"execution_id": message.execution_id, "seq": message.seq}),
        "ignore_result": True,
        FORMAT_HEADER: FORMAT,
        COMMITTED_AT_HEADER: dispatch.committed_at.isoformat() if dispatch.committed_at else None,
    }


def queued_content(
    body: Any, headers: Mapping[str, Any], message_id: str, queue: str, priority: int
) -> bytes:
    """Return the JSON of a message with a JSON body, as kombu keeps it in Redis."""
    return orjson.dumps(
        {
            "body": b64encode(orjson.dumps(body)).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": {
                "correlation_id": message_id,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "priority": priority,
                "body_encoding": "base64",
                "delivery_tag": message_id,
            },
        }
    )

"""A message as it waits in Redis, for the script that leaves a node: it sends the next one in the same call.

kombu's Redis transport keeps a queue as a list, and a message as JSON with its body in Base64. That form is
what its releases have to agree on; a test holds it against what kombu itself writes.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True)
class QueuedMessage:
    """What is pushed, on the left, onto which list."""

    key: str
    content: bytes


def queued_content(
    body: Any, headers: Mapping[str, Any], message_id: str, queue: str, priority: int
) -> bytes:
    """The JSON that stands for a message with a JSON body."""
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

"""The options of a signature: what they mean for a node, and which of them it cannot have.

Options that only say how Celery sends a message mean nothing here, and are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Refuse = Callable[[str, str], None]
"""Records a problem: an option, and what to do about it."""

WITHOUT_MEANING = frozenset((
    "task_id", "root_id", "parent_id", "group_id", "group_index", "chord", "chain", "chord_size", "reply_to",
    "ignore_result", "serializer", "compression", "delivery_mode", "retry", "retry_policy", "connection",
    "producer", "publisher", "add_to_parent", "origin", "argsrepr", "kwargsrepr", "retries", "use_link",
    "replaced_task_nesting", "route_name", "immediate", "mandatory", "subtask_type", "immutable", "app",
    "correlation_id", "interval", "max_retries",
))  # fmt: skip
"""Options that name a task, or say how its message is sent or its result stored."""

REFUSED = {
    "exchange": "nodes are sent to queues by name; give `queue`",
    "routing_key": "nodes are sent to queues by name; give `queue`",
}


@dataclass(frozen=True)
class Options:
    """What the options of a signature mean for its node."""

    node: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the node: `queue`, `priority`, `timeout`, `queue_timeout`, `label`."""
    soft_time_limit: float | None = None
    countdown: float | None = None
    eta: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    """Message headers and stamps."""


def read_options(given: Mapping[str, Any], refuse: Refuse) -> Options:
    """Return what these options mean, apart from links, which are signatures; `refuse` is told the others."""
    stamps = [str(name) for name in given.get("stamped_headers") or ()]
    node: dict[str, Any] = {}
    known: dict[str, Any] = {}
    for name, value in given.items():
        if value is None or name in WITHOUT_MEANING or name in stamps or name in ("link", "link_error"):
            continue
        if name == "expires":
            known[name] = value
        elif name in REFUSED:
            refuse(name, REFUSED[name])
        elif name in ("countdown", "soft_time_limit", "eta", "headers"):
            known[name] = value
        elif name in _NODE_KEYS:
            key, read = _NODE_KEYS[name]
            node[key] = read(value)
        elif name != "stamped_headers":
            refuse(name, "is no option that a node can have; remove it")
    if "expires" in known:
        node |= _queue_timeout(known["expires"], known.get("countdown") or 0, refuse)
    headers = dict(known.get("headers") or {})
    if stamps:
        headers |= {"stamped_headers": stamps, "stamps": {name: _stamp(given.get(name)) for name in stamps}}
    eta = known.get("eta")
    return Options(
        node,
        known.get("soft_time_limit"),
        max(0.0, known["countdown"]) if "countdown" in known else None,
        eta.isoformat() if isinstance(eta, datetime) else eta,
        headers,
    )


def _queue_timeout(expires: Any, countdown: float, refuse: Refuse) -> dict[str, float]:
    """Return `expires` as the node's `queueTimeout`, whose time begins after the countdown."""
    if isinstance(expires, bool) or not isinstance(expires, int | float):
        refuse(
            "expires",
            "a shape has no point in time; give the seconds that it may stand in its queue",
        )
    elif expires <= countdown:
        refuse("expires", f"it is over before the countdown of {countdown:g} s is; give more seconds")
    else:
        return {"queue_timeout": expires - countdown}
    return {}


def _stamp(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | set | frozenset) else [value]


_NODE_KEYS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "queue": ("queue", lambda queue: getattr(queue, "name", queue)),
    "priority": ("priority", int),
    "time_limit": ("timeout", float),
    "shadow": ("label", str),
}

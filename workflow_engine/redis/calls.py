"""The calls that enter and leave nodes: what each is given, and those that were sent and not answered yet."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from workflow_engine.execution.messages import QueuedMessage
from workflow_engine.redis.cached_context import OUTPUT, PATH
from workflow_engine.redis.client import Reply
from workflow_engine.redis.lock import Claim


class Entry(NamedTuple):
    """What a message says of the node that it enters, under a claim of its own."""

    claim: Claim
    node_id: str
    seq: int
    needs: Sequence[str]


class Part(NamedTuple):
    """One of several nodes that are left together, and what its commit has changed."""

    claim: Claim
    committed: int
    """The `seq` of its commit."""
    changed: Mapping[bytes, Any]


class Leaving(NamedTuple):
    """The call that leaves a node after its commit."""

    claim: Claim
    call: tuple[Any, ...]
    has_message: bool
    """It sends the message for the next node."""


class SentLeaving(NamedTuple):
    """A call that leaves a node, whose reply is still to come."""

    reply: Reply
    has_message: bool


class SentEntry(NamedTuple):
    """A call that enters a node, whose reply is still to come."""

    entry: Entry
    reply: Reply


class SentAhead(NamedTuple):
    """Calls that were sent together, without waiting for their replies."""

    leaving: Sequence[SentLeaving]
    entry: SentEntry | None


def leaving_arguments(
    entered: int, committed: int, changed: Mapping[bytes, Any], message: QueuedMessage | None
) -> list[Any]:
    """Return the arguments of the script that leaves a node, but for the claim."""
    content = message.content if message is not None else b""
    return [entered, committed, content, *itertools.chain.from_iterable(changed.items())]


def values_of_fields(changed: Mapping[bytes, Any], *, is_own: bool) -> list[Any]:
    """Return field, value, … of those that belong to a commit of their own, or to the latest one."""
    pairs = (each for each in changed.items() if each[0].startswith((OUTPUT, PATH)) is is_own)
    return list(itertools.chain.from_iterable(pairs))

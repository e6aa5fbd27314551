"""The form of a cached context: one hash per execution, of which a hop reads and writes only what it needs.

Its fields are `seq`, `fence`, `walk`, `variables`, `identity` (the ids and metadata that never change),
`current` (the node committed last), `output:{node id}` for every output and `path:{seq}` for every step; the
cache adds `size` and `mark`. Pure functions: they say what stands in Redis, the cache puts it there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from workflow_engine.context import ExecutionContext
from workflow_engine.execution_records import Snapshot

OUTPUT = b"output:"
PATH = b"path:"


@dataclass(frozen=True)
class CachedContext:
    """A context as far as one hop reads it."""

    execution_id: str
    seq: int
    fence: str
    walk: bytes
    stored_seq: int
    """The seq at which the context stands in Redis: behind `seq` while a worker walks inline."""
    variables: bytes
    """As JSON: the node is given a copy of its own, so that what it does to it is not kept."""
    identity: Mapping[str, Any]
    outputs: Mapping[str, Any] = field(default_factory=dict)
    """The outputs that were asked for and exist."""
    absent: frozenset[str] = frozenset()
    """The nodes whose output was asked for and does not exist."""
    mark: bytes | None = None
    """The claim of a holder who vanished while it ran a node."""
    unstored: Mapping[bytes, Any] = field(default_factory=dict)
    """The fields that commits have changed since the context was stored, of a walk inline."""


def step_fields(
    committed: int,
    node_id: str,
    fence: str,
    walk: bytes,
    output: bytes | None,
    variables: bytes | None,
    *,
    begins_visit: bool = True,
) -> dict[bytes, Any]:
    """The fields of a cached context that one commit changes. A visit stands in the path once."""
    changed: dict[bytes, Any] = {b"fence": fence, b"walk": walk, b"current": node_id}
    if begins_visit:
        changed[PATH + str(committed).encode()] = node_id
    if output is not None:
        changed[OUTPUT + node_id.encode()] = output
    if variables is not None:
        changed[b"variables"] = variables
    return changed


def context_fields(snapshot: Snapshot, walk: bytes) -> dict[bytes, Any]:
    """The fields of the cached context that a snapshot of Postgres stands for."""
    variables: dict[str, Any] = {}
    fields: dict[bytes, Any] = {}
    visits: set[tuple[str, int]] = set()
    for row in snapshot.journal:
        variables.update(row.variables or {})
        if (row.entry.node_id, row.entry.visit) not in visits:
            visits.add((row.entry.node_id, row.entry.visit))
            fields[PATH + str(row.entry.seq).encode()] = row.entry.node_id
        if row.output is not None:
            fields[OUTPUT + row.entry.node_id.encode()] = row.output
    identity = {
        "workflowId": snapshot.workflow_id,
        "version": snapshot.version,
        "triggerId": snapshot.trigger_id,
        "triggerNodeId": snapshot.trigger_node_id,
        "priority": snapshot.priority,
        "metadata": snapshot.metadata,
    }
    return {
        b"seq": snapshot.seq,
        b"fence": snapshot.fence,
        b"walk": walk,
        b"variables": orjson.dumps(variables),
        b"identity": orjson.dumps(identity),
        b"current": snapshot.journal[-1].entry.node_id,
        **fields,
    }


def rebuilt_context(snapshot: Snapshot, walk: bytes, needs: Sequence[str]) -> CachedContext:
    """What entering a node would have read, had the snapshot's context been cached."""
    fields = context_fields(snapshot, walk)
    encoded = {node_id: fields.get(OUTPUT + node_id.encode()) for node_id in needs}
    outputs = {node_id: orjson.loads(value) for node_id, value in encoded.items() if value is not None}
    return CachedContext(
        execution_id=snapshot.execution_id,
        seq=snapshot.seq,
        fence=snapshot.fence,
        walk=walk,
        stored_seq=snapshot.seq,
        variables=fields[b"variables"],
        identity=orjson.loads(fields[b"identity"]),
        outputs=outputs,
        absent=frozenset(needs) - outputs.keys(),
    )


def context_of(execution_id: str, fields: Mapping[bytes, Any]) -> ExecutionContext:
    """The whole context that the fields stand for."""
    identity = orjson.loads(fields[b"identity"])
    steps = sorted((int(name[len(PATH) :]), value) for name, value in fields.items() if name.startswith(PATH))
    path = [_text(node_id) for _, node_id in steps]
    return ExecutionContext(
        execution_id=execution_id,
        workflow_id=identity["workflowId"],
        trigger_id=identity["triggerId"],
        trigger_node_id=identity["triggerNodeId"],
        current_node_id=_text(fields[b"current"]),
        node_outputs={
            name[len(OUTPUT) :].decode(): orjson.loads(value)
            for name, value in fields.items()
            if name.startswith(OUTPUT)
        },
        variables=orjson.loads(fields[b"variables"]),
        metadata={**identity["metadata"], "executionPath": path},
    )


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value

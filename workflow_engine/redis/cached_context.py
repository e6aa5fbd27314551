"""The form of a cached context: one hash per execution, of which a hop reads and writes only what it needs.

Its fields are `seq`, `fence`, `walk`, `variables`, `identity` (the ids and metadata that never change) and
`current` (the node committed last). There is an `output:{node id}` for every output, a `path:{seq}` for every
step, and `crashes` if nodes have any. The cache adds `size` and `mark`. Pure functions: they define the
content, and the cache stores it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from workflow_engine.execution.context import ExecutionContext
from workflow_engine.execution.messages import UUID
from workflow_engine.execution.records import Crashes, Snapshot
from workflow_engine.json_values import decode, encode
from workflow_engine.redis.results import Abandoned

OUTPUT = b"output:"
PATH = b"path:"


@dataclass(frozen=True)
class CachedContext:
    """The part of a context that one hop reads."""

    execution_id: str
    seq: int
    fence: str
    walk: bytes
    stored_seq: int
    """The seq of the context in Redis: behind `seq` while a worker walks inline."""
    variables: bytes
    """As JSON, so that each node decodes a copy of its own and cannot change the original."""
    identity: Mapping[str, Any]
    outputs: Mapping[str, Any] = field(default_factory=dict)
    """The requested outputs that exist."""
    encoded: dict[str, bytes] = field(default_factory=dict)
    """The JSON of outputs that were read before, by node id: the nodes of an inline walk share it, and each
    decodes copies of its own. What one of them has to fetch is added."""
    absent: frozenset[str] = frozenset()
    """The nodes whose output was requested and does not exist."""
    abandoned: Abandoned | None = None
    """A run of the node, or if nodes run one at a time of any node, whose process vanished."""
    crashes: Mapping[str, Crashes] = field(default_factory=dict)
    """The crashes of each node since its last commit, by node id."""
    unstored: Mapping[bytes, Any] = field(default_factory=dict)
    """The fields that an inline walk has changed and not yet stored in Redis."""

    @property
    def may_have_breakpoints(self) -> bool:
        """Whether the execution may have to pause before a node; an older worker does not say."""
        return bool(self.identity.get("breakpoints", True))


def progress_fields(fence: str, walk: bytes, node_id: str) -> dict[bytes, Any]:
    """Return the fields of a cached context that every commit replaces, besides `seq`."""
    return {b"fence": fence, b"walk": walk, b"current": node_id}


def content_fields(
    committed: int,
    node_id: str,
    output: bytes | None,
    variables: bytes | None,
    *,
    begins_visit: bool = True,
) -> dict[bytes, Any]:
    """Return the fields that one commit adds or replaces beside those. The path has each visit once."""
    changed: dict[bytes, Any] = {}
    if begins_visit:
        changed[PATH + str(committed).encode()] = node_id
    if output is not None:
        changed[OUTPUT + node_id.encode()] = output
    if variables is not None:
        changed[b"variables"] = variables
    return changed


def context_fields(snapshot: Snapshot, walk: bytes) -> dict[bytes, Any]:
    """Return the fields of the cached context that corresponds to a snapshot of Postgres."""
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
        "queue": snapshot.queue,
        "priority": snapshot.priority,
        "metadata": snapshot.metadata,
        "breakpoints": snapshot.has_breakpoints,
    }
    return {
        b"seq": snapshot.seq,
        b"fence": snapshot.fence,
        b"walk": walk,
        b"variables": encode(variables),
        b"identity": encode(identity),
        b"current": snapshot.journal[-1].entry.node_id,
        **crash_fields(snapshot.crashes),
        **fields,
    }


def crash_fields(crashes: Mapping[str, Crashes]) -> dict[bytes, Any]:
    """Return the field for these crashes; no field if there are none."""
    if not crashes:
        return {}
    return {b"crashes": encoded_crashes(crashes)}


def encoded_crashes(crashes: Mapping[str, Crashes]) -> bytes:
    """Return the crashes of each node as JSON."""
    return encode({node_id: asdict(each) for node_id, each in crashes.items()})


IDENTITY = frozenset(("workflowId", "version", "triggerId", "triggerNodeId", "priority", "metadata"))


def read_context(
    execution_id: str,
    fixed: Sequence[Any],
    needs: Sequence[str],
    outputs: Mapping[str, bytes],
    abandoned: Abandoned | None,
) -> CachedContext:
    """Return the context from the values that entering a node has read.

    `fixed` are the values of `seq`, `fence`, `walk` and so on. Raises ValueError, TypeError, KeyError or
    AttributeError for values that this module has not written. Admission decodes the walk, not this.
    """
    seq, fence, walk, variables, identity, crashes = fixed
    decoded = decode(identity)
    if not decoded.keys() >= IDENTITY:
        raise KeyError(f"identity lacks {', '.join(IDENTITY - decoded.keys())}")
    if variables != b"{}" and not isinstance(decode(variables), dict):
        raise ValueError("variables are no object")
    found = {node_id: decode(value) for node_id, value in outputs.items()}
    return CachedContext(
        execution_id=execution_id,
        seq=int(seq),
        fence=_fence(fence),
        walk=walk,
        stored_seq=int(seq),
        variables=variables,
        identity=decoded,
        outputs=found,
        encoded=dict(outputs),
        absent=frozenset(needs) - found.keys(),
        abandoned=abandoned,
        crashes=Crashes.from_json(decode(crashes)) if crashes else {},
    )


def rebuilt_context(snapshot: Snapshot, walk: bytes, needs: Sequence[str]) -> CachedContext:
    """Return what entering a node would have read, had the snapshot's context been cached."""
    fields = context_fields(snapshot, walk)
    encoded = {row.entry.node_id: row.output for row in snapshot.journal if row.output is not None}
    outputs = {node_id: decode(encoded[node_id]) for node_id in needs if node_id in encoded}
    return CachedContext(
        execution_id=snapshot.execution_id,
        seq=snapshot.seq,
        fence=snapshot.fence,
        walk=walk,
        stored_seq=snapshot.seq,
        variables=fields[b"variables"],
        identity=decode(fields[b"identity"]),
        outputs=outputs,
        encoded=encoded,
        absent=frozenset(needs) - outputs.keys(),
        crashes=snapshot.crashes,
    )


def context_of(execution_id: str, fields: Mapping[bytes, Any]) -> ExecutionContext:
    """Return the whole context of the fields, its outputs in the order of their node ids."""
    identity = decode(fields[b"identity"])
    steps = sorted((int(name[len(PATH) :]), value) for name, value in fields.items() if name.startswith(PATH))
    path = [_text(node_id) for _, node_id in steps]
    return ExecutionContext(
        execution_id=execution_id,
        workflow_id=identity["workflowId"],
        trigger_id=identity["triggerId"],
        trigger_node_id=identity["triggerNodeId"],
        current_node_id=_text(fields[b"current"]),
        node_outputs={
            name[len(OUTPUT) :].decode(): decode(value)
            for name, value in sorted(fields.items())
            if name.startswith(OUTPUT)
        },
        variables=decode(fields[b"variables"]),
        metadata=dict(sorted({**identity["metadata"], "executionPath": path}.items())),
    )


def _fence(value: bytes) -> str:
    if UUID.fullmatch(fence := value.decode()) is None:
        raise ValueError(f"{value!r} is no fence")
    return fence


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value

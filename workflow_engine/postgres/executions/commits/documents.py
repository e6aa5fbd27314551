"""Encodes a commit for `commit_node`, and decodes its result and rows of the journal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import orjson

from workflow_engine.definition.workflow import ORDINARY
from workflow_engine.errors import ExecutionNotFound
from workflow_engine.execution.records import (
    CommitResult,
    Iteration,
    JournalRow,
    NewChildren,
    NewRow,
    NewWait,
    NodeCommit,
)
from workflow_engine.execution.states import ExecutionStatus, NodeStatus, WaitStatus
from workflow_engine.execution.walk import JournalEntry
from workflow_engine.json_values import decode_jsonb, encode_jsonb
from workflow_engine.postgres.database import Row
from workflow_engine.postgres.executions.creation import failure_document, slot_documents, start_document
from workflow_engine.postgres.executions.follow_ups import follow_ups_of
from workflow_engine.postgres.values import instant


def commit_document(commit: NodeCommit, claim_lease: float, *, names_fence: bool = True) -> str:
    """Return the document for `commit_node`, without empty fields."""
    is_failed = commit.execution_status is ExecutionStatus.FAILED
    first = commit.before[0] if commit.before else commit
    document = {
        "execution_id": commit.execution_id,
        "fence": first.fence if names_fence else None,
        "execution_status": commit.execution_status,
        "ends": commit.execution_status.is_finished or None,
        "error": commit.error,
        "error_details": commit.error_details,
        "execution_error": {"nodeId": commit.node_id, **(commit.error_details or {})} if is_failed else None,
        "retry_details": commit.retry_details,
        "worker": commit.worker,
        "context": commit.context,
        "due_queue": commit.due_queue,
        "due_priority": commit.due_priority,
        "opens": _wait_document(commit.opens, claim_lease) if commit.opens else None,
        "closes": commit.closes or None,
        "woken_status": commit.woken_status or WaitStatus.CANCELLED if commit.closes else None,
        "limited": commit.is_limited or None,
        "shared_since": commit.shared_since,
        "ordered": commit.ordered or None,
        "newly_due": commit.newly_due or None,
        "joins": commit.joins or None,
        "queue_timeouts": dict(commit.queue_timeouts) or None,
        "has_queue_timeout": commit.has_queue_timeout or None,
        "removes_parts": commit.removes_parts or None,
        **_iteration_fields(commit.iteration),
        "on_failure": None if commit.on_failure is None else failure_document(commit.on_failure),
        "blamed": commit.passes_crash_to,
        **(_earlier_rows(commit) if commit.before else {}),
    }
    given = _row_document(commit) | {name: value for name, value in document.items() if value is not None}
    return orjson.dumps(given).decode()


def _earlier_rows(commit: NodeCommit) -> dict[str, Any]:
    now = time.monotonic()
    rows = [
        _row_document(row) | {"place": place, "ago_ms": max(0.0, now - row.ended) * 1000}
        for place, row in enumerate(commit.before)
    ]
    return {"before": rows, "reached": commit.fence}


def _row_document(row: NewRow) -> dict[str, Any]:
    document = {
        "token": row.token,
        "node_id": row.node_id,
        "type": row.type,
        "sub_type": row.sub_type,
        "visit": row.visit,
        "attempt": row.attempt,
        "status": row.status,
        "handles": _text_array(row.handles),
        "duration_ms": row.duration_ms,
    }
    if row.status.is_final:
        document["is_final"] = True
    if row.label is not None:
        document["label"] = row.label
    if row.variables is not None:
        document["variables"] = orjson.Fragment(row.variables)
    if row.input_data is not None:
        document["input_data"] = orjson.Fragment(row.input_data)
    if row.output is not None:
        document["output"] = orjson.Fragment(row.output)
    if row.logs is not None:
        document["logs"] = orjson.Fragment(row.logs)
    return document


def _text_array(texts: Sequence[str]) -> str:
    """Write texts as Postgres writes an array of them, which it reads faster than one in JSON."""
    if texts == (ORDINARY,):
        return '{""}'
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{text}"' for text in quoted) + "}"


def _wait_document(wait: NewWait, claim_lease: float) -> dict[str, Any]:
    return {
        "lease": claim_lease,
        "type": wait.type,
        "correlation_id": wait.correlation_id,
        "resume_at": wait.resume_at.isoformat() if wait.resume_at else None,
        "resume_in": wait.resume_in,
        "expires_in": wait.expires_in,
        "details": wait.details,
        **_code_fields(wait),
        **({"limits": slot_documents(wait.limits)} if wait.limits else {}),
        **(_children_fields(wait.children, claim_lease) if wait.children is not None else {}),
    }


def _iteration_fields(iteration: Iteration | None) -> dict[str, Any]:
    if iteration is None:
        return {}
    goes_on = {"goes_on": True} if iteration.goes_on else {}
    return {"wait_seq": iteration.wait_seq, "iteration": iteration.index, **goes_on}


def _code_fields(wait: NewWait) -> dict[str, Any]:
    if wait.needs is None:
        return {}
    return {"needs": wait.needs, "needed_for": wait.needed_for, "again_in": wait.again_in}


def _children_fields(children: NewChildren, claim_lease: float) -> dict[str, Any]:
    plan = {
        "lease": claim_lease,
        "start": start_document(children.start),
        "total": children.total,
        "first": children.first,
        "concurrency": children.concurrency,
        "tolerated": children.tolerated,
        "items": children.has_items or None,
        "batch": children.batch,
        "adapts": children.adapts or None,
        "item_variable": children.item_variable,
        "index_variable": children.index_variable,
        "outlives": children.outlives_parent or None,
    }
    return {
        "children": {name: value for name, value in plan.items() if value is not None},
        "deepest": children.deepest,
        "most": children.most,
        **({"children_in": children.starts_in} if children.starts_in is not None else {}),
    }


def commit_result(commit: NodeCommit, row: Row) -> CommitResult:
    """Decode the result of `commit_node`. Raises `ExecutionNotFound`."""
    if row[0] is None:
        raise ExecutionNotFound(commit.execution_id)
    accepted, seq, status, fence, wake_requested, committed_at, follow_ups, *since = row[0]
    verdict, missed = since or (None, None)
    return CommitResult(
        accepted == "true",
        int(seq),
        ExecutionStatus(status),
        fence,
        wake_requested == "true",
        instant(int(committed_at)),
        follow_ups_of(follow_ups),
        missed=tuple(map(journal_row, orjson.loads(missed or "[]"))),
        is_behind=verdict == "behind",
    )


def journal_row(columns: Sequence[Any]) -> JournalRow:
    """Decode a row of the journal from its columns in `load_snapshot`."""
    seq, node_id, visit, attempt, status, handles, output, variables, waits, rule = columns
    entry = JournalEntry(
        seq=seq,
        node_id=node_id,
        visit=visit,
        attempt=attempt,
        status=NodeStatus(status),
        handles=tuple(handles),
        waits=waits,
        rule=rule,
    )
    return JournalRow(
        entry, None if output is None else encode_jsonb(output), variables and decode_jsonb(variables)
    )

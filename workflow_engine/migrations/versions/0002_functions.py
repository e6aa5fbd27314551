"""The functions with which every hop commits, and every execution is loaded.

Functions, because Postgres keeps the plans of their statements with the connection, and planning them takes
as long as executing them, or longer. They need no session of their own: behind a pooler in transaction mode
each of the pooler's connections has its plans.
"""

from __future__ import annotations

from alembic import context, op

revision = "0002"
down_revision = "0001"

# One document is given and one array is answered, because both are read faster than a list of arguments and a
# row, which have to be parsed, typed and planned with every call. What the document leaves out is NULL.
# Each statement sees what was committed before it began, so a holder whose own commit went through while this
# one waited for the row finds its token there.
COMMIT_NODE = """
CREATE FUNCTION "{s}".commit_node(given jsonb, OUT answer text[]) LANGUAGE plpgsql AS $$
DECLARE
    given_execution uuid := given->>'execution_id';
    given_token uuid := given->>'token';
    given_status text := given->>'execution_status';
    is_finished boolean := given_status IN ('COMPLETED', 'FAILED', 'CANCELLED');
    is_final boolean := given->>'status' IN ('COMPLETED', 'FAILED');
    began timestamptz := now() - (given->>'duration_ms')::float8 * interval '1 millisecond';
    moved record;
BEGIN
    UPDATE "{s}".executions e SET
        fence = given_token,
        seq = e.seq + 1,
        status = CASE WHEN e.status = 'PAUSED' AND NOT is_finished THEN e.status ELSE given_status END,
        nodes_executed = e.nodes_executed + is_final::int,
        started_at = coalesce(e.started_at, began),
        completed_at = CASE WHEN is_finished THEN now() END,
        duration_ms = CASE WHEN is_finished THEN
            (extract(epoch FROM now() - coalesce(e.started_at, began)) * 1000)::bigint END,
        error = CASE WHEN given_status = 'FAILED' THEN given->>'error' END,
        error_details = given->'execution_error',
        context = coalesce(given->'context', e.context),
        updated_at = now()
    WHERE e.id = given_execution AND e.fence = (given->>'fence')::uuid
        AND e.status NOT IN ('COMPLETED', 'FAILED', 'CANCELLED')
    RETURNING true AS accepted, e.seq, e.status, e.fence, e.attention, e.updated_at INTO moved;

    IF FOUND THEN
        INSERT INTO "{s}".node_executions (
            execution_id, seq, node_id, label, type, sub_type, visit, attempt, status, handles, variables,
            token, input_data, output_data, error, error_details, retry_details, worker, started_at,
            completed_at, duration_ms)
        VALUES (
            given_execution, moved.seq, given->>'node_id', given->>'label', given->>'type',
            given->>'sub_type', (given->>'visit')::int, (given->>'attempt')::int, given->>'status',
            (given->>'handles')::text[], given->'variables', given_token, given->'input_data',
            given->'output', given->>'error', given->'error_details', given->'retry_details',
            given->>'worker', began, CASE WHEN is_final THEN now() END, (given->>'duration_ms')::float8);

        IF given ? 'closes' THEN
            UPDATE "{s}".execution_wait_states w SET
                status = CASE WHEN w.node_id = given->>'node_id' THEN given->>'woken_status'
                    ELSE 'CANCELLED' END,
                resumed_at = now(), resumed_by = given->>'worker'
            WHERE w.execution_id = given_execution AND given->'closes' ? w.node_id
                AND w.status IN ('WAITING', 'RESUMING');
        END IF;

        IF given ? 'opens' THEN
            INSERT INTO "{s}".execution_wait_states (
                execution_id, node_id, seq, visit, wait_type, correlation_id, resume_at, expires_at, details)
            SELECT
                given_execution, given->>'node_id', moved.seq, (given->>'visit')::int, opens->>'type',
                opens->>'correlation_id',
                coalesce((opens->>'resume_at')::timestamptz,
                    now() + (opens->>'resume_in')::float8 * interval '1 second'),
                now() + (opens->>'expires_in')::float8 * interval '1 second', opens->'details'
            FROM (SELECT given->'opens' AS opens) wait;
        END IF;
    ELSE
        SELECT e.fence = given_token AS accepted, e.seq, e.status, e.fence, e.attention, e.updated_at
        INTO moved FROM "{s}".executions e WHERE e.id = given_execution;
        IF NOT FOUND THEN
            RETURN;
        END IF;
    END IF;

    answer := ARRAY[
        moved.accepted::text, moved.seq::text, moved.status, moved.fence::text, moved.attention::text,
        (extract(epoch FROM moved.updated_at) * 1000000)::bigint::text];
END $$
"""

# What there is of the execution stands in every row.
LOAD_SNAPSHOT = """
CREATE FUNCTION "{s}".load_snapshot(given_execution uuid) RETURNS TABLE (
    workflow_id text, version integer, trigger_id text, trigger_node_id text, execution_status text,
    fence text, execution_seq integer, format smallint, priority smallint, losses integer, last_loss text,
    read_at bigint, metadata text, visits text, seq integer, node_id text, visit integer, attempt integer,
    status text, handles text[], output text, variables text, waits boolean
) LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT e.workflow_id, e.workflow_version, e.trigger_id::text, e.trigger_node_id, e.status,
        e.fence::text, e.seq, e.format, e.priority,
        CASE WHEN e.losses_seq = e.seq THEN e.losses ELSE 0 END, e.last_loss,
        (extract(epoch FROM now()) * 1000000)::bigint, e.metadata::text,
        (SELECT jsonb_object_agg(node_id, visit)::text FROM (
            SELECT node_id, max(visit) + 1 AS visit FROM "{s}".node_executions
            WHERE execution_id = given_execution AND superseded_for = 'RERUN' GROUP BY node_id) AS rerun),
        n.seq, n.node_id, n.visit, n.attempt, n.status, n.handles, n.output_data::text, n.variables::text,
        coalesce((n.retry_details->>'waitMs')::bigint > 0, false)
    FROM "{s}".executions e
    JOIN "{s}".node_executions n ON n.execution_id = e.id AND n.superseded_by IS NULL
    WHERE e.id = given_execution
    ORDER BY n.seq;
END $$
"""


def upgrade() -> None:
    schema = context.config.attributes["schema"]
    op.execute(COMMIT_NODE.format(s=schema))
    op.execute(LOAD_SNAPSHOT.format(s=schema))

"""The function with which every hop commits.

A function, because Postgres keeps the plans of its statements with the connection, and planning them takes
as long as executing them. It needs no session of its own: behind a pooler in transaction mode each of the
pooler's connections has its plans.
"""

from __future__ import annotations

from alembic import context, op

revision = "0002"
down_revision = "0001"

# Each statement sees what was committed before it began, so a holder whose own commit went through while
# this one waited for the row finds its token there.
COMMIT_NODE = """
CREATE FUNCTION "{s}".commit_node(
    p_execution_id uuid, p_fence uuid, p_token uuid, p_execution_status text, p_is_finished boolean,
    p_node_id text, p_label text, p_type text, p_sub_type text, p_visit integer, p_attempt integer,
    p_status text, p_is_final boolean, p_handles text[], p_variables jsonb, p_input_data jsonb,
    p_output jsonb, p_error text, p_error_details jsonb, p_execution_error jsonb, p_retry_details jsonb,
    p_worker text, p_duration interval, p_duration_ms bigint, p_context jsonb,
    p_closes text[], p_woken_status text,
    p_wait_type text, p_correlation_id text, p_resume_at timestamptz, p_resume_in interval,
    p_expires_in interval, p_wait_details jsonb,
    OUT accepted boolean, OUT committed_seq integer, OUT committed_status text, OUT present_fence text,
    OUT wants_attention boolean, OUT committed_at timestamptz
) LANGUAGE plpgsql AS $$
BEGIN
    UPDATE "{s}".executions e SET
        fence = p_token,
        seq = e.seq + 1,
        status = CASE WHEN e.status = 'PAUSED' AND NOT p_is_finished THEN e.status
            ELSE p_execution_status END,
        nodes_executed = e.nodes_executed + p_is_final::int,
        started_at = coalesce(e.started_at, now() - p_duration),
        completed_at = CASE WHEN p_is_finished THEN now() END,
        duration_ms = CASE WHEN p_is_finished THEN
            (extract(epoch FROM now() - coalesce(e.started_at, now() - p_duration)) * 1000)::bigint END,
        error = CASE WHEN p_execution_status = 'FAILED' THEN p_error END,
        error_details = CASE WHEN p_execution_status = 'FAILED' THEN p_execution_error END,
        context = coalesce(p_context, e.context),
        updated_at = now()
    WHERE e.id = p_execution_id AND e.fence = p_fence AND e.status NOT IN ('COMPLETED', 'FAILED', 'CANCELLED')
    RETURNING true, e.seq, e.status, e.fence::text, e.attention, e.updated_at
    INTO accepted, committed_seq, committed_status, present_fence, wants_attention, committed_at;

    IF NOT FOUND THEN
        SELECT e.fence = p_token, e.seq, e.status, e.fence::text, e.attention, e.updated_at
        INTO accepted, committed_seq, committed_status, present_fence, wants_attention, committed_at
        FROM "{s}".executions e WHERE e.id = p_execution_id;
        RETURN;
    END IF;

    INSERT INTO "{s}".node_executions (
        execution_id, seq, node_id, label, type, sub_type, visit, attempt, status, handles, variables, token,
        input_data, output_data, error, error_details, retry_details, worker, started_at, completed_at,
        duration_ms)
    VALUES (
        p_execution_id, committed_seq, p_node_id, p_label, p_type, p_sub_type, p_visit, p_attempt, p_status,
        p_handles, p_variables, p_token, p_input_data, p_output, p_error, p_error_details, p_retry_details,
        p_worker, now() - p_duration, CASE WHEN p_is_final THEN now() END, p_duration_ms);

    IF cardinality(p_closes) > 0 THEN
        UPDATE "{s}".execution_wait_states w SET
            status = CASE WHEN w.node_id = p_node_id THEN p_woken_status ELSE 'CANCELLED' END,
            resumed_at = now(), resumed_by = p_worker
        WHERE w.execution_id = p_execution_id AND w.node_id = ANY(p_closes)
            AND w.status IN ('WAITING', 'RESUMING');
    END IF;

    IF p_wait_type IS NOT NULL THEN
        INSERT INTO "{s}".execution_wait_states (
            execution_id, node_id, seq, visit, wait_type, correlation_id, resume_at, expires_at, details)
        VALUES (
            p_execution_id, p_node_id, committed_seq, p_visit, p_wait_type, p_correlation_id,
            coalesce(p_resume_at, now() + p_resume_in), now() + p_expires_in, p_wait_details);
    END IF;
END $$
"""


def upgrade() -> None:
    op.execute(COMMIT_NODE.format(s=context.config.attributes["schema"]))

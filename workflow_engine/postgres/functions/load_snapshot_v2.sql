-- An execution and the rows of its journal that are not superseded; every row repeats the
-- execution's columns. Without outputs and variables it still shows which node is due.
CREATE FUNCTION {s}.load_snapshot_v2(given_execution uuid, with_outputs boolean) RETURNS TABLE (
    workflow_id text, version integer, trigger_id text, trigger_node_id text, execution_status text,
    has_begun boolean, fence text, execution_seq integer, format smallint, queue text, priority smallint,
    crashes jsonb, read_at bigint, metadata text, visits text, slots text,
    has_breakpoints boolean,
    seq integer, node_id text, visit integer, attempt integer, status text, handles text[], output text,
    variables text, waits boolean, rule integer
) LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT concat_ws('#', e.workflow_id, e.body), e.workflow_version, e.trigger_id::text, e.trigger_node_id, e.status,
        e.started_at IS NOT NULL, e.fence::text, e.seq, e.format, e.queue, e.priority,
        e.crashes, (extract(epoch FROM now()) * 1000000)::bigint, e.metadata::text,
        (SELECT jsonb_object_agg(node_id, visit)::text FROM (
            SELECT node_id, max(visit) + 1 AS visit FROM {s}.node_executions
            WHERE execution_id = given_execution AND superseded_for = 'RERUN' GROUP BY node_id) AS rerun),
        (SELECT max(s.status) FROM {s}.limit_slots s WHERE s.execution_id = given_execution AND s.node_id = ''),
        coalesce(cardinality(e.breakpoints), 0) > 0,
        n.seq, n.node_id, n.visit, n.attempt, n.status, n.handles,
        CASE WHEN with_outputs THEN n.output_data::text END,
        CASE WHEN with_outputs THEN n.variables::text END,
        coalesce((n.retry_details->>'waitMs')::bigint > 0, false),
        (n.retry_details->>'rule')::integer
    FROM {s}.executions e
    JOIN {s}.node_executions n ON n.execution_id = e.id AND n.superseded_by IS NULL
    WHERE e.id = given_execution
    ORDER BY n.seq;
END $$

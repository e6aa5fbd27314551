-- Returns what an earlier transaction has started or woken for a wait for children, if it has not begun yet: the
-- reply of that transaction was lost. Returns NULL if there is nothing. To publish it twice is harmless.
CREATE FUNCTION {s}.outstanding_follow_ups_v1(
    given_parent uuid, given_node text, given_visit integer, given_seq integer, OUT follow_ups jsonb
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    started jsonb;
    woken jsonb;
BEGIN
    SELECT jsonb_agg(jsonb_build_object(
        'id', e.id, 'created_at', (extract(epoch FROM e.created_at) * 1000000)::bigint,
        'workflow_id', concat_ws('#', e.workflow_id, e.body), 'version', e.workflow_version,
        'trigger_node_id', e.trigger_node_id, 'queue', e.queue, 'priority', e.priority,
        'traceparent', e.metadata->'traceparent'))
    INTO started FROM {s}.executions e
    WHERE e.parent_execution_id = given_parent AND e.parent_seq = given_seq AND e.status = 'PENDING';

    SELECT jsonb_agg(jsonb_build_object(
        'execution_id', e.id, 'workflow_id', concat_ws('#', e.workflow_id, e.body), 'version', e.workflow_version,
        'node_id', given_node, 'seq', e.seq, 'priority', e.priority, 'queue', e.queue,
        'traceparent', e.metadata->'traceparent',
        'woken_at', (extract(epoch FROM now()) * 1000000)::bigint))
    INTO woken
    FROM {s}.execution_wait_states w JOIN {s}.executions e ON e.id = w.execution_id
    WHERE w.execution_id = given_parent AND w.node_id = given_node AND w.visit = given_visit
        AND w.wait_type = 'CHILDREN' AND w.seq = given_seq AND w.status = 'RESUMING';

    IF started IS NOT NULL OR woken IS NOT NULL THEN
        follow_ups := jsonb_build_object('started', coalesce(started, '[]'), 'woken', coalesce(woken, '[]'));
    END IF;
END $$

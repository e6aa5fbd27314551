-- The context of an execution from its journal, without the journal's own data: outputs and path.
CREATE FUNCTION {s}.context_at_rest_v1(given_execution uuid) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT jsonb_build_object(
            'executionId', e.id,
            'workflowId', concat_ws('#', e.workflow_id, e.body),
            'triggerId', e.trigger_id,
            'triggerNodeId', e.trigger_node_id,
            'currentNodeId', (
                SELECT n.node_id FROM {s}.node_executions n
                WHERE n.execution_id = e.id AND n.superseded_by IS NULL
                ORDER BY n.seq DESC LIMIT 1),
            'variables', coalesce((
                SELECT jsonb_object_agg(v.key, v.value ORDER BY n.seq)
                FROM {s}.node_executions n CROSS JOIN LATERAL jsonb_each(n.variables) v
                WHERE n.execution_id = e.id AND n.superseded_by IS NULL), '{}'),
            'metadata', e.metadata)
        FROM {s}.executions e WHERE e.id = given_execution);
END $$

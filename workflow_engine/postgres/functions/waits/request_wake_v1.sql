-- Requests that the holder of an execution's lock enqueue the nodes whose waits are over: the result of its next
-- commit reports the request. Returns the data of messages for those nodes.
CREATE FUNCTION {s}.request_wake_v1(given_executions uuid[]) RETURNS TABLE (
    id uuid, workflow_id text, workflow_version integer, seq integer, priority smallint, queue text,
    traceparent text
) LANGUAGE sql AS $$
    UPDATE {s}.executions e SET wake_requested = true
    WHERE e.id = ANY(given_executions)
    RETURNING e.id, concat_ws('#', e.workflow_id, e.body), e.workflow_version, e.seq, e.priority, e.queue,
        e.metadata->>'traceparent'
$$

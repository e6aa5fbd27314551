-- Records that an execution is paused because nodes with a breakpoint have become due, and stops the clock of its
-- timeout. The caller has just set the status; nothing is done if it is paused for another reason.
CREATE FUNCTION {s}.pause_at_breakpoint_v1(given_execution uuid, given_due jsonb, given_at timestamptz)
RETURNS void LANGUAGE sql AS $$
    SELECT {s}.restart_queue_time_v1(given_execution, false);
    WITH paused AS (
        UPDATE {s}.executions e SET
            timeout_left = coalesce(extract(epoch FROM e.expires_at - given_at), e.timeout_left),
            expires_at = NULL
        WHERE e.id = given_execution AND given_due ?| e.breakpoints
        RETURNING e.id, e.seq, ARRAY(
            SELECT node FROM jsonb_array_elements_text(given_due) node WHERE node = ANY(e.breakpoints)) AS nodes
    )
    INSERT INTO {s}.execution_events (execution_id, type, seq, actor, reason, payload, created_at)
    SELECT p.id, 'PAUSED', p.seq, 'breakpoint', 'breakpoint before ' || array_to_string(p.nodes, ', '),
        jsonb_build_object('before', p.nodes), clock_timestamp()
    FROM paused p
$$

-- Clears the request for a wake, and returns the nodes of the execution whose waits are over.
CREATE FUNCTION {s}.take_wake_v1(given_execution uuid) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    UPDATE {s}.executions e SET wake_requested = false WHERE e.id = given_execution AND e.wake_requested;
    -- A statement of its own: if the first had to wait for a claimer, this one sees its claims.
    RETURN QUERY
    SELECT w.node_id FROM {s}.execution_wait_states w
    WHERE w.execution_id = given_execution AND w.status = 'RESUMING' AND w.needs IS NULL
    ORDER BY w.seq;
END $$

-- Stores the value of one part of a node's work. Returns false, with nothing stored, if the execution has ended, if
-- the fence does not hold, or if another worker has done the part.
CREATE FUNCTION {s}.save_part_v1(
    given_execution uuid, given_node text, given_visit integer, given_place integer, given_fence uuid,
    given_token text, given_attempt integer, given_value jsonb, OUT is_kept boolean
) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO {s}.node_parts AS p (execution_id, node_id, visit, place, token, attempt, value)
    SELECT e.id, given_node, given_visit, given_place, given_token, given_attempt, given_value
    FROM {s}.executions e
    WHERE e.id = given_execution AND e.completed_at IS NULL AND e.fence = coalesce(given_fence, e.fence)
    -- The reply of the first call may have been lost.
    ON CONFLICT (execution_id, node_id, visit, place) DO UPDATE SET attempt = p.attempt
        WHERE p.token = excluded.token;
    is_kept := FOUND;
END $$

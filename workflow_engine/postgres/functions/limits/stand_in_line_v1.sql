-- Puts an owner into the line for the slots that it needs; rows that it had are replaced. It stands in the line of
-- one key at a time, that of the first slot it lacks; `grant_slots` moves it on. Returns whether it needs any.
CREATE FUNCTION {s}.stand_in_line_v1(given_execution uuid, given_node text, given_limits jsonb) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    needed jsonb := {s}.limits_left_v1(given_execution, given_node, given_limits);
BEGIN
    DELETE FROM {s}.limit_slots s WHERE s.execution_id = given_execution AND s.node_id = given_node;
    INSERT INTO {s}.limit_slots (
        execution_id, node_id, key, concurrency, rate, rate_seconds, status, is_in_line, arrived_at)
    SELECT given_execution, given_node, l.wanted->>'key', (l.wanted->>'concurrency')::integer,
        (l.wanted->>'rate')::integer, (l.wanted->>'seconds')::float8, 'LIMITED', l.place = 1, clock_timestamp()
    FROM jsonb_array_elements(needed) WITH ORDINALITY AS l (wanted, place);
    RETURN FOUND;
END $$

-- Appends the result that an operator gives a node, as `commit_node` would, if the execution has one of the given
-- statuses and the fence of `given`, where it names one. Otherwise returns NULL, with nothing changed.
CREATE FUNCTION {s}.commit_by_hand_v1(
    given jsonb,
    given_sources text[],
    given_event text,
    given_details jsonb,
    given_actor text,
    given_reason text,
    OUT status_before text,
    OUT moved_status text,
    OUT moved_seq integer,
    OUT follow_ups jsonb
) LANGUAGE plpgsql AS $$
DECLARE
    given_execution uuid := given->>'execution_id';
    present_fence uuid;
    committed text[];
BEGIN
    SELECT e.status, e.fence INTO status_before, present_fence
    FROM {s}.executions e
    WHERE e.id = given_execution AND e.status = ANY(given_sources)
        AND e.fence = coalesce((given->>'fence')::uuid, e.fence)
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;

    committed := {s}.commit_node_v2(given || jsonb_build_object('fence', present_fence));
    moved_seq := committed[2];
    moved_status := committed[3];
    follow_ups := committed[7];
    INSERT INTO {s}.execution_events (execution_id, type, seq, actor, reason, payload, created_at)
    VALUES (given_execution, given_event, moved_seq, given_actor, given_reason, given_details, clock_timestamp());
END $$

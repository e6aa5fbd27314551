-- Frees the slots of attempts whose process no longer renews them, and returns the keys that have room for an owner
-- in their line, and the seconds until a rate allows the next one; NULL if no line waits for that.
--
-- Every free slot is granted by the process that freed it. This finds what a process left behind that died in
-- between, what an operator has resumed, and what time has freed.
CREATE FUNCTION {s}.look_at_limits_v1(most integer, OUT open_keys text[], OUT next_in float8)
LANGUAGE plpgsql AS $$
DECLARE
    lost record;
BEGIN
    FOR turn IN 1 .. most LOOP
        SELECT s.execution_id, s.node_id INTO lost
        FROM {s}.limit_slots s JOIN {s}.executions e ON e.id = s.execution_id
        WHERE s.leased_until <= now()
        ORDER BY s.leased_until LIMIT 1
        FOR NO KEY UPDATE OF s, e SKIP LOCKED;
        EXIT WHEN NOT FOUND;
        -- A node that has waited for its slot waits for the next one, in its old place.
        UPDATE {s}.execution_wait_states w SET
            status = 'WAITING', claimed_until = NULL, details = w.details - 'claims' - 'wokenAt'
        WHERE w.execution_id = lost.execution_id AND w.node_id = lost.node_id AND w.wait_type = 'LIMIT'
            AND w.status IN ('WAITING', 'RESUMING');
        IF FOUND THEN
            UPDATE {s}.limit_slots s SET
                status = 'LIMITED', token = NULL, leased_until = NULL, held_since = NULL,
                is_in_line = s.key = (
                    SELECT min(o.key) FROM {s}.limit_slots o
                    WHERE o.execution_id = lost.execution_id AND o.node_id = lost.node_id)
            WHERE s.execution_id = lost.execution_id AND s.node_id = lost.node_id;
        ELSE
            DELETE FROM {s}.limit_slots s
            WHERE s.execution_id = lost.execution_id AND s.node_id = lost.node_id;
        END IF;
    END LOOP;

    WITH RECURSIVE lines AS (
        (SELECT s.key FROM {s}.limit_slots s WHERE s.is_in_line ORDER BY s.key LIMIT 1)
        UNION ALL
        SELECT (SELECT s.key FROM {s}.limit_slots s WHERE s.is_in_line AND s.key > l.key ORDER BY s.key LIMIT 1)
        FROM lines l WHERE l.key IS NOT NULL
    )
    SELECT array_agg(l.key) FILTER (WHERE room.room_in = 0), min(room.room_in) FILTER (WHERE room.room_in > 0)
    INTO open_keys, next_in
    FROM lines l CROSS JOIN LATERAL (
        SELECT s.concurrency, s.rate, s.rate_seconds
        FROM {s}.limit_slots s JOIN {s}.executions e ON e.id = s.execution_id
        WHERE s.key = l.key AND s.is_in_line AND e.status <> 'PAUSED'
        ORDER BY s.arrived_at, s.execution_id, s.node_id LIMIT 1
    ) head CROSS JOIN LATERAL {s}.slot_room_v1(
        l.key, head.concurrency, head.rate, head.rate_seconds, takes => false) room;
END $$

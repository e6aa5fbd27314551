-- Takes all slots that an owner needs, at once, if every key has room and no other owner is in its line. Returns
-- false, with none taken, if one is lacking. Then an execution stands in line; a node's commit will do that for it.
--
-- The slots of an attempt are leased: its process renews them by the token, and a dead one leaks none. Those of an
-- execution last until it ends. Slots that the owner has been granted are taken over.
CREATE FUNCTION {s}.take_slots_v1(
    given_execution uuid, given_node text, given_limits jsonb, given_token uuid, lease float8, OUT is_held boolean
) LANGUAGE plpgsql AS $$
DECLARE
    needed jsonb := {s}.limits_left_v1(given_execution, given_node, given_limits);
    needed_keys text[] := ARRAY(SELECT l->>'key' FROM jsonb_array_elements(needed) l ORDER BY 1);
    own_keys text[];
    wanted record;
BEGIN
    is_held := true;
    IF needed_keys = '{}' THEN
        RETURN;
    END IF;
    PERFORM {s}.lock_limits_v1(needed_keys);
    own_keys := ARRAY(
        SELECT s.key FROM {s}.limit_slots s
        WHERE s.execution_id = given_execution AND s.node_id = given_node AND s.status = 'HELD' ORDER BY 1);
    IF own_keys = needed_keys THEN
        UPDATE {s}.limit_slots s SET token = given_token, leased_until = now() + lease * interval '1 second'
        WHERE s.execution_id = given_execution AND s.node_id = given_node;
        RETURN;
    END IF;
    DELETE FROM {s}.limit_slots s WHERE s.execution_id = given_execution AND s.node_id = given_node;

    FOR wanted IN SELECT * FROM jsonb_to_recordset(needed)
        AS l (key text, concurrency integer, rate integer, seconds float8)
    LOOP
        is_held := is_held
            AND NOT EXISTS (
                SELECT FROM {s}.limit_slots s JOIN {s}.executions e ON e.id = s.execution_id
                WHERE s.key = wanted.key AND s.is_in_line AND e.status <> 'PAUSED')
            AND {s}.slot_room_v1(
                wanted.key, wanted.concurrency, wanted.rate, wanted.seconds, takes => false) IS NOT DISTINCT FROM 0;
    END LOOP;
    IF NOT is_held THEN
        IF given_node = '' THEN
            PERFORM {s}.stand_in_line_v1(given_execution, '', needed);
            -- Its timeout stands still meanwhile.
            UPDATE {s}.executions e SET
                timeout_left = extract(epoch FROM e.expires_at - now()), expires_at = NULL
            WHERE e.id = given_execution AND e.expires_at IS NOT NULL;
        END IF;
        RETURN;
    END IF;
    PERFORM {s}.slot_room_v1(l.key, l.concurrency, l.rate, l.seconds, takes => true)
    FROM jsonb_to_recordset(needed) AS l (key text, concurrency integer, rate integer, seconds float8);
    INSERT INTO {s}.limit_slots (
        execution_id, node_id, key, concurrency, rate, rate_seconds, status, token, leased_until, arrived_at)
    SELECT given_execution, given_node, l.key, l.concurrency, l.rate, l.seconds, 'HELD', given_token,
        now() + lease * interval '1 second', clock_timestamp()
    FROM jsonb_to_recordset(needed) AS l (key text, concurrency integer, rate integer, seconds float8);
END $$

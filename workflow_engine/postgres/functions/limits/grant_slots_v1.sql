-- Grants the free slots of these keys to the owners in line, first come, first served. Returns what is to be
-- published: executions that `started`, those `reopened` in the middle, and nodes that were `woken`.
--
-- An owner takes all its slots at once. If another key than the one in whose line it stands has no room, it moves
-- to that key's line and keeps its place by arrival: so a full key never holds up the lines of others.
--
-- It waits for no row: an owner that is being moved or ended is passed over, and looked at again by the next call.
CREATE FUNCTION {s}.grant_slots_v1(given_keys text[], lease float8, OUT follow_ups jsonb) LANGUAGE plpgsql AS $$
DECLARE
    most_moved CONSTANT integer := 50;  -- owners that one call moves to other lines
    open_keys text[] := '{}';
    locked_keys text[];
    given_key text;
    head record;
    other record;
    lacking text;
    is_alone boolean;
    moved integer := 0;
    started jsonb := '[]';
    reopened jsonb := '[]';
    woken jsonb := '[]';
BEGIN
    -- Without locks at first, since most calls are for a key that is full, or has no line.
    FOREACH given_key IN ARRAY ARRAY(SELECT DISTINCT k FROM unnest(given_keys) k ORDER BY 1) LOOP
        SELECT s.execution_id, s.node_id, s.concurrency, s.rate, s.rate_seconds INTO head
        FROM {s}.limit_slots s JOIN {s}.executions e ON e.id = s.execution_id
        WHERE s.key = given_key AND s.is_in_line AND e.status <> 'PAUSED'
        ORDER BY s.arrived_at, s.execution_id, s.node_id LIMIT 1;
        IF FOUND AND {s}.slot_room_v1(
            given_key, head.concurrency, head.rate, head.rate_seconds, takes => false) IS NOT NULL
        THEN
            open_keys := open_keys || given_key;
            locked_keys := locked_keys || ARRAY(
                SELECT s.key FROM {s}.limit_slots s
                WHERE s.execution_id = head.execution_id AND s.node_id = head.node_id);
        END IF;
    END LOOP;
    locked_keys := locked_keys || open_keys;
    PERFORM {s}.lock_limits_v1(locked_keys);

    FOREACH given_key IN ARRAY open_keys LOOP
        LOOP
            SELECT s.execution_id, s.node_id, s.concurrency, s.rate, s.rate_seconds, e.status INTO head
            FROM {s}.limit_slots s JOIN {s}.executions e ON e.id = s.execution_id
            WHERE s.key = given_key AND s.is_in_line AND e.status <> 'PAUSED'
            ORDER BY s.arrived_at, s.execution_id, s.node_id LIMIT 1
            FOR NO KEY UPDATE OF s, e SKIP LOCKED;
            EXIT WHEN NOT FOUND OR {s}.slot_room_v1(
                given_key, head.concurrency, head.rate, head.rate_seconds, takes => false) IS DISTINCT FROM 0;

            lacking := NULL;
            is_alone := true;
            FOR other IN
                SELECT s.key, s.concurrency, s.rate, s.rate_seconds FROM {s}.limit_slots s
                WHERE s.execution_id = head.execution_id AND s.node_id = head.node_id AND s.key <> given_key
                ORDER BY s.key
            LOOP
                -- Out of order, so without waiting; the holder of that lock looks at the same line.
                is_alone := other.key = ANY(locked_keys) OR pg_try_advisory_xact_lock(
                    hashtextextended('{s}.limit_slots ' || other.key, 0));
                EXIT WHEN NOT is_alone;
                IF {s}.slot_room_v1(other.key, other.concurrency, other.rate, other.rate_seconds, takes => false)
                    IS DISTINCT FROM 0
                THEN
                    lacking := other.key;
                    EXIT;
                END IF;
            END LOOP;
            EXIT WHEN NOT is_alone;
            IF lacking IS NOT NULL THEN
                UPDATE {s}.limit_slots s SET is_in_line = s.key = lacking
                WHERE s.execution_id = head.execution_id AND s.node_id = head.node_id;
                moved := moved + 1;
                EXIT WHEN moved = most_moved;
                CONTINUE;
            END IF;

            PERFORM {s}.slot_room_v1(s.key, s.concurrency, s.rate, s.rate_seconds, takes => true)
            FROM {s}.limit_slots s WHERE s.execution_id = head.execution_id AND s.node_id = head.node_id;
            -- A message that is lost does not free the slot: its wait is claimed again, or its execution rescued.
            UPDATE {s}.limit_slots s SET
                status = 'HELD', is_in_line = false, held_since = clock_timestamp(),
                leased_until = CASE WHEN head.node_id <> '' THEN now() + 10 * lease * interval '1 second' END
            WHERE s.execution_id = head.execution_id AND s.node_id = head.node_id;

            IF head.node_id <> '' THEN
                UPDATE {s}.execution_wait_states w SET
                    status = 'RESUMING', claimed_until = now() + lease * interval '1 second',
                    details = w.details || '{"claims": 1, "timedOut": false}'
                WHERE w.execution_id = head.execution_id AND w.node_id = head.node_id
                    AND w.wait_type = 'LIMIT' AND w.status IN ('WAITING', 'RESUMING');
                SELECT woken || jsonb_build_object(
                    'execution_id', r.id, 'workflow_id', r.workflow_id, 'version', r.workflow_version,
                    'node_id', head.node_id, 'seq', r.seq, 'priority', r.priority, 'queue', r.queue,
                    'woken_at', (extract(epoch FROM now()) * 1000000)::bigint)
                INTO woken FROM {s}.request_wake_v1(ARRAY[head.execution_id]) r;
                CONTINUE;
            END IF;
            -- It begins to move now, for its timeout as well as for the look for stalled executions.
            UPDATE {s}.executions e SET
                updated_at = now(), timeout_left = NULL,
                expires_at = coalesce(now() + e.timeout_left * interval '1 second', e.expires_at)
            WHERE e.id = head.execution_id
            RETURNING e.* INTO other;
            PERFORM {s}.restart_queue_time_v1(head.execution_id, true);
            IF head.status = 'PENDING' THEN
                started := started || jsonb_build_object(
                    'id', other.id, 'created_at', (extract(epoch FROM now()) * 1000000)::bigint,
                    'workflow_id', concat_ws('#', other.workflow_id, other.body), 'version', other.workflow_version,
                    'trigger_node_id', other.trigger_node_id, 'queue', other.queue, 'priority', other.priority);
            ELSE
                reopened := reopened || to_jsonb(other.id);
            END IF;
        END LOOP;
    END LOOP;
    IF started <> '[]' OR reopened <> '[]' OR woken <> '[]' THEN
        follow_ups := jsonb_build_object('started', started, 'reopened', reopened, 'woken', woken);
    END IF;
END $$

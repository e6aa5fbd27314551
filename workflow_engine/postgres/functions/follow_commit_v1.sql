-- Does what few commits bring along, in the transaction of `commit_node`, whose document is `given`: closes waits and
-- opens one, begins and ends the time of nodes in their queues, removes stored parts, and frees slots. Returns what is
-- to be published, added to `follow_ups`, and whether the wait that it opens is over already.
CREATE FUNCTION {s}.follow_commit_v1(
    given jsonb, moved_seq integer, moved_status text, INOUT follow_ups jsonb, OUT is_over boolean
) LANGUAGE plpgsql AS $$
DECLARE
    given_execution uuid := given->>'execution_id';
    waited float8;
    freed jsonb;  -- keys of limits
BEGIN
    -- By this clock alone; then the holder of the lock is to enqueue the node, as for any that was woken.
    is_over := coalesce((given->'opens'->>'resume_at')::timestamptz <= now(), false);

    IF given ? 'opens' THEN
        -- By the wait that this commit closes. A retry starts over: it has not waited yet. Nor has a node
        -- that waited for its code.
        SELECT w.waited_before + extract(epoch FROM now() - w.created_at) INTO waited
        FROM {s}.execution_wait_states w
        WHERE w.execution_id = given_execution AND w.node_id = given->>'node_id'
            AND w.visit = (given->>'visit')::int AND w.status IN ('WAITING', 'RESUMING')
            AND w.wait_type <> 'CODE' AND w.details->'attempt' = given->'opens'->'details'->'attempt';
    END IF;

    IF given ? 'closes' AND NOT given ? 'ends' THEN
        UPDATE {s}.execution_wait_states w SET
            status = CASE WHEN w.node_id = given->>'node_id' THEN given->>'woken_status'
                ELSE 'CANCELLED' END,
            children_due = CASE WHEN w.wait_type = 'CHILDREN' AND (w.details->>'running')::integer > 0
                AND NOT w.children ? 'outlives' THEN now() END,
            resumed_at = now(), resumed_by = given->>'worker'
        WHERE w.execution_id = given_execution AND given->'closes' ? w.node_id
            AND w.status IN ('WAITING', 'RESUMING');
    END IF;

    IF given ? 'opens' THEN
        INSERT INTO {s}.execution_wait_states (
            execution_id, node_id, seq, visit, wait_type, status, needs, needed_until, correlation_id,
            resume_at, expires_at, claimed_until, details, waited_before, children, children_due)
        SELECT
            given_execution, given->>'node_id', moved_seq, (given->>'visit')::int, opens->>'type',
            CASE WHEN is_over OR opens ? 'needs' THEN 'RESUMING' ELSE 'WAITING' END,
            opens->>'needs', now() + (opens->>'needed_for')::float8 * interval '1 second',
            opens->>'correlation_id',
            coalesce((opens->>'resume_at')::timestamptz,
                now() + (opens->>'resume_in')::float8 * interval '1 second'),
            now() + (opens->>'expires_in')::float8 * interval '1 second',
            now() + CASE WHEN is_over THEN (opens->>'lease')::float8 ELSE (opens->>'again_in')::float8 END
                * interval '1 second',
            CASE WHEN is_over THEN opens->'details' || '{"claims": 1, "timedOut": false}'
                ELSE opens->'details' END,
            coalesce(waited, 0), opens->'children',
            now() + (opens->>'children_in')::float8 * interval '1 second'
        FROM (SELECT given->'opens' AS opens) wait;

        IF given->'opens' ? 'children' THEN
            follow_ups := {s}.open_children_v1(
                given_execution, given->>'node_id', (given->>'visit')::integer, moved_seq, given->'opens');
        END IF;
    END IF;

    IF given ? 'has_queue_timeout' THEN
        DELETE FROM {s}.queue_deadlines d
        WHERE d.execution_id = given_execution AND d.node_id = given->>'node_id';
    END IF;
    IF given ? 'queue_timeouts' AND NOT given ? 'ends' THEN
        PERFORM {s}.begin_queue_time_v1(given_execution, given->'queue_timeouts');
        IF moved_status = 'PAUSED' THEN
            PERFORM {s}.restart_queue_time_v1(given_execution, false);
        END IF;
    END IF;

    IF given ? 'removes_parts' THEN
        DELETE FROM {s}.node_parts p
        WHERE p.execution_id = given_execution AND p.node_id = given->>'node_id';
    END IF;

    IF given ? 'limited' AND NOT given ? 'ends' THEN
        freed := {s}.free_slots_v1(given_execution, given);
        IF freed <> '[]' THEN
            follow_ups := coalesce(follow_ups, '{}') || jsonb_build_object('freed', freed);
        END IF;
    END IF;

    IF is_over THEN
        PERFORM {s}.request_wake_v1(ARRAY[given_execution]);
    END IF;
END $$

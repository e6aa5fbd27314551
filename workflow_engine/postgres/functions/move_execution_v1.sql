-- Moves an execution outside of a hop, if it has one of the given statuses and the fence, where one is given.
-- Otherwise returns NULL, with nothing changed.
--
-- A finished child is moved only if its parent still waits for it. `follow_ups` is what is to be published.
--
-- A retry or rerun takes a number of the journal for itself: the one by which rows are superseded.
CREATE FUNCTION {s}.move_execution_v1(
    given_execution uuid,
    given_sources text[],
    given_status text,
    ends boolean,
    takes_fence boolean DEFAULT false,
    given_fence uuid DEFAULT NULL,  -- where the move was worked out from the journal
    given_version integer DEFAULT NULL,
    given_superseded_for text DEFAULT NULL,
    given_superseded integer[] DEFAULT '{}',  -- rows of the journal
    given_waiting integer[] DEFAULT '{}',  -- rows of the journal whose waits are open from now on
    sets_due boolean DEFAULT false,
    given_due_queue text DEFAULT NULL,
    given_due_priority integer DEFAULT NULL,
    given_error text DEFAULT NULL,
    given_event text DEFAULT NULL,
    given_details jsonb DEFAULT NULL,
    given_actor text DEFAULT NULL,
    given_reason text DEFAULT NULL,
    OUT status_before text,
    OUT moved_seq integer,
    OUT follow_ups jsonb
) LANGUAGE plpgsql AS $$
DECLARE
    takes_seq boolean := given_superseded_for IS NOT NULL;
    whole_timeout float8;
    is_child boolean;
    is_finished boolean;
    is_limited boolean;
    reopened record;
    new_fence uuid := gen_random_uuid();
BEGIN
    SELECT e.status, e.seq + takes_seq::int, e.parent_execution_id IS NOT NULL, e.completed_at IS NOT NULL
    INTO status_before, moved_seq, is_child, is_finished
    FROM {s}.executions e
    WHERE e.id = given_execution AND e.status = ANY(given_sources)
        AND e.fence = coalesce(given_fence, e.fence)
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;

    IF ends THEN
        SELECT e.follow_ups INTO follow_ups FROM {s}.end_execution_v1(jsonb_strip_nulls(jsonb_build_object(
            'execution_id', given_execution, 'execution_status', given_status, 'error', given_error,
            'event', given_event, 'actor', given_actor, 'reason', given_reason))) e;
        RETURN;
    END IF;
    IF is_child AND is_finished AND NOT {s}.child_reopened_v1(given_execution) THEN
        status_before := NULL;
        RETURN;
    END IF;

    IF takes_seq THEN
        UPDATE {s}.node_executions n SET superseded_by = moved_seq, superseded_for = given_superseded_for
        WHERE n.execution_id = given_execution AND n.seq = ANY(given_superseded);

        UPDATE {s}.execution_wait_states w
        SET status = 'CANCELLED', resumed_at = now(), resumed_by = given_actor,
            children_due = CASE WHEN w.wait_type = 'CHILDREN' AND (w.details->>'running')::integer > 0
                AND NOT w.children ? 'outlives' THEN now() END
        WHERE w.execution_id = given_execution AND w.seq = ANY(given_superseded)
            AND w.status IN ('WAITING', 'RESUMING');

        -- The events that a superseded wait consumed are kept for the wait that takes its place.
        UPDATE {s}.execution_events v SET consumed_at = NULL, seq = NULL, released_at = clock_timestamp()
        WHERE v.execution_id = given_execution AND v.type = 'EVENT' AND v.seq = ANY(given_superseded);

        -- What they hold of limits, or wait for.
        WITH removed AS (
            DELETE FROM {s}.limit_slots s USING {s}.node_executions n
            WHERE s.execution_id = given_execution AND n.execution_id = given_execution
                AND n.seq = ANY(given_superseded) AND s.node_id = n.node_id
            RETURNING s.key)
        SELECT jsonb_build_object('freed', jsonb_agg(DISTINCT removed.key)) INTO follow_ups
        FROM removed HAVING count(*) > 0;

        SELECT CASE WHEN is_child THEN (
            SELECT (w.children->'start'->>'timeout')::float8 FROM {s}.execution_wait_states w
            WHERE w.execution_id = e.parent_execution_id AND w.node_id = e.parent_node_id
                AND w.visit = e.parent_visit AND w.wait_type = 'CHILDREN' AND w.seq = e.parent_seq)
            ELSE (v.definition->'settings'->>'timeout')::float8 END
        INTO whole_timeout
        FROM {s}.executions e JOIN {s}.workflow_versions v ON v.workflow_id = e.workflow_id
            AND v.version = coalesce(given_version, e.workflow_version)
        WHERE e.id = given_execution;
    END IF;

    -- A wait that was woken keeps `claimed_until` when it is closed, so that it is woken when it is reopened.
    UPDATE {s}.execution_wait_states w SET
        -- A node that stood in line for a slot has lost its place with the end.
        status = CASE WHEN w.status = 'RESUMING' OR w.claimed_until IS NOT NULL OR w.wait_type = 'LIMIT'
            THEN 'RESUMING' ELSE 'WAITING' END,
        claimed_until = CASE WHEN w.status = 'RESUMING' OR w.claimed_until IS NOT NULL OR w.wait_type = 'LIMIT'
            THEN now() END,
        -- A worker that lacks its code parks it again, with the whole timeout.
        needs = NULL,
        needed_until = NULL,
        resumed_at = NULL,
        resumed_by = NULL
    WHERE w.execution_id = given_execution AND w.seq = ANY(given_waiting)
        AND (w.status IN ('CANCELLED', 'RESUMING') OR w.wait_type = 'CODE') AND w.wait_type <> 'CHILDREN';

    -- Counted under the lock of this execution, which the end of every child takes: what has ended by now did so
    -- before, and what has not will be counted by its end.
    FOR reopened IN
        SELECT w.id, w.node_id, w.visit, w.seq, count(c.id) FILTER (WHERE c.completed_at IS NULL) AS running,
            count(*) FILTER (WHERE c.status = 'COMPLETED') AS completed,
            count(*) FILTER (WHERE c.status IN ('FAILED', 'CANCELLED')) AS failed
        FROM {s}.execution_wait_states w
        LEFT JOIN {s}.executions c ON c.parent_execution_id = w.execution_id AND c.parent_seq = w.seq
            AND c.parent_index >= (w.children->>'first')::integer
        WHERE w.execution_id = given_execution AND w.seq = ANY(given_waiting) AND w.wait_type = 'CHILDREN'
            AND w.status NOT IN ('WAITING', 'RESUMING')
        GROUP BY w.id, w.node_id, w.visit, w.seq
    LOOP
        UPDATE {s}.execution_wait_states w SET
            status = 'WAITING', claimed_until = NULL, resumed_at = NULL, resumed_by = NULL,
            expires_at = now() + (w.details->>'expiresIn')::float8 * interval '1 second',
            children_due = CASE WHEN reopened.failed > 0 THEN now() + interval '5 seconds' END,
            details = w.details - 'timedOut' - 'claims' || jsonb_build_object(
                'running', reopened.running, 'completed', reopened.completed, 'failed', 0,
                'restarts', reopened.failed, 'restarting', clock_timestamp())
        WHERE w.id = reopened.id;
    END LOOP;
    UPDATE {s}.execution_wait_states w SET
        claimed_until = CASE WHEN w.status = 'RESUMING' THEN now() END,
        children_due = CASE WHEN w.children_due IS NOT NULL THEN least(w.children_due, now()) END
    WHERE w.execution_id = given_execution AND w.seq = ANY(given_waiting) AND w.wait_type = 'CHILDREN'
        AND w.status IN ('WAITING', 'RESUMING') AND coalesce((w.details->>'restarts')::integer, 0) = 0;

    is_limited := EXISTS (
        SELECT FROM {s}.limit_slots s
        WHERE s.execution_id = given_execution AND s.node_id = '' AND s.status = 'LIMITED');
    UPDATE {s}.executions e SET
        status = given_status,
        workflow_version = coalesce(given_version, e.workflow_version),
        fence = CASE WHEN takes_fence THEN new_fence ELSE e.fence END,
        -- The number that it takes has no row, in which nodes that read this state could find their fence.
        epoch_fence = CASE WHEN takes_seq THEN new_fence ELSE e.epoch_fence END,
        seq = moved_seq,
        started_at = CASE WHEN given_status = 'RUNNING' THEN coalesce(e.started_at, now())
            ELSE e.started_at END,
        completed_at = NULL,
        duration_ms = NULL,
        error = NULL,
        error_details = NULL,
        context = {s}.context_at_rest_v1(e.id),
        crashes = CASE WHEN NOT takes_seq THEN e.crashes END,
        due_queue = CASE WHEN sets_due THEN given_due_queue ELSE e.due_queue END,
        due_priority = CASE WHEN sets_due THEN given_due_priority ELSE e.due_priority END,
        -- A pause stops the timeout. A retry or rerun starts it again in full.
        -- Nor does it run while the execution waits for its slot.
        expires_at = CASE WHEN given_status <> 'PAUSED' AND NOT is_limited THEN CASE
            WHEN takes_seq THEN now() + whole_timeout * interval '1 second'
            ELSE coalesce(now() + e.timeout_left * interval '1 second', e.expires_at) END END,
        timeout_left = CASE WHEN given_status = 'PAUSED' OR is_limited THEN CASE
            WHEN takes_seq THEN whole_timeout
            ELSE coalesce(extract(epoch FROM e.expires_at - now()), e.timeout_left) END END,
        updated_at = now()
    WHERE e.id = given_execution;

    -- A pause stops the time that nodes may stand in their queues, and it begins again with the next move.
    PERFORM {s}.restart_queue_time_v1(given_execution, given_status <> 'PAUSED' AND NOT is_limited);

    IF given_event IS NOT NULL THEN
        -- By the clock, since this transaction may have waited: the history then has the order of the moves.
        INSERT INTO {s}.execution_events (execution_id, type, seq, actor, reason, payload, created_at)
        VALUES (given_execution, given_event, moved_seq, given_actor, given_reason, given_details,
            clock_timestamp());
    END IF;

    FOR reopened IN
        SELECT w.node_id, w.visit, w.seq FROM {s}.execution_wait_states w
        WHERE w.execution_id = given_execution AND w.seq = ANY(given_waiting) AND w.wait_type = 'CHILDREN'
            AND w.status = 'WAITING' AND coalesce((w.details->>'restarts')::integer, 0) = 0
    LOOP
        follow_ups := {s}.go_on_with_children_v1(
            given_execution, reopened.node_id, reopened.visit, reopened.seq, so_far => follow_ups);
    END LOOP;
END $$

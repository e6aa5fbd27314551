-- Ends an execution; nothing else does. Returns its `seq`, or NULL, with nothing changed, if it had ended before
-- or the expected fence does not hold. It replaces the fence: a worker that still runs a node of it is refused.
--
-- A commit that ends it gives its own document, with the rows that come `before` its own. Operators and timeouts give `execution_id`, `execution_status`,
-- `error`, `execution_error`, and for the history `event`, `actor`, `reason`.
--
-- Its duration begins with its first node: without one, `started_at` and `duration_ms` stay NULL.
--
-- The end of a child lets its parent go on, or another child start: `follow_ups` is what is to be published then.
-- It also names the keys of limits whose slots the execution and its nodes have held.
--
-- With `on_failure` the end of a failed execution starts another, or records why it cannot.
CREATE FUNCTION {s}.end_execution_v1(given jsonb, OUT ended_seq integer, OUT follow_ups jsonb)
LANGUAGE plpgsql AS $$
DECLARE
    given_execution uuid := given->>'execution_id';
    given_status text := given->>'execution_status';
    given_actor text := coalesce(given->>'actor', given->>'worker');
    -- Of the nodes of a commit that ends it, the first one, when that began, and how many come before the last.
    first jsonb := coalesce(given->'before'->0, given);
    began timestamptz := now()
        - (coalesce((first->>'ago_ms')::float8, 0) + (first->>'duration_ms')::float8) * interval '1 millisecond';
    earlier integer := coalesce(jsonb_array_length(given->'before'), 0);
    parent uuid;
    child record;
    freed jsonb;
    handler jsonb := given->'on_failure'->'start';
BEGIN
    UPDATE {s}.executions e SET
        status = given_status,
        fence = coalesce((given->>'token')::uuid, gen_random_uuid()),
        seq = e.seq + earlier + (given ? 'node_id')::int,
        nodes_executed = e.nodes_executed + earlier + (given ? 'is_final')::int,
        started_at = coalesce(e.started_at, began),
        completed_at = now(),
        duration_ms = (extract(epoch FROM now() - coalesce(e.started_at, began)) * 1000)::bigint,
        error = CASE WHEN given_status = 'FAILED' THEN given->>'error' END,
        error_details = given->'execution_error',
        context = coalesce(given->'context', {s}.context_at_rest_v1(e.id)),
        crashes = NULL,
        due_queue = NULL,
        due_priority = NULL,
        expires_at = NULL,
        timeout_left = NULL,
        updated_at = now()
    WHERE e.id = given_execution AND e.fence = coalesce((given->>'fence')::uuid, e.fence)
        AND e.completed_at IS NULL
    RETURNING e.seq, e.parent_execution_id INTO ended_seq, parent;
    IF NOT FOUND THEN
        RETURN;
    END IF;

    UPDATE {s}.execution_wait_states w SET
        -- The node of the commit may have been woken from its wait, which is over with it.
        status = coalesce(CASE WHEN w.node_id = given->>'node_id' THEN given->>'woken_status' END, 'CANCELLED'),
        children_due = CASE WHEN w.wait_type = 'CHILDREN' AND (w.details->>'running')::integer > 0
            AND NOT w.children ? 'outlives' THEN now() END,
        resumed_at = now(),
        resumed_by = given_actor
    WHERE w.execution_id = given_execution AND w.status IN ('WAITING', 'RESUMING');

    IF given ? 'event' THEN
        -- By the clock, since this transaction may have waited: the history then has the order of the moves.
        INSERT INTO {s}.execution_events (execution_id, type, seq, actor, reason, created_at)
        VALUES (
            given_execution, given->>'event', ended_seq, given_actor, given->>'reason', clock_timestamp());
    END IF;

    IF given ? 'on_failure' THEN
        INSERT INTO {s}.execution_events (execution_id, type, name, seq, actor, reason, created_at)
        VALUES (
            given_execution, CASE WHEN handler IS NULL THEN 'ON_FAILURE_REFUSED' ELSE 'ON_FAILURE_STARTED' END,
            given->'on_failure'->>'workflow_id', ended_seq, given_actor,
            coalesce(given->'on_failure'->>'refused', 'execution ' || (handler->>'execution_id')),
            clock_timestamp());
    END IF;
    IF handler IS NOT NULL THEN
        follow_ups := jsonb_build_object('started', jsonb_build_array(jsonb_build_object(
            'id', handler->'execution_id', 'created_at', {s}.start_execution_v1(handler),
            'workflow_id', handler->'workflow_id', 'version', handler->'version',
            'trigger_node_id', handler->'trigger_node_id', 'queue', handler->'queue', 'priority', NULL,
            'traceparent', handler->'metadata'->'traceparent')));
        IF handler ? 'limits' THEN
            -- It stands in line. Its first message follows from the slots that are granted.
            SELECT jsonb_build_object('freed', jsonb_agg(l->'key')) INTO follow_ups
            FROM jsonb_array_elements(handler->'limits') l;
        END IF;
    END IF;

    IF parent IS NOT NULL THEN
        SELECT e.parent_node_id, e.parent_visit, e.parent_seq INTO child
        FROM {s}.executions e WHERE e.id = given_execution;
        -- Locks are taken upwards, from child to parent, and of each the execution's row before its waits.
        PERFORM FROM {s}.executions e WHERE e.id = parent FOR NO KEY UPDATE;
        -- A statement of its own: it sees what the holder of that lock has committed.
        follow_ups := {s}.go_on_with_children_v1(
            parent, child.parent_node_id, child.parent_visit, child.parent_seq, ended => given_status,
            ended_child => given_execution, so_far => follow_ups);
    END IF;

    -- A commit says whether there may be any; operators and timeouts do not know.
    IF NOT given ? 'node_id' OR given ? 'limited' THEN
        WITH removed AS (DELETE FROM {s}.limit_slots s WHERE s.execution_id = given_execution RETURNING s.key)
        SELECT jsonb_agg(DISTINCT removed.key) INTO freed FROM removed;
        IF freed IS NOT NULL THEN
            follow_ups := coalesce(follow_ups, '{}')
                || jsonb_build_object('freed', coalesce(follow_ups->'freed', '[]') || freed);
        END IF;
    END IF;
END $$

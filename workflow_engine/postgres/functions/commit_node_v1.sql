-- Appends a node's journal row and moves its execution on, or ends it, if the fence still holds; `given`
-- is a `NodeCommit`, the result a `CommitResult`.
--
-- One document and one array, because both are read faster than a list of arguments and a row, which have to be
-- parsed, typed and planned with every call. A field that the document leaves out is NULL. Each statement sees what was
-- committed before it began: if the holder's own commit went through while this one waited for the row, it finds
-- its token there.
--
-- Where nodes of the execution may run at the same time, the row is appended behind those of siblings.
CREATE FUNCTION {s}.commit_node_v1(given jsonb, OUT result text[]) LANGUAGE plpgsql AS $$
DECLARE
    given_execution uuid := given->>'execution_id';
    given_token uuid := given->>'token';
    given_status text := given->>'execution_status';
    is_final boolean := given ? 'is_final';
    -- By this clock alone; then the holder of the lock is to enqueue the node, as for any that was woken.
    is_over boolean := coalesce((given->'opens'->>'resume_at')::timestamptz <= now(), false);
    began timestamptz := now() - (given->>'duration_ms')::float8 * interval '1 millisecond';
    waited float8;
    -- Of siblings' commits that the node has not seen, if there are any.
    verdict text;
    latest_fence uuid;
    own_seq integer;
    missed text;
    -- The result.
    accepted boolean := true;
    moved_seq integer;
    moved_status text := given_status;
    moved_fence uuid := given_token;
    wakes boolean := false;
    moved_at timestamptz := now();
    -- Of children that it starts, or of the parent of one that it ends.
    follow_ups jsonb;
    parent uuid;
    parent_node text;
    parent_visit integer;
    parent_seq integer;
    freed jsonb;  -- keys of limits
BEGIN
    LOOP
        IF given ? 'ends' THEN
            SELECT e.ended_seq, e.follow_ups INTO moved_seq, follow_ups FROM {s}.end_execution_v1(given) e;
        ELSE
            UPDATE {s}.executions e SET
                fence = given_token,
                seq = e.seq + 1,
                status = CASE WHEN e.status = 'PAUSED' OR given->'newly_due' ?| e.breakpoints THEN 'PAUSED'
                    ELSE given_status END,
                nodes_executed = e.nodes_executed + is_final::int,
                started_at = coalesce(e.started_at, began),
                context = coalesce(given->'context', e.context),
                crashes = nullif(e.crashes - (given->>'node_id'), '{}'),
                due_queue = given->>'due_queue',
                due_priority = (given->>'due_priority')::smallint,
                updated_at = moved_at
            WHERE e.id = given_execution AND e.fence = (given->>'fence')::uuid AND e.completed_at IS NULL
            RETURNING e.seq, e.status, e.wake_requested INTO moved_seq, moved_status, wakes;
        END IF;

        EXIT WHEN moved_seq IS NOT NULL OR verdict IS NOT NULL OR NOT given ? 'shared_since';
        SELECT m.verdict, m.fence, m.seq, m.missed INTO verdict, latest_fence, own_seq, missed
        FROM {s}.missed_commits_v1(given) m;
        EXIT WHEN verdict IS DISTINCT FROM 'append';
        -- Behind those of siblings, so what is due now is not known here: whether it rests is settled afterwards.
        -- So is which joins are due: any that may be has to be stopped at.
        given := given - 'context' || jsonb_build_object('fence', latest_fence, 'newly_due',
            coalesce(given->'newly_due', '[]') || coalesce(given->'joins', '[]'));
        IF given_status <> 'FAILED' THEN
            given := given - 'ends';
            given_status := 'RUNNING';
        END IF;
    END LOOP;

    IF moved_seq IS NOT NULL THEN
        INSERT INTO {s}.node_executions (
            execution_id, seq, node_id, label, type, sub_type, visit, attempt, status, handles, variables,
            token, input_data, output_data, error, error_details, retry_details, worker, started_at,
            completed_at, duration_ms, logs)
        VALUES (
            given_execution, moved_seq, given->>'node_id', given->>'label', given->>'type',
            given->>'sub_type', (given->>'visit')::int, (given->>'attempt')::int, given->>'status',
            (given->>'handles')::text[], given->'variables', given_token, given->'input_data',
            given->'output', given->>'error', given->'error_details', given->'retry_details',
            given->>'worker', began, CASE WHEN is_final THEN now() END, (given->>'duration_ms')::float8,
            given->'logs');

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
            wakes := true;
        END IF;

        IF moved_status = 'PAUSED' AND given ? 'newly_due' THEN
            PERFORM {s}.pause_at_breakpoint_v1(given_execution, given->'newly_due', moved_at);
        END IF;

        IF moved_status <> 'RUNNING' AND NOT given ? 'context' THEN
            -- The worker did not know that an operator has paused the execution.
            UPDATE {s}.executions e SET context = {s}.context_at_rest_v1(e.id) WHERE e.id = given_execution;
        END IF;
    ELSE
        SELECT e.fence = given_token, e.seq, e.status, e.fence, e.wake_requested, e.updated_at,
            CASE WHEN given ? 'ends' THEN e.parent_execution_id END, e.parent_node_id, e.parent_visit,
            e.parent_seq
        INTO accepted, moved_seq, moved_status, moved_fence, wakes, moved_at, parent, parent_node, parent_visit,
            parent_seq
        FROM {s}.executions e WHERE e.id = given_execution;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        IF verdict = 'accepted' THEN
            accepted := true;
            moved_seq := own_seq;
            moved_fence := given_token;
        END IF;
        -- This commit is repeated: the first reply, and what followed from it, may have been lost.
        IF accepted AND parent IS NOT NULL THEN
            follow_ups := {s}.outstanding_follow_ups_v1(parent, parent_node, parent_visit, parent_seq);
        ELSIF accepted AND given->'opens' ? 'children' THEN
            follow_ups := {s}.outstanding_follow_ups_v1(
                given_execution, given->>'node_id', (given->>'visit')::int, moved_seq);
        END IF;
    END IF;

    result := ARRAY[
        accepted::text, moved_seq::text, moved_status, moved_fence::text, wakes::text,
        (extract(epoch FROM moved_at) * 1000000)::bigint::text, follow_ups::text];
    IF verdict IS NOT NULL THEN
        result := result || ARRAY[verdict, missed];
    END IF;
END $$

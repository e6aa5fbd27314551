-- Appends a node's journal row and moves its execution on, or ends it, if the fence still holds; `given`
-- is a `NodeCommit`, the result a `CommitResult`.
--
-- One document and one array, because both are read faster than a list of arguments and a row, which have to be
-- parsed, typed and planned with every call. A field that the document leaves out is NULL. Each statement sees what was
-- committed before it began: if the holder's own commit went through while this one waited for the row, it finds
-- its token there.
--
-- `before` has the rows of pure nodes, which have run one after the other without a commit: all rows are appended or
-- none. Each has its own number and token, as if it had been committed alone. `fence` is then that of the context that
-- the first of them ran with, and `reached` the one that they lead to. What ends, waits or stands in line is the last
-- node's affair: the earlier ones are COMPLETED, and something was due after each. A crash that was counted for the
-- last node may be passed on to the next one (`blamed`).
--
-- Where nodes of the execution may run at the same time, the row is appended behind those of siblings.
CREATE FUNCTION {s}.commit_node_v2(given jsonb, OUT result text[]) LANGUAGE plpgsql AS $$
DECLARE
    given_execution uuid := given->>'execution_id';
    given_token uuid := given->>'token';
    given_status text := given->>'execution_status';
    is_final boolean := given ? 'is_final';
    earlier integer := coalesce(jsonb_array_length(given->'before'), 0);
    first jsonb := coalesce(given->'before'->0, given);
    began timestamptz := now()
        - (coalesce((first->>'ago_ms')::float8, 0) + (first->>'duration_ms')::float8) * interval '1 millisecond';
    rows jsonb;
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
BEGIN
    IF given ? 'blamed' THEN
        UPDATE {s}.executions e SET crashes = e.crashes || jsonb_build_object(given->>'blamed',
            coalesce(e.crashes->(given->>'blamed'), '{}') || (e.crashes->(given->>'node_id')))
        WHERE e.id = given_execution AND e.fence = (given->>'fence')::uuid AND e.completed_at IS NULL
            AND e.crashes ? (given->>'node_id');
    END IF;

    LOOP
        IF given ? 'ends' THEN
            SELECT e.ended_seq, e.follow_ups INTO moved_seq, follow_ups FROM {s}.end_execution_v1(given) e;
        ELSE
            UPDATE {s}.executions e SET
                fence = given_token,
                seq = e.seq + earlier + 1,
                status = CASE WHEN e.status = 'PAUSED' OR given->'newly_due' ?| e.breakpoints THEN 'PAUSED'
                    ELSE given_status END,
                nodes_executed = e.nodes_executed + earlier + is_final::int,
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
        IF earlier > 0 THEN
            -- Only a repeated call can be accepted: the row before its own is in the journal then.
            given := given || jsonb_build_object('fence', given->'reached') - 'before';
            earlier := 0;
        END IF;
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
        -- One row of values is written faster than what is read from a set.
        IF earlier = 0 THEN
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
        ELSE
            rows := given->'before' || given;
            INSERT INTO {s}.node_executions (
                execution_id, seq, node_id, label, type, sub_type, visit, attempt, status, handles, variables,
                token, input_data, output_data, error, error_details, retry_details, worker, started_at,
                completed_at, duration_ms, logs)
            SELECT
                given_execution, moved_seq - earlier + coalesce(r.place, earlier), r.node_id, r.label, r.type,
                r.sub_type, r.visit, r.attempt, r.status, r.handles, r.variables, r.token, r.input_data,
                -- In a column of a record, null would be no output at all.
                rows->coalesce(r.place, earlier)->'output',
                r.error, r.error_details, r.retry_details, given->>'worker',
                now() - (coalesce(r.ago_ms, 0) + r.duration_ms) * interval '1 millisecond',
                CASE WHEN r.is_final THEN now() - coalesce(r.ago_ms, 0) * interval '1 millisecond' END,
                r.duration_ms, r.logs
            FROM jsonb_to_recordset(rows) AS r(
                place integer, node_id text, label text, type text, sub_type text, visit integer, attempt integer,
                status text, is_final boolean, handles text[], variables jsonb, token uuid, input_data jsonb,
                error text, error_details jsonb, retry_details jsonb, duration_ms float8, ago_ms float8,
                logs jsonb);
        END IF;

        IF given ?| '{opens,closes,queue_timeouts,has_queue_timeout,removes_parts,limited}' THEN
            SELECT f.follow_ups, f.is_over OR wakes INTO follow_ups, wakes
            FROM {s}.follow_commit_v1(given, moved_seq, moved_status, follow_ups) f;
        END IF;

        IF moved_status <> 'RUNNING' THEN
            IF moved_status = 'PAUSED' AND given ? 'newly_due' THEN
                PERFORM {s}.pause_at_breakpoint_v1(given_execution, given->'newly_due', moved_at);
            END IF;
            IF NOT given ? 'context' THEN
                -- The worker did not know that an operator has paused the execution.
                UPDATE {s}.executions e SET context = {s}.context_at_rest_v1(e.id) WHERE e.id = given_execution;
            END IF;
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

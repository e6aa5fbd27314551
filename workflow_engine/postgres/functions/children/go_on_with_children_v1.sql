-- Decides how an open wait for children goes on: starts as many as its concurrency and its items allow, or wakes
-- its node if none is left to run. Returns what is to be published, or NULL. `ended` is the status of a child that
-- has just ended, `so_far` the follow-ups that the result adds to. The caller holds the lock of the parent's row.
--
-- How many items a child of a wait that adapts gets depends on how long those of the last one have taken. Its index is
-- that of its first item, and `total` and `next` count items.
--
-- While the parent is paused no child starts. Failed children that are to be restarted come before all others: the
-- worker that has ended one restarts the next, named in `restarting` by its parent, or else a timekeeper does.
CREATE FUNCTION {s}.go_on_with_children_v1(
    given_parent uuid, given_node text, given_visit integer, given_seq integer,
    ended text DEFAULT NULL, ended_child uuid DEFAULT NULL, so_far jsonb DEFAULT NULL, OUT follow_ups jsonb
) LANGUAGE plpgsql AS $$
DECLARE
    wait record;
    parent record;
    plan jsonb;
    items jsonb;
    item jsonb;
    document jsonb;
    started jsonb := '[]';
    child uuid;
    place integer;
    next integer;
    running integer;
    completed integer;
    failed integer;
    total integer;
    is_restarting boolean;
    may_start boolean;
    is_over boolean;
    lease float8;  -- seconds of a claim
    -- Items of the next child, of a wait that adapts their number.
    size integer;
    per_item float8;  -- seconds of the last child
BEGIN
    follow_ups := so_far;
    SELECT w.id, w.details, w.children, w.children_due INTO wait
    FROM {s}.execution_wait_states w
    WHERE w.execution_id = given_parent AND w.node_id = given_node AND w.visit = given_visit
        AND w.wait_type = 'CHILDREN' AND w.seq = given_seq AND w.status = 'WAITING';
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT e.status = 'PAUSED' AS is_paused, coalesce(e.root_execution_id, e.id) AS root,
        coalesce(e.depth, 0) + 1 AS depth
    INTO parent FROM {s}.executions e WHERE e.id = given_parent;

    plan := wait.children;
    lease := plan->'lease';
    total := plan->'total';
    next := wait.details->'next';
    running := (wait.details->>'running')::integer - (ended IS NOT NULL)::integer;
    completed := (wait.details->>'completed')::integer + coalesce(ended = 'COMPLETED', false)::integer;
    failed := (wait.details->>'failed')::integer + coalesce(ended <> 'COMPLETED', false)::integer;
    is_restarting := coalesce((wait.details->>'restarts')::integer, 0) > 0;
    may_start := NOT is_restarting AND next < total AND running < (plan->>'concurrency')::integer
        AND failed <= (plan->>'tolerated')::integer;

    IF plan ? 'adapts' THEN
        size := coalesce((wait.details->>'size')::integer, 1);
        IF ended = 'COMPLETED' THEN
            -- So many that a child takes a quarter of a second, and that all places have some.
            SELECT extract(epoch FROM e.completed_at - e.started_at) / greatest(1, jsonb_array_length(
                CASE WHEN plan ? 'item_variable' THEN e.context->'variables'->(plan->>'item_variable')
                ELSE e.trigger_data END))
            INTO per_item FROM {s}.executions e WHERE e.id = ended_child;
            size := greatest(1, least(
                floor(0.25 / greatest(per_item, 0.001)), ceil(total / (plan->>'concurrency')::float8), 64));
        END IF;
    END IF;

    IF may_start AND NOT parent.is_paused AND coalesce(wait.children_due <= now(), true) THEN
        IF plan ? 'items' THEN
            SELECT n.input_data->'items' INTO items
            FROM {s}.node_executions n WHERE n.execution_id = given_parent AND n.seq = given_seq;
        END IF;
        WHILE next < total AND running < (plan->>'concurrency')::integer LOOP
            place := (plan->>'first')::integer + next;
            -- A UUID of version 7, younger than its parent even if another clock made that one: statements that
            -- lock several executions begin with the youngest.
            child := encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid()) PLACING substring(int8send(greatest(
                (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
                ('x' || left(replace(given_parent::text, '-', ''), 12))::bit(48)::bigint + 1)) FROM 3)
                FROM 1 FOR 6), 52, 1), 53, 1), 'hex')::uuid;
            document := plan->'start' || jsonb_build_object(
                'execution_id', child, 'token', gen_random_uuid(), 'parent_execution_id', given_parent,
                'parent_node_id', given_node, 'parent_visit', given_visit, 'parent_seq', given_seq,
                'parent_index', place, 'root_execution_id', parent.root, 'depth', parent.depth);
            IF items IS NOT NULL THEN
                IF plan ? 'adapts' THEN
                    item := jsonb_path_query_array(items, '$[$from to $to]', jsonb_build_object(
                        'from', place, 'to', place + least(size, total - next) - 1));
                ELSIF plan ? 'batch' THEN
                    place := place * (plan->>'batch')::integer;
                    item := jsonb_path_query_array(items, '$[$from to $to]', jsonb_build_object(
                        'from', place, 'to', place + (plan->>'batch')::integer - 1));
                ELSE
                    item := items->place;
                END IF;
                IF plan ? 'item_variable' THEN
                    document := document || jsonb_build_object(
                        'data', document->'data' || jsonb_build_object('index', place),
                        'variables', document->'variables' || jsonb_build_object(
                            plan->>'item_variable', item, plan->>'index_variable', place));
                ELSE
                    document := document || jsonb_build_object('data', item);
                END IF;
            END IF;
            started := started || jsonb_build_object(
                'id', child, 'created_at', {s}.start_execution_v1(document),
                'workflow_id', concat_ws('#', document->>'workflow_id', document->>'body'),
                'version', document->'version', 'trigger_node_id', document->'trigger_node_id',
                'queue', document->'queue', 'priority', document->'priority',
                'traceparent', document->'metadata'->'traceparent');
            next := next + least(coalesce(size, 1), total - next);
            running := running + 1;
        END LOOP;
        may_start := false;
    END IF;

    is_over := running = 0 AND NOT is_restarting
        AND (next = total OR failed > (plan->>'tolerated')::integer);
    UPDATE {s}.execution_wait_states w SET
        status = CASE WHEN is_over THEN 'RESUMING' ELSE w.status END,
        claimed_until = CASE WHEN is_over THEN clock_timestamp() + lease * interval '1 second' END,
        children_due = CASE
            WHEN is_over THEN NULL
            WHEN is_restarting THEN least(w.children_due, now() + CASE WHEN ended IS NULL THEN lease ELSE 0 END
                * interval '1 second')
            -- It is paused, or the next child is not due yet.
            WHEN may_start THEN greatest(
                w.children_due, now() + CASE WHEN parent.is_paused THEN lease ELSE 0 END * interval '1 second')
            END,
        details = w.details || jsonb_build_object(
            'next', next, 'running', running, 'completed', completed, 'failed', failed)
            || CASE WHEN size IS NOT NULL THEN jsonb_build_object('size', size) ELSE '{}' END
            || CASE WHEN is_over THEN '{"claims": 1, "timedOut": false}' ELSE '{}' END::jsonb
    WHERE w.id = wait.id;

    IF is_over THEN
        SELECT coalesce(so_far, '{}') || jsonb_build_object('woken',
            coalesce(so_far->'woken', '[]') || jsonb_build_array(jsonb_build_object(
            'execution_id', r.id, 'workflow_id', r.workflow_id, 'version', r.workflow_version,
            'node_id', given_node, 'seq', r.seq, 'priority', r.priority, 'queue', r.queue,
            'traceparent', r.traceparent,
            'woken_at', (extract(epoch FROM now()) * 1000000)::bigint)))
        INTO follow_ups FROM {s}.request_wake_v1(ARRAY[given_parent]) r;
    ELSIF started <> '[]' THEN
        follow_ups := coalesce(so_far, '{}')
            || jsonb_build_object('started', coalesce(so_far->'started', '[]') || started);
    ELSIF is_restarting AND ended IS NOT NULL AND NOT parent.is_paused THEN
        follow_ups := coalesce(so_far, '{}') || jsonb_build_object(
            'restarting', jsonb_build_array(given_parent));
    END IF;
END $$

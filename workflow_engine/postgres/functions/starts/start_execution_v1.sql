-- Writes an execution and its trigger's journal row; `given` is a `NewExecution`. Returns NULL, with nothing
-- written, if the idempotency key was used before. Otherwise returns the time of the start in microseconds since
-- 1970: a caller's driver may be unable to read a timestamp in the style or zone of its session.
--
-- With `way_in` its producer relies on what an earlier start has read. Returns 0, with nothing written, if the workflow
-- or its trigger has been closed since, or if another version has been deployed and `way_in` is CURRENT.
CREATE FUNCTION {s}.start_execution_v1(given jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    given_execution uuid := given->>'execution_id';
    given_token uuid := given->>'token';
    given_seq integer := given->>'seq';
    -- Rather than `now`: a caller's transaction may have begun long before the start.
    created timestamptz := statement_timestamp();
    -- The context's JSON has ISO 8601 in UTC with a Z.
    given_metadata jsonb := given->'metadata' || jsonb_build_object(
        'startedAt', to_char(created AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'));
    -- What a body runs has nodes of its own.
    given_breakpoints text[] := CASE WHEN NOT given ? 'body' THEN (
        SELECT w.breakpoints FROM {s}.workflows w WHERE w.id = given->>'workflow_id') END;
    is_paused boolean := coalesce(given->'due' ?| given_breakpoints, false);
BEGIN
    IF given ? 'way_in' THEN
        PERFORM FROM {s}.triggers t JOIN {s}.workflows w ON w.id = t.workflow_id
        WHERE t.id = (given->>'trigger_id')::uuid AND t.state <> 'PAUSED' AND w.state = 'ACTIVE'
            AND (given->>'way_in' = 'OPEN' OR w.current_version = (given->>'version')::integer);
        IF NOT FOUND THEN
            RETURN 0;
        END IF;
    END IF;

    IF given ? 'idempotency_key' THEN
        -- Waits for an open transaction that has used the key, and depends on how it ends.
        INSERT INTO {s}.idempotency_keys (workflow_id, key, execution_id, fingerprint, created_at)
        VALUES (
            given->>'workflow_id', given->>'idempotency_key', given_execution, given->>'fingerprint', created)
        ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
    END IF;

    INSERT INTO {s}.executions (
        id, workflow_id, workflow_version, trigger_id, trigger_node_id, status, fence, seq, format, context,
        trigger_data, metadata, queue, priority, due_queue, due_priority, idempotency_key,
        parent_execution_id, parent_node_id, parent_visit, parent_seq, parent_index, root_execution_id, depth,
        body, user_metadata, tags, breakpoints, expires_at, timeout_left, created_at, updated_at)
    VALUES (
        given_execution, given->>'workflow_id', (given->>'version')::integer, (given->>'trigger_id')::uuid,
        given->>'trigger_node_id', CASE WHEN is_paused THEN 'PAUSED' ELSE 'PENDING' END, given_token, given_seq,
        (given->>'format')::smallint,
        jsonb_build_object(
            'executionId', given_execution, 'workflowId', concat_ws('#', given->>'workflow_id', given->>'body'),
            'triggerId', given->'trigger_id', 'triggerNodeId', given->'trigger_node_id',
            'currentNodeId', given->'trigger_node_id', 'variables', given->'variables',
            'metadata', given_metadata),
        given->'data', given_metadata, given->>'queue', (given->>'priority')::smallint,
        given->>'due_queue', (given->>'due_priority')::smallint, given->>'idempotency_key',
        (given->>'parent_execution_id')::uuid, given->>'parent_node_id', (given->>'parent_visit')::integer,
        (given->>'parent_seq')::integer, (given->>'parent_index')::integer,
        (given->>'root_execution_id')::uuid, (given->>'depth')::smallint, given->>'body',
        given->'user_metadata',
        CASE WHEN given ? 'tags' THEN ARRAY(SELECT jsonb_array_elements_text(given->'tags')) END,
        given_breakpoints,
        CASE WHEN NOT given ? 'limits' THEN created + (given->>'timeout')::float8 * interval '1 second' END,
        CASE WHEN given ? 'limits' THEN (given->>'timeout')::float8 END, created, created);

    INSERT INTO {s}.node_executions (
        execution_id, seq, node_id, label, type, sub_type, status, handles, variables, token, output_data,
        started_at, completed_at, duration_ms)
    VALUES (
        given_execution, given_seq, given->>'trigger_node_id', given->>'trigger_label', 'trigger',
        given->>'trigger_sub_type', 'COMPLETED', ARRAY[''], given->'variables', given_token, given->'data',
        created, created, 0);

    IF given ? 'queue_timeouts' THEN
        PERFORM {s}.begin_queue_time_v1(given_execution, given->'queue_timeouts');
    END IF;
    IF given ? 'limits' THEN
        -- Without a lock, which an open transaction of a caller's would keep: it is granted after the commit.
        PERFORM {s}.stand_in_line_v1(given_execution, '', given->'limits');
        IF given ? 'queue_timeouts' THEN
            PERFORM {s}.restart_queue_time_v1(given_execution, false);
        END IF;
    END IF;
    IF is_paused THEN
        PERFORM {s}.pause_at_breakpoint_v1(given_execution, given->'due', created);
    END IF;
    RETURN (extract(epoch FROM created) * 1000000)::bigint;
END $$

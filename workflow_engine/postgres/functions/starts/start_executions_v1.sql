-- Writes new executions of one workflow as `start_execution` does, with one statement for each table; `given` are their
-- documents, whose keys differ. Returns by place, from 1, the time of the start, NULL if the key was used before.
--
-- What stands in line, may be paused or has a time in its queue goes the way of a single start.
CREATE FUNCTION {s}.start_executions_v1(given jsonb) RETURNS TABLE (place bigint, created_us bigint)
LANGUAGE plpgsql AS $$
DECLARE
    created timestamptz := statement_timestamp();
    started jsonb := jsonb_build_object(
        'startedAt', to_char(created AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'));
    used text[];
    fresh jsonb := given;
BEGIN
    IF EXISTS (SELECT FROM jsonb_array_elements(given) d WHERE d ?| '{limits,queue_timeouts}')
        OR EXISTS (
            SELECT FROM {s}.workflows w WHERE w.id = given->0->>'workflow_id' AND w.breakpoints IS NOT NULL)
    THEN
        RETURN QUERY
        SELECT g.place, {s}.start_execution_v1(g.document)
        FROM jsonb_array_elements(given) WITH ORDINALITY AS g (document, place);
        RETURN;
    END IF;

    IF EXISTS (SELECT FROM jsonb_array_elements(given) d WHERE d ? 'idempotency_key') THEN
        -- Waits for open transactions that have used a key, and depends on how they end.
        WITH keyed AS (
            SELECT g.* FROM jsonb_to_recordset(given) AS g (
                workflow_id text, idempotency_key text, execution_id uuid, fingerprint text)
            WHERE g.idempotency_key IS NOT NULL
        ), free AS (
            INSERT INTO {s}.idempotency_keys (workflow_id, key, execution_id, fingerprint, created_at)
            SELECT k.workflow_id, k.idempotency_key, k.execution_id, k.fingerprint, created FROM keyed k
            ON CONFLICT DO NOTHING
            RETURNING key
        )
        SELECT array_agg(k.idempotency_key) INTO used
        FROM keyed k WHERE k.idempotency_key NOT IN (SELECT free.key FROM free);
        IF used IS NOT NULL THEN
            fresh := (
                SELECT jsonb_agg(d) FROM jsonb_array_elements(given) d
                WHERE (d->>'idempotency_key' = ANY (used)) IS NOT TRUE);
        END IF;
    END IF;

    INSERT INTO {s}.executions (
        id, workflow_id, workflow_version, trigger_id, trigger_node_id, status, fence, seq, format, context,
        trigger_data, metadata, queue, priority, due_queue, due_priority, idempotency_key, user_metadata,
        tags, expires_at, created_at, updated_at)
    SELECT
        g.execution_id, g.workflow_id, g.version, g.trigger_id, g.trigger_node_id, 'PENDING', g.token, g.seq,
        g.format,
        jsonb_build_object(
            'executionId', g.execution_id, 'workflowId', g.workflow_id, 'triggerId', g.trigger_id,
            'triggerNodeId', g.trigger_node_id, 'currentNodeId', g.trigger_node_id,
            'variables', g.variables, 'metadata', g.metadata || started),
        -- In a column of a record, null would be no data at all.
        coalesce(g.data, 'null'), g.metadata || started, g.queue, g.priority, g.due_queue, g.due_priority,
        g.idempotency_key, g.user_metadata, g.tags, created + g.timeout * interval '1 second', created, created
    FROM jsonb_to_recordset(fresh) AS g (
        execution_id uuid, workflow_id text, version integer, trigger_id uuid, trigger_node_id text, token uuid,
        seq integer, format smallint, variables jsonb, metadata jsonb, data jsonb, queue text,
        priority smallint, due_queue text, due_priority smallint, idempotency_key text, user_metadata jsonb,
        tags text[], timeout float8);

    INSERT INTO {s}.node_executions (
        execution_id, seq, node_id, label, type, sub_type, status, handles, variables, token, output_data,
        started_at, completed_at, duration_ms)
    SELECT
        g.execution_id, g.seq, g.trigger_node_id, g.trigger_label, 'trigger', g.trigger_sub_type, 'COMPLETED',
        ARRAY[''], g.variables, g.token, coalesce(g.data, 'null'), created, created, 0
    FROM jsonb_to_recordset(fresh) AS g (
        execution_id uuid, seq integer, trigger_node_id text, trigger_label text, trigger_sub_type text,
        variables jsonb, token uuid, data jsonb);

    RETURN QUERY
    SELECT g.place, CASE WHEN (g.document->>'idempotency_key' = ANY (used)) IS NOT TRUE
        THEN (extract(epoch FROM created) * 1000000)::bigint END
    FROM jsonb_array_elements(given) WITH ORDINALITY AS g (document, place);
END $$

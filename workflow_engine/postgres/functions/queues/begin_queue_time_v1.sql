-- Notes until when nodes have to begin: by node id the seconds that each may stand in its queue.
CREATE FUNCTION {s}.begin_queue_time_v1(given_execution uuid, timeouts jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO {s}.queue_deadlines (execution_id, node_id, seconds, expires_at, look_at)
    SELECT given_execution, t.key, t.value::float8, u.until, u.until
    FROM jsonb_each_text(timeouts) t CROSS JOIN LATERAL (
        SELECT clock_timestamp() + t.value::float8 * interval '1 second' AS until) u
    ON CONFLICT DO NOTHING;
END $$

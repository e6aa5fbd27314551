-- Begins again to count how long nodes of an execution stand in their queues; if it does not run, until the next call
-- they may stand there for any time.
CREATE FUNCTION {s}.restart_queue_time_v1(given_execution uuid, runs boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    moved_at timestamptz := CASE WHEN runs THEN clock_timestamp() END;
BEGIN
    UPDATE {s}.queue_deadlines d SET
        expires_at = moved_at + d.seconds * interval '1 second',
        look_at = moved_at + d.seconds * interval '1 second'
    WHERE d.execution_id = given_execution;
END $$

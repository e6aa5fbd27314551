-- Raises a violation of the rule that a row of `executions` breaks, by its name; returns true if it breaks none.
--
-- A function, because Postgres reads the text of every CHECK again with each statement that writes a row. As rules of
-- their own these took a third of the time of a commit.
CREATE FUNCTION {s}.check_execution_v1(
    status text, seq integer, nodes_executed integer, started_at timestamptz, completed_at timestamptz, error text
) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    broken text := CASE
        WHEN status <> ALL ('{CANCELLED,COMPLETED,FAILED,PAUSED,PENDING,RUNNING,WAITING}') THEN 'executions_status'
        WHEN seq <= 0 OR nodes_executed < 0 THEN 'executions_counts'
        WHEN (status = ANY ('{CANCELLED,COMPLETED,FAILED}')) <> (completed_at IS NOT NULL)
            THEN 'executions_finished'
        WHEN status = 'FAILED' AND error IS NULL THEN 'executions_error'
        WHEN status = 'RUNNING' AND started_at IS NULL THEN 'executions_started' END;
BEGIN
    IF broken IS NOT NULL THEN
        RAISE check_violation USING MESSAGE = 'an execution cannot be like this: rule ' || broken,
            TABLE = 'executions', CONSTRAINT = broken;
    END IF;
    RETURN true;
END $$

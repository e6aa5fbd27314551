-- Raises a violation of the rule that a row of `node_executions` breaks, by its name; returns true if it breaks none.
-- Like `check_execution`.
CREATE FUNCTION {s}.check_node_execution_v1(
    status text, seq integer, visit integer, attempt integer, superseded_by integer, superseded_for text,
    completed_at timestamptz, error text
) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    broken text := CASE
        WHEN status <> ALL ('{CANCELLED,COMPLETED,FAILED,RETRYING,WAITING}') THEN 'node_executions_status'
        WHEN seq <= 0 OR visit <= 0 OR attempt <= 0 THEN 'node_executions_counts'
        WHEN superseded_by <= seq THEN 'node_executions_superseded'
        WHEN (superseded_by IS NULL) <> (superseded_for IS NULL) OR superseded_for <> ALL ('{RERUN,RETRY}')
            THEN 'node_executions_superseded_for'
        WHEN status = 'FAILED' AND error IS NULL THEN 'node_executions_error'
        WHEN status = ANY ('{COMPLETED,FAILED}') AND completed_at IS NULL THEN 'node_executions_completed' END;
BEGIN
    IF broken IS NOT NULL THEN
        RAISE check_violation USING MESSAGE = 'a row of the journal cannot be like this: rule ' || broken,
            TABLE = 'node_executions', CONSTRAINT = broken;
    END IF;
    RETURN true;
END $$

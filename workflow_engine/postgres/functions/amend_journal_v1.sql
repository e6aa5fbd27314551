-- Changes the output in one row of an execution's journal, or a variable in all of them, if the execution has one of
-- the given statuses and the fence. Otherwise returns NULL, with nothing changed. What was there before is kept in
-- the history.
--
-- A variable is set in the trigger's row and wherever it was set since: so it has this value at every point from which
-- the execution can go on, until a node sets it again.
CREATE FUNCTION {s}.amend_journal_v1(
    given_execution uuid,
    given_sources text[],
    given_fence uuid,
    given_seq integer,
    given_output jsonb,
    given_variable text,
    given_value jsonb,
    given_event text,
    given_details jsonb,
    given_actor text,
    given_reason text,
    OUT status_before text,
    OUT moved_seq integer
) LANGUAGE plpgsql AS $$
DECLARE
    before jsonb;
BEGIN
    SELECT e.status, e.seq INTO status_before, moved_seq
    FROM {s}.executions e
    WHERE e.id = given_execution AND e.status = ANY(given_sources) AND e.fence = given_fence
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;

    IF given_variable IS NULL THEN
        SELECT n.output_data INTO before FROM {s}.node_executions n
        WHERE n.execution_id = given_execution AND n.seq = given_seq;
        UPDATE {s}.node_executions n SET output_data = given_output
        WHERE n.execution_id = given_execution AND n.seq = given_seq;
        UPDATE {s}.executions e SET trigger_data = given_output WHERE e.id = given_execution AND given_seq = 1;
    ELSE
        SELECT jsonb_object_agg(n.seq, n.variables->given_variable) INTO before
        FROM {s}.node_executions n
        WHERE n.execution_id = given_execution AND n.superseded_by IS NULL AND n.variables ? given_variable;
        UPDATE {s}.node_executions n
        SET variables = coalesce(n.variables, '{}') || jsonb_build_object(given_variable, given_value)
        WHERE n.execution_id = given_execution AND n.superseded_by IS NULL
            AND (n.seq = 1 OR n.variables ? given_variable);
    END IF;

    UPDATE {s}.executions e SET context = {s}.context_at_rest_v1(e.id), updated_at = now()
    WHERE e.id = given_execution;
    INSERT INTO {s}.execution_events (execution_id, type, seq, actor, reason, payload, created_at)
    VALUES (given_execution, given_event, moved_seq, given_actor, given_reason,
        given_details || jsonb_build_object('before', before), clock_timestamp());
END $$

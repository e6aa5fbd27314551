-- Counts a child that an operator reopens after its end as running again. Returns false, with nothing changed, if
-- its parent no longer waits for it: the wait is over, or has gone on with later ones. The caller holds the lock of the
-- child's row, which still has its old status.
CREATE FUNCTION {s}.child_reopened_v1(given_child uuid, OUT is_awaited boolean) LANGUAGE plpgsql AS $$
DECLARE
    child record;
    is_restart boolean;  -- it had failed before the parent was retried
BEGIN
    SELECT e.parent_execution_id AS parent, e.parent_node_id, e.parent_visit, e.parent_seq, e.parent_index,
        e.status, e.completed_at
    INTO child FROM {s}.executions e WHERE e.id = given_child;
    PERFORM FROM {s}.executions e WHERE e.id = child.parent FOR NO KEY UPDATE;

    SELECT child.status <> 'COMPLETED'
        AND coalesce(child.completed_at <= (w.details->>'restarting')::timestamptz, false)
    INTO is_restart
    FROM {s}.execution_wait_states w
    WHERE w.execution_id = child.parent AND w.node_id = child.parent_node_id
        AND w.visit = child.parent_visit AND w.wait_type = 'CHILDREN' AND w.seq = child.parent_seq;

    UPDATE {s}.execution_wait_states w SET
        details = w.details || jsonb_build_object(
            'running', (w.details->>'running')::integer + 1,
            'completed', (w.details->>'completed')::integer - (child.status = 'COMPLETED')::integer,
            -- A restart was not counted as failed, but as still to come.
            'failed', (w.details->>'failed')::integer - (child.status <> 'COMPLETED' AND NOT is_restart)::integer,
            'restarts', coalesce((w.details->>'restarts')::integer, 0) - is_restart::integer),
        -- After the last one others may start.
        children_due = CASE WHEN is_restart AND (w.details->>'restarts')::integer = 1 THEN now()
            ELSE w.children_due END
    WHERE w.execution_id = child.parent AND w.node_id = child.parent_node_id
        AND w.visit = child.parent_visit AND w.wait_type = 'CHILDREN' AND w.seq = child.parent_seq
        AND w.status = 'WAITING' AND child.parent_index >= (w.children->>'first')::integer;
    is_awaited := FOUND;
    IF NOT is_awaited THEN
        -- One that its parent's end has left alone belongs to no wait any more.
        SELECT w.children ? 'outlives' INTO is_awaited
        FROM {s}.execution_wait_states w
        WHERE w.execution_id = child.parent AND w.node_id = child.parent_node_id
            AND w.visit = child.parent_visit AND w.wait_type = 'CHILDREN' AND w.seq = child.parent_seq
            AND w.status NOT IN ('WAITING', 'RESUMING');
        is_awaited := coalesce(is_awaited, false);
    END IF;
END $$

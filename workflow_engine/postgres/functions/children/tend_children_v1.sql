-- Does what is due for the children of a wait, in one batch: starts the next ones of an open wait, names those that
-- are to be restarted, and cancels those of a wait that is over. Returns what is to be published and announced, or
-- NULL if nothing is due. It never waits for a lock of a child while it holds that of the parent.
CREATE FUNCTION {s}.tend_children_v1(
    given_parent uuid, given_seq integer, lease float8, batch integer, OUT follow_ups jsonb
) LANGUAGE plpgsql AS $$
DECLARE
    wait record;
    parent record;
    restarts jsonb;
    cancelled jsonb;
    have_ended boolean;
BEGIN
    SELECT e.status INTO parent FROM {s}.executions e WHERE e.id = given_parent FOR NO KEY UPDATE;
    SELECT w.id, w.node_id, w.visit, w.status, w.details, w.children, w.resumed_by INTO wait
    FROM {s}.execution_wait_states w
    WHERE w.execution_id = given_parent AND w.wait_type = 'CHILDREN' AND w.seq = given_seq
        AND w.children_due IS NOT NULL;
    IF NOT FOUND OR wait.status = 'RESUMING' THEN
        UPDATE {s}.execution_wait_states w SET children_due = NULL WHERE w.id = wait.id;
        RETURN;
    END IF;

    IF wait.status = 'WAITING' AND (wait.details->>'restarts')::integer > 0 AND parent.status <> 'PAUSED' THEN
        SELECT jsonb_agg(c.id ORDER BY c.parent_index) INTO restarts FROM (
            SELECT e.id, e.parent_index FROM {s}.executions e
            WHERE e.parent_execution_id = given_parent AND e.parent_seq = given_seq
                AND e.status IN ('FAILED', 'CANCELLED')
                AND e.completed_at <= (wait.details->>'restarting')::timestamptz
            ORDER BY e.parent_index
            LIMIT greatest(
                0, (wait.children->>'concurrency')::integer - (wait.details->>'running')::integer)) c;
        IF restarts IS NOT NULL THEN
            -- The caller restarts them now, after which they are not named again. If it dies, another one does.
            UPDATE {s}.execution_wait_states w SET children_due = now() + lease * interval '1 second'
            WHERE w.id = wait.id;
            follow_ups := jsonb_build_object('restarts', restarts);
            RETURN;
        END IF;
    END IF;
    IF wait.status = 'WAITING' THEN
        follow_ups := {s}.go_on_with_children_v1(given_parent, wait.node_id, wait.visit, given_seq);
        RETURN;
    END IF;

    WITH orphans AS MATERIALIZED (
        SELECT e.id FROM {s}.executions e
        WHERE e.parent_execution_id = given_parent AND e.parent_seq = given_seq AND e.completed_at IS NULL
        LIMIT batch
        FOR NO KEY UPDATE SKIP LOCKED
    )
    SELECT jsonb_agg(o.id) INTO cancelled FROM orphans o CROSS JOIN LATERAL {s}.end_execution_v1(jsonb_build_object(
        'execution_id', o.id, 'execution_status', 'CANCELLED', 'event', 'CANCELLED',
        'actor', coalesce(wait.resumed_by, 'timekeeper'),
        'reason', format('node %s of its parent, execution %s, no longer waits for it',
            wait.node_id, given_parent))) AS ended
    WHERE ended.ended_seq IS NOT NULL;

    have_ended := NOT EXISTS (
        SELECT FROM {s}.executions e
        WHERE e.parent_execution_id = given_parent AND e.parent_seq = given_seq AND e.completed_at IS NULL);
    -- One that was locked is committing, or in another batch.
    UPDATE {s}.execution_wait_states w SET
        children_due = CASE WHEN NOT have_ended THEN now() + CASE WHEN cancelled IS NULL THEN 1 ELSE 0 END
            * interval '1 second' END
    WHERE w.id = wait.id;
    follow_ups := jsonb_build_object('cancelled', coalesce(cancelled, '[]'), 'have_ended', have_ended);
END $$

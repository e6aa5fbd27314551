-- Commits what a node makes of the child that it has waited for: the next child of the same wait, or its result.
-- `given` and the result are those of `commit_node`; `wait_seq` and `iteration` name the wait and that child.
--
-- A wait that goes on with another child writes no row in the journal and keeps the fence: a node that repeats has one
-- row that waits, however often it does. So the fence cannot tell a worker that was too late. The wait can: it goes on,
-- or ends, once for each child.
CREATE FUNCTION {s}.commit_iteration_v1(given jsonb, OUT result text[]) LANGUAGE plpgsql AS $$
DECLARE
    given_execution uuid := given->>'execution_id';
    execution record;
    wait record;
    is_open boolean;
    is_current boolean;  -- the wait is over for that child, and nothing has followed yet
    accepted boolean := false;
    follow_ups jsonb;
BEGIN
    -- All that closes a wait, or goes on with it, holds this lock.
    SELECT e.seq, e.status, e.fence, e.wake_requested INTO execution
    FROM {s}.executions e WHERE e.id = given_execution
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT w.id, w.status, w.children->'first' AS iteration, w.details->'token' AS token INTO wait
    FROM {s}.execution_wait_states w
    WHERE w.execution_id = given_execution AND w.node_id = given->>'node_id'
        AND w.visit = (given->>'visit')::integer AND w.wait_type = 'CHILDREN'
        AND w.seq = (given->>'wait_seq')::integer;
    is_open := coalesce(wait.status IN ('WAITING', 'RESUMING'), false);
    is_current := is_open AND wait.status = 'RESUMING' AND wait.iteration = given->'iteration';

    IF NOT given ? 'goes_on' AND (is_current OR NOT is_open) THEN
        -- If the wait is closed, this commit may be repeated.
        result := {s}.commit_node_v2(given);
        RETURN;
    END IF;

    IF given ? 'goes_on' AND is_current THEN
        accepted := true;
        UPDATE {s}.execution_wait_states w SET
            status = 'WAITING',
            claimed_until = NULL,
            children = given->'opens'->'children',
            children_due = now() + (given->'opens'->>'children_in')::float8 * interval '1 second',
            details = w.details - '{claims,timedOut,wokenAt,timesSetAside}'::text[] || (given->'opens'->'details')
                || jsonb_build_object('token', given->'token')
        WHERE w.id = wait.id;
        UPDATE {s}.executions e SET
            crashes = nullif(e.crashes - (given->>'node_id'), '{}'),
            updated_at = now()
        WHERE e.id = given_execution;
        IF given ? 'limited' THEN
            PERFORM {s}.free_slots_v1(given_execution, given);
        END IF;
        follow_ups := {s}.open_children_v1(
            given_execution, given->>'node_id', (given->>'visit')::integer, (given->>'wait_seq')::integer,
            given->'opens');
    ELSIF given ? 'goes_on' AND is_open AND wait.token = given->'token' THEN
        -- The reply to the first call was lost, and what followed from it perhaps too.
        accepted := true;
        follow_ups := {s}.outstanding_follow_ups_v1(
            given_execution, given->>'node_id', (given->>'visit')::integer, (given->>'wait_seq')::integer);
    END IF;

    result := ARRAY[
        accepted::text, execution.seq::text, execution.status, execution.fence::text,
        execution.wake_requested::text, (extract(epoch FROM now()) * 1000000)::bigint::text, follow_ups::text];
END $$

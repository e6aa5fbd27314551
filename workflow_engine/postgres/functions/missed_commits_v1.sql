-- What siblings have committed since a node read the context of its execution, and whether its row may be appended
-- behind theirs; `given` is the document of `commit_node`. Locks the execution's row.
--
-- The verdict is NULL if the journal no longer continues the one that was read: an operator has reopened it, it has
-- ended, another worker has committed this node, or Postgres has lost commits. Each commit takes the next number and
-- leaves a row, and a reopening takes a number without one: so the rows since then have to be as many as the numbers.
-- Otherwise it is
--   append    the row may follow, on top of the fence returned
--   behind    no row may be appended unseen, because one of them, or this one, decides which nodes go on
--   accepted  the row is there, at the seq returned: the answer to the first call was lost
-- `missed` is JSON: the rows that the node has not seen, without outputs, in the columns of `load_snapshot`.
CREATE FUNCTION {s}.missed_commits_v1(
    given jsonb, OUT verdict text, OUT fence uuid, OUT seq integer, OUT missed text
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    given_execution uuid := given->>'execution_id';
    given_token uuid := given->>'token';
    since integer := given->>'shared_since';
    execution record;
    own_seq integer;
    follows boolean;
    is_taken boolean;
    is_ordered boolean;
BEGIN
    -- A statement of its own: the next one then sees the commits that this one has waited for.
    SELECT e.fence, e.seq, e.epoch_fence, e.completed_at IS NOT NULL AS is_over INTO execution
    FROM {s}.executions e WHERE e.id = given_execution
    FOR NO KEY UPDATE;
    IF NOT FOUND OR execution.is_over THEN
        RETURN;
    END IF;

    SELECT count(*) = execution.seq - since,
        max(n.seq) FILTER (WHERE n.token = given_token),
        coalesce(bool_or(n.node_id = given->>'node_id' AND n.visit = (given->>'visit')::integer), false),
        coalesce(bool_or(given->'ordered' ? n.node_id), false) OR given->'ordered' ? (given->>'node_id')
    INTO follows, own_seq, is_taken, is_ordered
    FROM {s}.node_executions n
    WHERE n.execution_id = given_execution AND n.seq > since AND n.superseded_by IS NULL;

    SELECT follows AND coalesce(bool_and(n.token = (given->>'fence')::uuid),
        execution.epoch_fence = (given->>'fence')::uuid, false)
    INTO follows
    FROM {s}.node_executions n WHERE n.execution_id = given_execution AND n.seq = since;

    verdict := CASE
        WHEN NOT follows THEN NULL
        WHEN own_seq IS NOT NULL THEN 'accepted'
        WHEN is_taken THEN NULL
        WHEN is_ordered THEN 'behind'
        ELSE 'append' END;
    IF verdict IS NULL THEN
        RETURN;
    END IF;
    fence := execution.fence;
    seq := coalesce(own_seq, execution.seq);
    missed := (
        SELECT jsonb_agg(jsonb_build_array(
            n.seq, n.node_id, n.visit, n.attempt, n.status, n.handles, NULL, n.variables::text,
            coalesce((n.retry_details->>'waitMs')::bigint > 0, false), (n.retry_details->>'rule')::integer
            ) ORDER BY n.seq)::text
        FROM {s}.node_executions n
        WHERE n.execution_id = given_execution AND n.seq > since AND n.seq < coalesce(own_seq, n.seq + 1));
END $$

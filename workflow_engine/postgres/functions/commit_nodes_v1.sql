-- Appends the rows of pure nodes, which have run one after the other without a commit, and on top of them the row of
-- the last node by `commit_node`: all of them or none. `given` has the last one's document as `last`, the earlier ones
-- as `rows`, the `fence` of the context that the first of them ran with, and the one `reached` by them.
--
-- Each row has its own number and token, as if it had been committed alone. What ends, waits or stands in line is the
-- last node's affair: the earlier ones are COMPLETED, and something was due after each.
--
-- If the fence does not hold, `commit_node` refuses the last row, whose fence only the earlier ones lead to; or it
-- finds the last token in place, because this call is repeated.
--
-- A crash that was counted for the last node (`crashed`) may be passed on to the next one (`blamed`).
CREATE FUNCTION {s}.commit_nodes_v1(given jsonb, OUT result text[]) LANGUAGE plpgsql AS $$
DECLARE
    given_execution uuid := given->>'execution_id';
    given_rows jsonb := given->'rows';
    given_count integer := jsonb_array_length(given_rows);
    reached_seq integer;
BEGIN
    UPDATE {s}.executions e SET
        fence = (given->>'reached')::uuid,
        seq = e.seq + given_count,
        nodes_executed = e.nodes_executed + given_count,
        started_at = coalesce(e.started_at, now()
            - coalesce((given_rows->0->>'ago_ms')::float8 + (given_rows->0->>'duration_ms')::float8,
                (given->'last'->>'duration_ms')::float8) * interval '1 millisecond'),
        crashes = CASE WHEN given ? 'crashed' AND e.crashes ? (given->>'crashed')
            THEN e.crashes || jsonb_build_object(given->>'blamed',
                coalesce(e.crashes->(given->>'blamed'), '{}') || (e.crashes->(given->>'crashed')))
            ELSE e.crashes END
    WHERE e.id = given_execution AND e.fence = (given->>'fence')::uuid AND e.completed_at IS NULL
    RETURNING e.seq INTO reached_seq;

    IF reached_seq IS NOT NULL AND given_count > 0 THEN
        INSERT INTO {s}.node_executions (
            execution_id, seq, node_id, label, type, sub_type, visit, attempt, status, handles, variables,
            token, input_data, output_data, worker, started_at, completed_at, duration_ms, logs)
        SELECT
            given_execution, reached_seq - given_count + 1 + r.place, r.node_id, r.label, r.type, r.sub_type,
            r.visit, r.attempt, r.status, r.handles, r.variables, r.token, r.input_data, r.output_data,
            given->>'worker', now() - (r.ago_ms + r.duration_ms) * interval '1 millisecond',
            now() - r.ago_ms * interval '1 millisecond', r.duration_ms, r.logs
        FROM jsonb_to_recordset(given_rows) AS r(
            place integer, node_id text, label text, type text, sub_type text, visit integer, attempt integer,
            status text, handles text[], variables jsonb, token uuid, input_data jsonb, output_data jsonb,
            duration_ms float8, ago_ms float8, logs jsonb);
    END IF;

    result := {s}.commit_node_v1(given->'last');
END $$

-- Returns those of the given limits for which an owner needs a slot: all but the keys that its execution, or an
-- ancestor of it, holds already. With a slot of its own a child could wait for its parent, which waits for it.
--
-- An owner is an execution, or an attempt of a node; `given_node` is '' for an execution.
CREATE FUNCTION {s}.limits_left_v1(given_execution uuid, given_node text, given_limits jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        WITH RECURSIVE ancestors AS (
            SELECT e.parent_execution_id AS id FROM {s}.executions e WHERE e.id = given_execution
            UNION ALL
            SELECT e.parent_execution_id FROM ancestors a JOIN {s}.executions e ON e.id = a.id
        )
        SELECT coalesce(jsonb_agg(l.wanted ORDER BY l.wanted->>'key'), '[]')
        FROM jsonb_array_elements(given_limits) AS l (wanted)
        WHERE NOT EXISTS (
            SELECT FROM {s}.limit_slots s
            WHERE s.key = l.wanted->>'key' AND s.status = 'HELD' AND (
                s.execution_id = given_execution AND s.node_id = '' AND given_node <> ''
                OR s.execution_id IN (SELECT a.id FROM ancestors a WHERE a.id IS NOT NULL)))
    );
END $$

-- Does for the slots of limits what a node's commit means for them; `given` is its document. The slots of an attempt
-- that is over are freed, and those of nodes that will not go on. An attempt that waits keeps its slots, without a
-- lease, since no process has to renew them. A node that lacks a slot stands in line from now on.
--
-- Returns the keys of which a slot may be free now.
CREATE FUNCTION {s}.free_slots_v1(given_execution uuid, given jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    keeps boolean := given->>'status' = 'WAITING' AND NOT given->'opens' ? 'needs';
    freed jsonb;
BEGIN
    IF given->'opens' ? 'limits' THEN
        PERFORM {s}.stand_in_line_v1(given_execution, given->>'node_id', given->'opens'->'limits');
        -- One may have become free since the node has found none.
        RETURN (SELECT jsonb_agg(l->'key') FROM jsonb_array_elements(given->'opens'->'limits') l);
    END IF;
    IF keeps THEN
        UPDATE {s}.limit_slots s SET token = NULL, leased_until = NULL
        WHERE s.execution_id = given_execution AND s.node_id = given->>'node_id';
    END IF;
    WITH removed AS (
        DELETE FROM {s}.limit_slots s
        WHERE s.execution_id = given_execution AND s.node_id <> ''
            AND (s.node_id = given->>'node_id' AND NOT keeps
                OR s.node_id <> given->>'node_id' AND coalesce(given->'closes' ? s.node_id, false))
        RETURNING s.key)
    SELECT jsonb_agg(DISTINCT removed.key) INTO freed FROM removed;
    RETURN coalesce(freed, '[]');
END $$

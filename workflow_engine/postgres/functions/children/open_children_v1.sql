-- Starts the first children of a wait that a commit has opened, if the limits allow it. Returns what is to be
-- published. Raises WE001, which undoes the commit, for a tree that is too deep or too large.
CREATE FUNCTION {s}.open_children_v1(
    given_parent uuid, given_node text, given_visit integer, given_seq integer, opens jsonb,
    OUT follow_ups jsonb
) LANGUAGE plpgsql AS $$
DECLARE
    parent record;
    descendants integer;
    total integer := opens->'children'->'total';
    deepest integer := opens->'deepest';
    most integer := opens->'most';
BEGIN
    SELECT coalesce(e.depth, 0) AS depth, coalesce(e.root_execution_id, e.id) AS root
    INTO parent FROM {s}.executions e WHERE e.id = given_parent;
    IF parent.depth >= deepest THEN
        RAISE SQLSTATE 'WE001' USING MESSAGE = format(
            'its children would be %s levels below their root, execution %s; at most %s are allowed '
            '(WORKFLOW_ENGINE_MAX_DEPTH)', parent.depth + 1, parent.root, deepest);
    END IF;
    SELECT count(*) INTO descendants FROM (
        SELECT FROM {s}.executions e WHERE e.root_execution_id = parent.root LIMIT most) counted;
    IF descendants + total > most THEN
        RAISE SQLSTATE 'WE001' USING MESSAGE = format(
            'its %s children would be too many: their root, execution %s, has %s descendants, and at most %s are '
            'allowed (WORKFLOW_ENGINE_MAX_DESCENDANTS)', total, parent.root, descendants, most);
    END IF;
    follow_ups := {s}.go_on_with_children_v1(given_parent, given_node, given_visit, given_seq);
END $$

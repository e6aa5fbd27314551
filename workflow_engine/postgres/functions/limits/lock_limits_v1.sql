-- Locks these keys until the transaction ends, always in the same order: a transaction that counts the slots of a
-- key and takes one has to be alone with it. No transaction waits for these locks with a row locked.
CREATE FUNCTION {s}.lock_limits_v1(given_keys text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(l.number) FROM (
        SELECT DISTINCT hashtextextended('{s}.limit_slots ' || k.key, 0) AS number
        FROM unnest(given_keys) AS k (key) ORDER BY 1 OFFSET 0) l;
END $$

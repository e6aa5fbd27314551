-- Returns 0 if a key has a slot for one more owner, NULL if all are held, and otherwise the seconds after which
-- its rate allows the next one. With `takes` that owner is counted, and 0 is returned in any case.
--
-- The given numbers are those of the owner's definition; the numbers of an operator take their place. The rate is
-- kept in a sliding window of ten parts, and the one that is going on: in no interval of its length begin more.
CREATE FUNCTION {s}.slot_room_v1(
    given_key text, given_concurrency integer, given_rate integer, given_seconds float8, takes boolean,
    OUT room_in float8
) LANGUAGE plpgsql AS $$
DECLARE
    parts CONSTANT integer := 10;
    most integer;
    rate integer;
    period float8;  -- seconds
    present bigint;  -- the number of the part that is going on
    latest bigint;  -- and of the latest one with a count
    counts integer[];  -- of the latest part, and those before it
    begun integer;
BEGIN
    SELECT coalesce(o.concurrency, given_concurrency), coalesce(o.rate, given_rate),
        CASE WHEN o.rate IS NULL THEN given_seconds ELSE o.rate_seconds END
    INTO most, rate, period
    FROM (VALUES (1)) always LEFT JOIN {s}.limit_overrides o ON o.key = given_key;

    room_in := 0;
    IF most IS NOT NULL AND NOT takes AND most <= (
        SELECT count(*) FROM {s}.limit_slots s WHERE s.key = given_key AND s.status = 'HELD'
    ) THEN
        room_in := NULL;
        RETURN;
    END IF;
    IF rate IS NULL THEN
        RETURN;
    END IF;

    present := floor(extract(epoch FROM clock_timestamp()) * parts / period);
    SELECT w.part, w.counts INTO latest, counts
    FROM {s}.limit_windows w WHERE w.key = given_key AND w.seconds = period;
    IF latest IS NULL OR latest < present - parts THEN
        counts := array_fill(0, ARRAY[parts + 1]);
    ELSIF latest < present THEN
        counts := (array_fill(0, ARRAY[(present - latest)::integer]) || counts)[1:parts + 1];
    END IF;
    present := greatest(present, latest);  -- the clock may have been set back

    IF takes THEN
        counts[1] := counts[1] + 1;
        INSERT INTO {s}.limit_windows AS w (key, seconds, part, counts, ends_at)
        VALUES (given_key, period, present, counts, clock_timestamp() + 2 * period * interval '1 second')
        ON CONFLICT (key) DO UPDATE SET
            seconds = excluded.seconds, part = excluded.part, counts = excluded.counts, ends_at = excluded.ends_at;
        RETURN;
    END IF;

    begun := (SELECT sum(c) FROM unnest(counts) c);
    IF begun < rate THEN
        RETURN;
    END IF;
    FOR place IN REVERSE parts + 1 .. 1 LOOP
        begun := begun - counts[place];
        IF begun < rate THEN
            -- This part is behind the window when the part that follows on the window's last one begins.
            room_in := greatest(0.001, (present - place + parts + 2) * period / parts
                - extract(epoch FROM clock_timestamp()));
            RETURN;
        END IF;
    END LOOP;
    room_in := period;  -- the rate is zero
END $$

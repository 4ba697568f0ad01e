-- Milliseconds between two instants, rounded, never negative, null when either is.
CREATE OR REPLACE FUNCTION loop_duration_ms(started timestamptz, completed timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN started IS NOT NULL AND completed IS NOT NULL
        THEN greatest(0, round(extract(EPOCH FROM completed - started) * 1000))::bigint
    END
$$;

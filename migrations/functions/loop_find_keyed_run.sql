-- The run that a call with this Idempotency-Key stands for: its issue's newest one with the key, for a day. A key that is
-- older is free again: compared here, so that nothing has to be removed in time.
CREATE OR REPLACE FUNCTION loop_find_keyed_run(wanted_issue_id text, wanted_key text, at_time timestamptz) RETURNS SETOF loop_runs
LANGUAGE sql STABLE AS $$
    SELECT *
    FROM loop_runs
    WHERE issue_id = wanted_issue_id AND idempotency_key = wanted_key AND created_at > at_time - interval '24 hours'
    ORDER BY created_at DESC
    LIMIT 1
$$;

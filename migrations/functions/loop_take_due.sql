-- What needs a message: issues that go on by themselves and are due, and queued runs whose message must have been lost
-- (counted as sent: at most maxSends for each run; after that it waits for its end). Held issues are left alone. A message
-- too many does no harm, one that is lost comes again with the next sweep.
--
-- request: maxItems, resendAfterSeconds, maxSends
-- answer:  attempts [{issueId, after}], runs [{issueId, runId}]
CREATE OR REPLACE FUNCTION loop_take_due(request jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v_now      timestamptz := clock_timestamp();
    v_attempts jsonb;
    v_runs     jsonb;
BEGIN
    SELECT jsonb_agg(jsonb_build_object('issueId', due.id, 'after', due.next_attempt_after)) INTO v_attempts
    FROM (
        SELECT id, next_attempt_after
        FROM loop_issues
        WHERE next_attempt_at <= v_now AND hold IS NULL
        ORDER BY next_attempt_at
        LIMIT (request ->> 'maxItems')::integer
    ) AS due;

    WITH lost AS (
        SELECT id
        FROM loop_runs
        WHERE mode = 'execute' AND status IN ('pending', 'running')
            AND status = 'pending' AND queued_at IS NOT NULL AND lease_expires_at > v_now
            AND sends < (request ->> 'maxSends')::integer
            AND sent_at <= v_now - (request ->> 'resendAfterSeconds')::float8 * interval '1 second'
        ORDER BY sent_at
        LIMIT (request ->> 'maxItems')::integer
        FOR NO KEY UPDATE SKIP LOCKED
    ),
    resent AS (
        UPDATE loop_runs AS r
        SET sends = r.sends + 1, sent_at = v_now
        FROM lost
        WHERE r.id = lost.id
        RETURNING r.id, r.issue_id
    )
    SELECT jsonb_agg(jsonb_build_object('issueId', issue_id, 'runId', id)) INTO v_runs FROM resent;

    RETURN jsonb_build_object('attempts', coalesce(v_attempts, '[]'), 'runs', coalesce(v_runs, '[]'));
END
$$;

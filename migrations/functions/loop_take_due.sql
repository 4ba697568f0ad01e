-- What needs a message: issues that go on by themselves and are due, and queued runs, each where no message was sent for it
-- or that must have been lost by now. Each counts as sent from here on, a run at most maxSends times; after that it waits
-- for its end. Held issues are left alone. A message too many does no harm.
--
-- request: maxItems, resendAfterSeconds, maxSends
-- answer:  attempts [{issueId, after}], runs [{issueId, runId}]
CREATE OR REPLACE FUNCTION loop_take_due(request jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v_now           timestamptz := clock_timestamp();
    v_resent_before timestamptz := v_now - (request ->> 'resendAfterSeconds')::float8 * interval '1 second';
    v_attempts      jsonb;
    v_runs          jsonb;
BEGIN
    WITH due AS (
        SELECT id
        FROM loop_issues
        WHERE next_attempt_at <= v_now AND hold IS NULL
            AND (next_attempt_sent_at IS NULL OR next_attempt_sent_at <= v_resent_before)
        ORDER BY next_attempt_at
        LIMIT (request ->> 'maxItems')::integer
        FOR NO KEY UPDATE SKIP LOCKED
    ),
    sent AS (
        UPDATE loop_issues AS i
        SET next_attempt_sent_at = v_now
        FROM due
        WHERE i.id = due.id
        RETURNING i.id, i.next_attempt_after
    )
    SELECT jsonb_agg(jsonb_build_object('issueId', id, 'after', next_attempt_after)) INTO v_attempts FROM sent;

    WITH lost AS (
        SELECT id
        FROM loop_runs
        WHERE mode = 'execute' AND completed_at IS NULL
            AND status <> 'running' AND queued_at IS NOT NULL AND lease_expires_at > v_now
            AND sends < (request ->> 'maxSends')::integer
            AND sent_at <= v_resent_before
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

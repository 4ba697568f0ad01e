-- Begins a queued run: pending becomes running under a lease. Begun once, however often its message is delivered; the same
-- call again, after a lost acknowledgement, is known by its lease token.
--
-- request: codeVersion, requiredSchema, runId, leaseToken, leaseMs; optional lambdaRequestId, logStream
-- answer:  outcome claimed {issue, now, run} | schemaTooOld | codeTooOld | notPending
CREATE OR REPLACE FUNCTION loop_begin(request jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v_run_id uuid := (request ->> 'runId')::uuid;
    v_issue  loop_issues;
    v_run    loop_runs;
    v_now    timestamptz;
    v_misfit jsonb := loop_misfit(request);
BEGIN
    IF v_misfit IS NOT NULL THEN
        RETURN v_misfit;
    END IF;

    SELECT i.* INTO v_issue
    FROM loop_issues AS i
    WHERE i.id = (SELECT r.issue_id FROM loop_runs AS r WHERE r.id = v_run_id)
    FOR NO KEY UPDATE;
    v_now := clock_timestamp();
    SELECT * INTO v_run FROM loop_runs WHERE id = v_run_id;

    IF v_run.status = 'pending' AND v_run.queued_at IS NOT NULL AND v_run.lease_expires_at > v_now THEN
        UPDATE loop_runs
        SET status = 'running',
            started_at = v_now,
            attempt = v_issue.failed_attempts + 1,
            retry_of = v_issue.failed_run_id,
            state_before = v_issue.state,
            lease_token = (request ->> 'leaseToken')::uuid,
            lease_expires_at = v_now + (request ->> 'leaseMs')::bigint * interval '1 millisecond',
            lambda_request_id = request ->> 'lambdaRequestId',
            log_stream = request ->> 'logStream'
        WHERE id = v_run_id
        RETURNING * INTO v_run;

        IF v_issue.next_attempt_at IS NOT NULL AND v_issue.hold IS NULL THEN -- this comes before it
            UPDATE loop_issues SET next_attempt_at = NULL, next_attempt_after = NULL WHERE id = v_issue.id;
            v_issue.next_attempt_at := NULL;
        END IF;

        INSERT INTO loop_events (issue_id, run_id, event_type, event_data, occurred_at)
        VALUES (v_issue.id, v_run_id, 'loop_run_started',
                jsonb_strip_nulls(jsonb_build_object('actor', v_run.actor, 'principal', v_run.principal,
                                                     'attempt', v_run.attempt, 'state', v_issue.state)), v_now);
    ELSIF v_run.status IS DISTINCT FROM 'running'
        OR v_run.lease_token IS DISTINCT FROM (request ->> 'leaseToken')::uuid
    THEN
        RETURN jsonb_build_object('outcome', 'notPending');
    END IF;
    RETURN loop_answer_claim(v_issue, v_run, v_now, false);
END
$$;

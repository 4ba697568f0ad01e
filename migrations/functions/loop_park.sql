-- Lets a run wait for the outcome of its step, which somebody else will tell: under a lease that lasts until the next
-- heartbeat is due, or the outcome is. Where the outcome came first, or the run is to be cancelled, it does not wait.
--
-- request: runId, issueId, leaseToken, message, nextStep
-- answer:  recorded (whether it waits now), run, steps
CREATE OR REPLACE FUNCTION loop_park(request jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v_run_id uuid := (request ->> 'runId')::uuid;
    v_issue  loop_issues;
    v_run    loop_runs;
    v_now    timestamptz;
BEGIN
    SELECT * INTO v_issue FROM loop_issues WHERE id = request ->> 'issueId' FOR NO KEY UPDATE;
    v_now := clock_timestamp();

    UPDATE loop_runs AS r
    SET loop_status = 'paused',
        message = request ->> 'message',
        next_step = nullif(request -> 'nextStep', 'null'),
        issue_version = v_issue.version,
        lease_expires_at = least(v_now + s.heartbeat_seconds * interval '1 second', s.timeout_at)
    FROM loop_run_steps AS s
    WHERE r.id = v_run_id AND r.completed_at IS NULL AND r.status <> 'pending' AND r.lease_token = (request ->> 'leaseToken')::uuid
        AND s.run_id = r.id AND s.status = 'running' AND s.task_token_hash IS NOT NULL
    RETURNING r.* INTO v_run;

    IF FOUND AND v_run.cancel_requested_at IS NOT NULL THEN
        PERFORM loop_end_cancelled(v_run_id, v_now, NULL);
    END IF;
    RETURN jsonb_build_object('recorded', v_run.id IS NOT NULL) || loop_get_run(v_run_id);
END
$$;

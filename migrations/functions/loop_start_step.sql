-- Records that a step which is executed elsewhere begins, before it does: what is lost after this may have happened. Only
-- the holder of the lease token starts one; a run that is to be cancelled ends here instead.
--
-- request: runId, issueId, leaseToken, loopVersion, stepNumber, stepType, timeoutSeconds;
--          optional retryIfLost {error code: seconds or null}, tokenHash, heartbeatSeconds
-- answer:  outcome started | ended {run, steps}
CREATE OR REPLACE FUNCTION loop_start_step(request jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v_run_id uuid := (request ->> 'runId')::uuid;
    v_now    timestamptz;
    v_run    loop_runs;
BEGIN
    PERFORM FROM loop_issues WHERE id = request ->> 'issueId' FOR NO KEY UPDATE;
    v_now := clock_timestamp();

    UPDATE loop_runs
    SET step = (request ->> 'stepNumber')::integer,
        loop_version = request ->> 'loopVersion'
    WHERE id = v_run_id AND status = 'running' AND lease_token = (request ->> 'leaseToken')::uuid
    RETURNING * INTO v_run;

    IF FOUND AND v_run.cancel_requested_at IS NOT NULL THEN
        PERFORM loop_end_cancelled(v_run_id, v_now, NULL);
        v_run := NULL;
    END IF;
    IF v_run.id IS NULL THEN
        RETURN jsonb_build_object('outcome', 'ended') || loop_get_run(v_run_id);
    END IF;

    INSERT INTO loop_run_steps (
        run_id, step_number, step_type, status, created_at, started_at, retry_if_lost_seconds, task_token_hash,
        heartbeat_seconds, timeout_at
    ) VALUES (
        v_run_id, v_run.step, request ->> 'stepType', 'running', v_now, v_now,
        nullif(request -> 'retryIfLost', 'null'), request ->> 'tokenHash', (request ->> 'heartbeatSeconds')::integer,
        v_now + (request ->> 'timeoutSeconds')::float8 * interval '1 second'
    )
    ON CONFLICT (run_id, step_number) DO NOTHING; -- the same call again, after a lost acknowledgement

    UPDATE loop_issues
    SET idempotency_token = v_run_id
    WHERE id = request ->> 'issueId' AND idempotency_token IS NULL;

    RETURN jsonb_build_object('outcome', 'started');
END
$$;

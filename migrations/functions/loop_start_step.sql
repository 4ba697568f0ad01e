-- Records that a step which is executed elsewhere begins, before it does: what is lost after this may have happened. Only
-- the holder of the lease token starts one; a run that is to be cancelled ends here instead.
--
-- Attempts and idempotency token are those of this step: where another one failed or was lost before, they begin anew.
--
-- request: runId, issueId, leaseToken, loopVersion, stepNumber, stepType, timeoutSeconds, skipped [{stepNumber, stepType}];
--          optional retryIfLost {error code: seconds or null}, tokenHash, heartbeatSeconds
-- answer:  outcome started {attempt, idempotencyToken} | ended {run, steps}
CREATE OR REPLACE FUNCTION loop_start_step(request jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v_run_id uuid := (request ->> 'runId')::uuid;
    v_step   integer := (request ->> 'stepNumber')::integer;
    v_issue  loop_issues;
    v_now    timestamptz;
    v_run    loop_runs;
BEGIN
    SELECT * INTO v_issue FROM loop_issues WHERE id = request ->> 'issueId' FOR NO KEY UPDATE;
    v_now := clock_timestamp();
    IF EXISTS (SELECT FROM loop_runs WHERE id = v_issue.failed_run_id AND step <> v_step) THEN
        v_issue.failed_attempts := 0;
        v_issue.failed_run_id := NULL;
    END IF;
    IF EXISTS (SELECT FROM loop_runs WHERE id = v_issue.idempotency_token AND step <> v_step) THEN
        v_issue.idempotency_token := NULL;
    END IF;
    v_issue.idempotency_token := coalesce(v_issue.idempotency_token, v_run_id);

    UPDATE loop_runs
    SET step = v_step,
        loop_version = request ->> 'loopVersion',
        attempt = v_issue.failed_attempts + 1,
        retry_of = v_issue.failed_run_id
    WHERE id = v_run_id AND completed_at IS NULL AND status <> 'pending' AND lease_token = (request ->> 'leaseToken')::uuid
    RETURNING * INTO v_run;

    IF FOUND AND v_run.cancel_requested_at IS NOT NULL THEN
        PERFORM loop_end_cancelled(v_run_id, v_now, NULL);
        v_run := NULL;
    END IF;
    IF v_run.id IS NULL THEN
        RETURN jsonb_build_object('outcome', 'ended') || loop_get_run(v_run_id);
    END IF;

    WITH passed AS (
        INSERT INTO loop_run_steps (run_id, step_number, step_type, status, created_at, completed_at)
        SELECT v_run_id, (each ->> 'stepNumber')::integer, each ->> 'stepType', 'skipped', v_now, v_now
        FROM jsonb_array_elements(request -> 'skipped') WITH ORDINALITY AS s(each, position)
        ORDER BY s.position
        ON CONFLICT (run_id, step_number) DO NOTHING -- the same call again, after a lost acknowledgement
        RETURNING step_number, step_type
    )
    INSERT INTO loop_events (issue_id, run_id, event_type, event_data, occurred_at)
    SELECT v_issue.id, v_run_id, 'loop_step_skipped',
           jsonb_build_object('stepNumber', p.step_number, 'stepType', p.step_type), v_now
    FROM passed AS p;

    INSERT INTO loop_run_steps (
        run_id, step_number, step_type, status, created_at, started_at, retry_if_lost_seconds, task_token_hash,
        heartbeat_seconds, timeout_at
    ) VALUES (
        v_run_id, v_run.step, request ->> 'stepType', 'running', v_now, v_now,
        nullif(request -> 'retryIfLost', 'null'), request ->> 'tokenHash', (request ->> 'heartbeatSeconds')::integer,
        v_now + (request ->> 'timeoutSeconds')::float8 * interval '1 second'
    )
    ON CONFLICT (run_id, step_number) DO NOTHING;

    UPDATE loop_issues
    SET idempotency_token = v_issue.idempotency_token
    WHERE id = v_issue.id AND idempotency_token IS DISTINCT FROM v_issue.idempotency_token;

    RETURN jsonb_build_object(
        'outcome', 'started', 'attempt', v_run.attempt, 'idempotencyToken', v_issue.idempotency_token);
END
$$;

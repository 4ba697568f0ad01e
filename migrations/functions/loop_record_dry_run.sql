-- Records a dry run: its terminal row and nothing else. started_at is what the claim read from this database's clock.
-- Of two at once with the same Idempotency-Key one is recorded, and answers both.
--
-- request: runId, issueId, actor, requestId, startedAt, status (completed, blocked, failed), loopStatus, message,
--          loopName, stateBefore, issueVersion; optional principal, loopVersion, step, blockerCode, errorCode,
--          errorMessage, nextStep, idempotencyKey with requestHash, lambdaRequestId, logStream
-- answer:  recorded, run, steps (none) | outcome keyReused {run}
CREATE OR REPLACE FUNCTION loop_record_dry_run(request jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v_started timestamptz := (request ->> 'startedAt')::timestamptz;
    v_now     timestamptz := clock_timestamp();
    v_run     loop_runs;
BEGIN
    IF request ? 'idempotencyKey' THEN
        PERFORM FROM loop_issues WHERE id = request ->> 'issueId' FOR NO KEY UPDATE; -- one at a time
        SELECT * INTO v_run FROM loop_find_keyed_run(request ->> 'issueId', request ->> 'idempotencyKey', v_now);
        IF v_run.request_hash <> request ->> 'requestHash' THEN
            RETURN jsonb_build_object('outcome', 'keyReused', 'run', to_jsonb(v_run));
        ELSIF v_run.id IS NOT NULL THEN
            RETURN jsonb_build_object('recorded', false) || loop_get_run(v_run.id);
        END IF;
    END IF;

    INSERT INTO loop_runs (
        id, issue_id, actor, principal, request_id, mode, status, created_at, started_at, completed_at, duration_ms,
        loop_name, loop_version, step, state_before, state_after, issue_version, blocker_code, error_code,
        error_message, loop_status, next_step, message, idempotency_key, request_hash, lambda_request_id, log_stream
    ) VALUES (
        (request ->> 'runId')::uuid, request ->> 'issueId', request ->> 'actor', request ->> 'principal',
        request ->> 'requestId', 'dryRun', request ->> 'status', v_started, v_started, v_now,
        loop_duration_ms(v_started, v_now),
        request ->> 'loopName', request ->> 'loopVersion', (request ->> 'step')::integer, request ->> 'stateBefore',
        request ->> 'stateBefore', (request ->> 'issueVersion')::bigint, request ->> 'blockerCode',
        request ->> 'errorCode', request ->> 'errorMessage', request ->> 'loopStatus',
        nullif(request -> 'nextStep', 'null'), request ->> 'message', request ->> 'idempotencyKey',
        request ->> 'requestHash', request ->> 'lambdaRequestId', request ->> 'logStream'
    )
    ON CONFLICT (id) DO NOTHING
    RETURNING * INTO v_run;

    IF NOT FOUND THEN
        RETURN jsonb_build_object('recorded', false) || loop_get_run((request ->> 'runId')::uuid);
    END IF;
    RETURN jsonb_build_object('recorded', true, 'run', to_jsonb(v_run), 'steps', '[]'::jsonb);
END
$$;

-- Ends a live run whose lease is over: failed, with its open steps and the event that says who ended it. The code says what
-- was waited for: the end of the process, a start, an outcome or a heartbeat. A step that is executed elsewhere carries
-- when it is tried again; a run that was to be cancelled ends so.
-- The caller holds the issue's lock and has compared the lease with at_time, taken after that lock.
CREATE OR REPLACE FUNCTION loop_expire_run(lost_run_id uuid, at_time timestamptz, ended_by text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_run       loop_runs;
    v_step      loop_run_steps;
    v_code      text;
    v_retry_at  timestamptz;
    v_is_queued boolean;
    v_is_parked boolean;
BEGIN
    SELECT * INTO v_run FROM loop_runs WHERE id = lost_run_id FOR NO KEY UPDATE; -- whoever adds a step to it has done so
    IF v_run.status IS NULL OR v_run.completed_at IS NOT NULL THEN
        RETURN;
    ELSIF v_run.cancel_requested_at IS NOT NULL THEN
        PERFORM loop_end_cancelled(lost_run_id, at_time, NULL);
        RETURN;
    END IF;
    v_is_queued := v_run.status = 'pending' AND v_run.queued_at IS NOT NULL;
    v_is_parked := v_run.status = 'running' AND v_run.loop_status = 'paused';

    SELECT * INTO v_step FROM loop_run_steps WHERE run_id = lost_run_id AND status = 'running';
    v_code := CASE
        WHEN v_is_queued THEN 'NOT_STARTED'
        WHEN v_is_parked AND v_run.lease_expires_at >= v_step.timeout_at THEN 'States.Timeout'
        WHEN v_is_parked THEN 'States.HeartbeatTimeout'
        ELSE 'LEASE_EXPIRED'
    END;
    v_retry_at := at_time + (v_step.retry_if_lost_seconds ->> v_code)::float8 * interval '1 second';

    UPDATE loop_run_steps
    SET status = 'failed',
        completed_at = at_time,
        duration_ms = loop_duration_ms(started_at, at_time),
        error_message = CASE v_code WHEN 'LEASE_EXPIRED' THEN 'the run was lost' ELSE 'no outcome came in time' END
    WHERE run_id = lost_run_id AND status IN ('pending', 'running');

    UPDATE loop_runs AS r
    SET status = 'failed',
        completed_at = at_time,
        duration_ms = loop_duration_ms(r.started_at, at_time),
        error_code = v_code,
        error_message = CASE v_code
            WHEN 'NOT_STARTED' THEN 'the background run was not started in time; run the next step again'
            WHEN 'States.Timeout' THEN 'the outcome of the step was not told in time'
            WHEN 'States.HeartbeatTimeout' THEN 'no heartbeat came in time'
            ELSE 'no outcome was recorded before the lease ended; run the next step again'
        END,
        message = CASE
            WHEN v_retry_at IS NOT NULL THEN 'lost: no outcome came in time, it is tried again by itself'
            WHEN v_is_queued THEN 'not started in time: run the next step again'
            ELSE 'lost: the lease ended before an outcome was recorded'
        END,
        state_after = r.state_before,
        issue_version = (SELECT version FROM loop_issues WHERE id = r.issue_id),
        loop_status = CASE WHEN v_retry_at IS NULL THEN 'failed' ELSE 'paused' END,
        retry_at = v_retry_at
    WHERE r.id = lost_run_id;

    IF NOT v_is_queued THEN -- an attempt counts when it starts; after the last of its policy the count starts anew
        UPDATE loop_issues
        SET failed_attempts = v_run.attempt, failed_run_id = v_run.id,
            next_attempt_at = v_retry_at, next_attempt_after = CASE WHEN v_retry_at IS NOT NULL THEN v_run.id END
        WHERE id = v_run.issue_id AND NOT coalesce(v_step.retry_if_lost_seconds -> v_code = 'null', false);

        UPDATE loop_issues
        SET failed_attempts = 0, failed_run_id = NULL
        WHERE id = v_run.issue_id AND v_step.retry_if_lost_seconds -> v_code = 'null';
    END IF;

    INSERT INTO loop_events (issue_id, run_id, event_type, event_data, occurred_at)
    VALUES (v_run.issue_id, v_run.id, 'loop_run_failed',
            jsonb_build_object('errorCode', v_code, 'endedBy', ended_by), at_time);
    IF v_retry_at IS NOT NULL THEN
        INSERT INTO loop_events (issue_id, run_id, event_type, event_data, occurred_at)
        VALUES (v_run.issue_id, v_run.id, 'loop_retry_planned',
                jsonb_build_object('errorCode', v_code, 'attempt', v_run.attempt, 'retryAt', v_retry_at), at_time);
    END IF;
END
$$;

-- Ends a live run whose lease is over: failed, LEASE_EXPIRED, with its open steps and the event that says who ended it.
-- The caller holds the issue's lock and has compared the lease with at_time, taken after that lock.
CREATE OR REPLACE FUNCTION loop_expire_run(lost_run_id uuid, at_time timestamptz, ended_by text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_run loop_runs;
BEGIN
    PERFORM FROM loop_runs WHERE id = lost_run_id FOR NO KEY UPDATE; -- whoever adds a step to it has done so

    UPDATE loop_run_steps
    SET status = 'failed',
        completed_at = at_time,
        duration_ms = loop_duration_ms(started_at, at_time),
        error_message = 'the run was lost'
    WHERE run_id = lost_run_id AND status IN ('pending', 'running');

    UPDATE loop_runs AS r
    SET status = 'failed',
        completed_at = at_time,
        duration_ms = loop_duration_ms(r.started_at, at_time),
        error_code = 'LEASE_EXPIRED',
        error_message = 'no outcome was recorded before the lease ended; run the next step again',
        message = 'lost: the lease ended before an outcome was recorded',
        state_after = r.state_before,
        issue_version = (SELECT version FROM loop_issues WHERE id = r.issue_id),
        loop_status = 'failed'
    WHERE r.id = lost_run_id AND r.status IN ('pending', 'running')
    RETURNING * INTO v_run;

    IF FOUND THEN
        UPDATE loop_issues SET failed_attempts = v_run.attempt, failed_run_id = v_run.id WHERE id = v_run.issue_id;

        INSERT INTO loop_events (issue_id, run_id, event_type, event_data, occurred_at)
        VALUES (v_run.issue_id, v_run.id, 'loop_run_failed',
                jsonb_build_object('errorCode', 'LEASE_EXPIRED', 'endedBy', ended_by), at_time);
    END IF;
END
$$;

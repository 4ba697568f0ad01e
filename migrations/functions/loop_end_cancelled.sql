-- Ends a live run as cancelled; its step with it, which keeps the outcome where there was one. State and facts stay.
-- The caller holds the issue's lock and has taken at_time after it.
CREATE OR REPLACE FUNCTION loop_end_cancelled(cancelled_run_id uuid, at_time timestamptz, outcome jsonb) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_issue loop_issues;
    v_run   loop_runs;
BEGIN
    SELECT i.* INTO v_issue
    FROM loop_issues AS i
    WHERE i.id = (SELECT r.issue_id FROM loop_runs AS r WHERE r.id = cancelled_run_id);

    UPDATE loop_run_steps
    SET status = 'cancelled',
        completed_at = at_time,
        duration_ms = loop_duration_ms(started_at, at_time),
        metadata = metadata || jsonb_strip_nulls(jsonb_build_object('outcome', outcome))
    WHERE run_id = cancelled_run_id AND status IN ('pending', 'running');

    UPDATE loop_runs AS r
    SET status = 'cancelled',
        completed_at = at_time,
        duration_ms = loop_duration_ms(r.started_at, at_time),
        message = 'cancelled by ' || r.cancel_requested_by || coalesce(': ' || r.cancel_reason, ''),
        state_before = v_issue.state,
        state_after = v_issue.state,
        issue_version = v_issue.version,
        loop_status = CASE WHEN v_issue.hold IS NULL THEN 'active' ELSE 'paused' END
    WHERE r.id = cancelled_run_id AND r.completed_at IS NULL
    RETURNING * INTO v_run;

    IF FOUND THEN
        INSERT INTO loop_events (issue_id, run_id, event_type, event_data, occurred_at)
        VALUES (v_run.issue_id, v_run.id, 'loop_run_cancelled', jsonb_strip_nulls(jsonb_build_object(
            'actor', v_run.cancel_requested_by, 'reason', v_run.cancel_reason, 'stepNumber', v_run.step)), at_time);
    END IF;
END
$$;

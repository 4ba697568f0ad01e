-- Cancels a run: one that is pending or waits for an outcome ends at once; one that is being executed ends at its next safe
-- point; of a failed one the waiting retry is dropped. The same again is answered as the first time.
--
-- request: runId, actor; optional principal, reason
-- answer:  outcome notFound | finished {run, steps} | cancelled {run, steps, recorded} (it is, or will be; recorded: now)
CREATE OR REPLACE FUNCTION loop_cancel(request jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v_run_id  uuid := (request ->> 'runId')::uuid;
    v_run     loop_runs;
    v_issue   loop_issues;
    v_now     timestamptz;
    v_outcome text := 'cancelled';
    v_answer  jsonb;
BEGIN
    SELECT i.* INTO v_issue
    FROM loop_issues AS i
    WHERE i.id = (SELECT r.issue_id FROM loop_runs AS r WHERE r.id = v_run_id)
    FOR NO KEY UPDATE;
    v_now := clock_timestamp();
    SELECT * INTO v_run FROM loop_runs WHERE id = v_run_id FOR NO KEY UPDATE;

    IF NOT FOUND THEN
        RETURN jsonb_build_object('outcome', 'notFound');
    ELSIF v_run.completed_at IS NULL THEN
        UPDATE loop_runs
        SET cancel_requested_at = v_now, cancel_requested_by = request ->> 'actor', cancel_reason = request ->> 'reason'
        WHERE id = v_run_id AND cancel_requested_at IS NULL;
        IF v_run.status = 'pending' OR v_run.loop_status = 'paused' OR v_run.lease_expires_at <= v_now
            OR v_run.lease_token IS NULL -- of the run store: nobody looks
        THEN
            PERFORM loop_end_cancelled(v_run_id, v_now, NULL);
        END IF;
    ELSIF v_run.status = 'failed' AND v_issue.next_attempt_after = v_run_id THEN
        UPDATE loop_issues SET next_attempt_at = NULL, next_attempt_after = NULL WHERE id = v_issue.id;
        INSERT INTO loop_events (issue_id, run_id, event_type, event_data, occurred_at)
        VALUES (v_issue.id, v_run_id, 'loop_retry_cancelled', jsonb_strip_nulls(jsonb_build_object(
            'actor', request ->> 'actor', 'principal', request ->> 'principal', 'reason', request ->> 'reason')), v_now);
    ELSIF v_run.status <> 'cancelled' AND NOT EXISTS (
        SELECT
        FROM loop_events
        WHERE issue_id = v_run.issue_id AND run_id = v_run_id AND event_type = 'loop_retry_cancelled'
            AND occurred_at >= v_run.completed_at
    ) THEN
        v_outcome := 'finished';
    END IF;
    v_answer := loop_get_run(v_run_id);
    RETURN v_answer || jsonb_build_object(
        'outcome', v_outcome,
        'recorded', v_run.completed_at IS NULL AND v_answer -> 'run' ->> 'completed_at' IS NOT NULL);
END
$$;

-- Puts an issue into a state by hand: the way out of one that its loop does not know. Refused while a run is live.
--
-- request: issueId, state, reason, actor; optional principal, ifMatch [versions]
-- answer:  outcome set {issue, run, now: loop_get_issue} | issueNotFound | stale {issue} | conflict {run, now}
CREATE OR REPLACE FUNCTION loop_set_state(request jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v_issue loop_issues;
    v_run   loop_runs;
    v_now   timestamptz;
BEGIN
    SELECT * INTO v_issue FROM loop_issues WHERE id = request ->> 'issueId' FOR NO KEY UPDATE;
    v_now := clock_timestamp();
    IF NOT FOUND THEN
        RETURN jsonb_build_object('outcome', 'issueNotFound');
    ELSIF request ? 'ifMatch' AND NOT request -> 'ifMatch' @> to_jsonb(v_issue.version) THEN
        RETURN jsonb_build_object('outcome', 'stale', 'issue', to_jsonb(v_issue));
    END IF;

    SELECT * INTO v_run
    FROM loop_runs
    WHERE issue_id = v_issue.id AND mode = 'execute' AND completed_at IS NULL;
    IF v_run.lease_expires_at > v_now THEN
        RETURN jsonb_build_object('outcome', 'conflict', 'now', v_now, 'run', to_jsonb(v_run));
    ELSIF v_run.id IS NOT NULL THEN
        PERFORM loop_expire_run(v_run.id, v_now, request ->> 'actor');
    END IF;

    IF v_issue.state <> request ->> 'state' THEN
        UPDATE loop_issues
        SET state = request ->> 'state',
            version = version + 1,
            updated_at = v_now,
            failed_attempts = 0,
            failed_run_id = NULL,
            next_attempt_at = NULL,
            next_attempt_after = NULL,
            idempotency_token = NULL,
            approval_requesters = approval_requesters || jsonb_build_object(
                'actor', request ->> 'actor', 'principal', request ->> 'principal') -- who moves it does not approve it
        WHERE id = v_issue.id;

        INSERT INTO loop_events (issue_id, event_type, event_data, occurred_at)
        VALUES (v_issue.id, 'loop_state_set', jsonb_strip_nulls(jsonb_build_object(
            'actor', request ->> 'actor', 'principal', request ->> 'principal', 'reason', request ->> 'reason',
            'stateBefore', v_issue.state, 'stateAfter', request ->> 'state', 'version', v_issue.version + 1)), v_now);
    END IF;
    RETURN jsonb_build_object('outcome', 'set') || loop_get_issue(v_issue.id);
END
$$;

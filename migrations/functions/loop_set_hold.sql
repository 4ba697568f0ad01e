-- Holds an issue, or lets it go on. What is so already stays as it is. A live run is not torn down: it ends, and its end
-- moves the state that the issue goes on from.
--
-- request: issueId, hold (boolean), actor; optional reason, principal, ifMatch [versions]
-- answer:  outcome set {issue, run, now: loop_get_issue} | issueNotFound | stale {issue}
CREATE OR REPLACE FUNCTION loop_set_hold(request jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v_is_hold boolean := (request ->> 'hold')::boolean;
    v_issue   loop_issues;
    v_now     timestamptz;
BEGIN
    SELECT * INTO v_issue FROM loop_issues WHERE id = request ->> 'issueId' FOR NO KEY UPDATE;
    v_now := clock_timestamp();
    IF NOT FOUND THEN
        RETURN jsonb_build_object('outcome', 'issueNotFound');
    ELSIF request ? 'ifMatch' AND NOT request -> 'ifMatch' @> to_jsonb(v_issue.version) THEN
        RETURN jsonb_build_object('outcome', 'stale', 'issue', to_jsonb(v_issue));
    END IF;

    IF v_is_hold <> (v_issue.hold IS NOT NULL) THEN
        UPDATE loop_issues
        SET hold = CASE WHEN v_is_hold THEN jsonb_build_object(
                'reason', request ->> 'reason', 'by', request ->> 'actor', 'since', v_now) END,
            version = version + 1,
            updated_at = v_now,
            next_attempt_sent_at = NULL -- messages that came while it was held were in vain
        WHERE id = v_issue.id
        RETURNING * INTO v_issue;

        INSERT INTO loop_events (issue_id, event_type, event_data, occurred_at)
        VALUES (v_issue.id, CASE WHEN v_is_hold THEN 'loop_issue_held' ELSE 'loop_issue_resumed' END,
                jsonb_strip_nulls(jsonb_build_object(
                    'actor', request ->> 'actor', 'principal', request ->> 'principal', 'reason', request ->> 'reason',
                    'state', v_issue.state, 'version', v_issue.version)), v_now);
    END IF;
    RETURN jsonb_build_object('outcome', 'set') || loop_get_issue(v_issue.id);
END
$$;

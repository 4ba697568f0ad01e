-- Records a decision on the issue as it is now: it counts for this version and for no other. With four eyes nobody approves
-- what they registered or ran into themselves: persons and the principals that may speak for them are compared. The same
-- decision again stays as it is.
--
-- request: issueId, ifMatch [versions], decision, actor, stepNumber, stepType, fourEyes, version;
--          optional principal, comment
-- answer:  outcome decided {issue, run, now: loop_get_issue} | issueNotFound | stale {issue} | sameEyes {actor}
CREATE OR REPLACE FUNCTION loop_decide(request jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v_issue loop_issues;
    v_other jsonb;
    v_new   jsonb;
    v_now   timestamptz;
BEGIN
    SELECT * INTO v_issue FROM loop_issues WHERE id = request ->> 'issueId' FOR NO KEY UPDATE;
    v_now := clock_timestamp();
    IF NOT FOUND THEN
        RETURN jsonb_build_object('outcome', 'issueNotFound');
    ELSIF NOT request -> 'ifMatch' @> to_jsonb(v_issue.version) OR request -> 'version' <> to_jsonb(v_issue.version) THEN
        RETURN jsonb_build_object('outcome', 'stale', 'issue', to_jsonb(v_issue));
    END IF;

    IF (request ->> 'fourEyes')::boolean AND request ->> 'decision' = 'approved' THEN
        SELECT q INTO v_other
        FROM jsonb_array_elements(v_issue.approval_requesters || jsonb_build_object(
            'actor', v_issue.registered_by, 'principal', v_issue.registered_principal)) AS q
        WHERE q ->> 'actor' IN (request ->> 'actor', request ->> 'principal')
            OR q ->> 'principal' = request ->> 'actor'
        LIMIT 1;
        IF FOUND THEN
            RETURN jsonb_build_object('outcome', 'sameEyes', 'actor', v_other ->> 'actor');
        END IF;
    END IF;

    v_new := jsonb_strip_nulls(jsonb_build_object(
        'decision', request ->> 'decision', 'actor', request ->> 'actor', 'principal', request ->> 'principal',
        'comment', request ->> 'comment', 'version', v_issue.version, 'stepNumber', request -> 'stepNumber'));

    IF v_new IS DISTINCT FROM v_issue.approval - 'at' THEN
        UPDATE loop_issues
        SET approval = v_new || jsonb_build_object('at', v_now)
        WHERE id = v_issue.id;

        INSERT INTO loop_events (issue_id, event_type, event_data, occurred_at)
        VALUES (v_issue.id, 'loop_approval_decided', v_new || jsonb_build_object(
            'stepType', request ->> 'stepType'), v_now);
    END IF;
    RETURN jsonb_build_object('outcome', 'decided') || loop_get_issue(v_issue.id);
END
$$;

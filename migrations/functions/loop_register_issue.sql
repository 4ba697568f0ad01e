-- Registers an issue, or returns the one that is there, unchanged.
--
-- request: issueId, loop, state, facts, actor; optional principal
-- answer:  created, issue
CREATE OR REPLACE FUNCTION loop_register_issue(request jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v_now   timestamptz := clock_timestamp();
    v_issue loop_issues;
BEGIN
    INSERT INTO loop_issues (id, loop_name, state, facts, created_at, updated_at)
    VALUES (request ->> 'issueId', request ->> 'loop', request ->> 'state', loop_merge_patch('{}', request -> 'facts'), v_now, v_now)
    ON CONFLICT (id) DO NOTHING
    RETURNING * INTO v_issue;

    IF NOT FOUND THEN
        SELECT * INTO v_issue FROM loop_issues WHERE id = request ->> 'issueId';
        RETURN jsonb_build_object('created', false, 'issue', to_jsonb(v_issue));
    END IF;

    INSERT INTO loop_events (issue_id, event_type, event_data, occurred_at)
    VALUES (v_issue.id, 'loop_issue_registered', jsonb_strip_nulls(jsonb_build_object(
        'actor', request ->> 'actor', 'principal', request ->> 'principal', 'loop', v_issue.loop_name,
        'state', v_issue.state)), v_now);
    RETURN jsonb_build_object('created', true, 'issue', to_jsonb(v_issue));
END
$$;

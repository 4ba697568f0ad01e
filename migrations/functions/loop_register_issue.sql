-- Registers an issue, or returns the one that is there, unchanged.
--
-- request: issueId, loop, state, facts (without nulls: RFC 7396), actor, maxBytes; optional principal
-- answer:  outcome registered or known {issue, run, now: loop_get_issue} | tooLarge {bytes}
CREATE OR REPLACE FUNCTION loop_register_issue(request jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v_now   timestamptz := clock_timestamp();
    v_facts jsonb := loop_merge_patch('{}', request -> 'facts');
    v_issue loop_issues;
BEGIN
    IF octet_length(v_facts::text) > (request ->> 'maxBytes')::integer THEN
        RETURN jsonb_build_object('outcome', 'tooLarge', 'bytes', octet_length(v_facts::text));
    END IF;

    INSERT INTO loop_issues (
        id, loop_name, state, facts, registered_by, registered_principal, created_at, updated_at
    ) VALUES (
        request ->> 'issueId', request ->> 'loop', request ->> 'state', v_facts, request ->> 'actor',
        request ->> 'principal', v_now, v_now
    )
    ON CONFLICT (id) DO NOTHING
    RETURNING * INTO v_issue;

    IF NOT FOUND THEN
        RETURN jsonb_build_object('outcome', 'known') || loop_get_issue(request ->> 'issueId');
    END IF;

    INSERT INTO loop_events (issue_id, event_type, event_data, occurred_at)
    VALUES (v_issue.id, 'loop_issue_registered', jsonb_strip_nulls(jsonb_build_object(
        'actor', request ->> 'actor', 'principal', request ->> 'principal', 'loop', v_issue.loop_name,
        'state', v_issue.state)), v_now);
    RETURN jsonb_build_object('outcome', 'registered') || loop_get_issue(v_issue.id);
END
$$;

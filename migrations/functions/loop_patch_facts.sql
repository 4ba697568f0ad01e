-- Merges a patch (RFC 7396) into an issue's facts, under the issue's lock. A patch that changes nothing leaves the
-- version and the timeline as they are. Facts larger than maxBytes are refused.
--
-- request: issueId, patch, actor, maxBytes; optional principal, ifMatch [versions],
--          protected {loop: [top-level keys that only steps write], null where nobody knows}
-- answer:  outcome patched {issue, run, now: loop_get_issue} | issueNotFound | stale {issue} | protected {keys} |
--          protectionUnknown | tooLarge {bytes}
CREATE OR REPLACE FUNCTION loop_patch_facts(request jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v_issue loop_issues;
    v_facts jsonb;
    v_keys  jsonb;
    v_now   timestamptz;
BEGIN
    SELECT * INTO v_issue FROM loop_issues WHERE id = request ->> 'issueId' FOR NO KEY UPDATE;
    v_now := clock_timestamp();
    IF NOT FOUND THEN
        RETURN jsonb_build_object('outcome', 'issueNotFound');
    END IF;
    IF request ? 'ifMatch' AND NOT request -> 'ifMatch' @> to_jsonb(v_issue.version) THEN
        RETURN jsonb_build_object('outcome', 'stale', 'issue', to_jsonb(v_issue));
    END IF;

    IF request -> 'protected' -> v_issue.loop_name = 'null' THEN
        RETURN jsonb_build_object('outcome', 'protectionUnknown');
    END IF;
    SELECT jsonb_agg(key) INTO v_keys
    FROM jsonb_array_elements_text(request -> 'protected' -> v_issue.loop_name) AS key
    WHERE request -> 'patch' ? key;
    IF v_keys IS NOT NULL THEN
        RETURN jsonb_build_object('outcome', 'protected', 'keys', v_keys);
    END IF;

    v_facts := loop_merge_patch(v_issue.facts, request -> 'patch');
    IF octet_length(v_facts::text) > (request ->> 'maxBytes')::integer THEN
        RETURN jsonb_build_object('outcome', 'tooLarge', 'bytes', octet_length(v_facts::text));
    END IF;

    IF v_facts IS DISTINCT FROM v_issue.facts THEN
        UPDATE loop_issues
        SET facts = v_facts, version = version + 1, updated_at = v_now
        WHERE id = v_issue.id
        RETURNING * INTO v_issue;

        INSERT INTO loop_events (issue_id, event_type, event_data, occurred_at)
        VALUES (v_issue.id, 'loop_facts_changed', jsonb_strip_nulls(jsonb_build_object(
            'actor', request ->> 'actor', 'principal', request ->> 'principal', 'version', v_issue.version,
            'factKeys', loop_fact_keys(request -> 'patch'))), v_now);
    END IF;
    RETURN jsonb_build_object('outcome', 'patched') || loop_get_issue(v_issue.id);
END
$$;

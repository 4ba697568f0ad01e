-- An issue, the run that owns it, and the clock when both were read: {issue, run, now}; null where there is no issue.
CREATE OR REPLACE FUNCTION loop_get_issue(wanted_issue_id text) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('issue', to_jsonb(i), 'run', to_jsonb(r), 'now', clock_timestamp())
    FROM loop_issues AS i
    LEFT JOIN loop_runs AS r ON r.issue_id = i.id AND r.mode = 'execute' AND r.completed_at IS NULL
    WHERE i.id = wanted_issue_id
$$;

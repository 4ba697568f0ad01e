-- What a call with a task token must know before it tells an outcome: {issue, run, step, now}; step is the one that waits
-- for it, null where none does; null where there is no such run.
CREATE OR REPLACE FUNCTION loop_get_waiting(wanted_run_id uuid) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('issue', to_jsonb(i), 'run', to_jsonb(r), 'step', to_jsonb(s), 'now', clock_timestamp())
    FROM loop_runs AS r
    LEFT JOIN loop_issues AS i ON i.id = r.issue_id
    LEFT JOIN loop_run_steps AS s ON s.run_id = r.id AND s.task_token_hash IS NOT NULL
    WHERE r.id = wanted_run_id
$$;

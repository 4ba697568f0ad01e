-- A run and the steps it touched, as answers are made from them: {run, steps}; null where there is no such run.
CREATE OR REPLACE FUNCTION loop_get_run(wanted_run_id uuid) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('run', to_jsonb(r), 'steps', coalesce((
        SELECT jsonb_agg(to_jsonb(s) ORDER BY s.step_number) FROM loop_run_steps AS s WHERE s.run_id = r.id
    ), '[]'))
    FROM loop_runs AS r
    WHERE r.id = wanted_run_id
$$;

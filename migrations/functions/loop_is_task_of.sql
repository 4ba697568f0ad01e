-- Whether the token, by its hash, is that of the step for whose outcome the run waits.
CREATE OR REPLACE FUNCTION loop_is_task_of(wanted_run_id uuid, wanted_hash text) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM loop_run_steps WHERE run_id = wanted_run_id AND status = 'running' AND task_token_hash = wanted_hash
    )
$$;

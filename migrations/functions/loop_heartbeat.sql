-- Extends the lease of a run that waits: until the next heartbeat is due, never beyond the step's timeout.
--
-- request: runId, issueId, tokenHash
-- answer:  recorded, run, steps
CREATE OR REPLACE FUNCTION loop_heartbeat(request jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v_now   timestamptz;
    v_found boolean;
BEGIN
    PERFORM FROM loop_issues WHERE id = request ->> 'issueId' FOR NO KEY UPDATE;
    v_now := clock_timestamp();

    UPDATE loop_runs AS r
    SET lease_expires_at = greatest(
            CASE WHEN r.loop_status IS NULL THEN r.lease_expires_at END, -- of the process that has not parked it yet
            least(v_now + s.heartbeat_seconds * interval '1 second', s.timeout_at))
    FROM loop_run_steps AS s
    WHERE r.id = (request ->> 'runId')::uuid AND r.completed_at IS NULL AND r.status <> 'pending'
        AND s.run_id = r.id AND s.status = 'running' AND s.task_token_hash = request ->> 'tokenHash'
        AND s.timeout_at > v_now;
    v_found := FOUND;
    RETURN jsonb_build_object('recorded', v_found) || loop_get_run((request ->> 'runId')::uuid);
END
$$;

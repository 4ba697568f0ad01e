-- What loop_finish does where its run does not end as it was told: one that is to be cancelled ends so, keeping what came
-- of its step; any other is given as it stands. The caller holds the issue's lock and has taken at_time after it.
CREATE OR REPLACE FUNCTION loop_finish_cancelled(request jsonb, at_time timestamptz) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v_run_id uuid := (request ->> 'runId')::uuid;
    v_is_ours boolean;
BEGIN
    SELECT r.lease_token = (request ->> 'leaseToken')::uuid OR loop_is_task_of(r.id, request ->> 'tokenHash') INTO v_is_ours
    FROM loop_runs AS r
    WHERE r.id = v_run_id AND r.completed_at IS NULL AND r.status <> 'pending' AND r.cancel_requested_at IS NOT NULL;

    IF v_is_ours THEN
        PERFORM loop_end_cancelled(v_run_id, at_time, jsonb_strip_nulls(jsonb_build_object(
            'status', request ->> 'status', 'facts', request -> 'facts', 'message', request ->> 'message',
            'errorCode', request ->> 'errorCode', 'blockerCode', request ->> 'blockerCode',
            'toldId', request ->> 'toldId')));
    END IF;
    RETURN jsonb_build_object('recorded', coalesce(v_is_ours, false)) || loop_get_run(v_run_id);
END
$$;

-- Ends live runs whose lease is over, at most maxRuns of them. Several sweepers at once do not wait for each other: an
-- issue, or a run without an issue, that somebody has locked is left to them, or to the next sweep.
--
-- request: maxRuns, endedBy
-- answer:  ended [run ids], runs: the same as they stand
CREATE OR REPLACE FUNCTION loop_sweep(request jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v_lost  record;
    v_ended jsonb := '[]';
    v_runs  jsonb := '[]';
    v_now   timestamptz;
BEGIN
    FOR v_lost IN
        SELECT r.id, r.issue_id
        FROM loop_runs AS r
        WHERE r.mode = 'execute' AND r.completed_at IS NULL AND r.lease_expires_at <= clock_timestamp()
        ORDER BY r.lease_expires_at
        LIMIT (request ->> 'maxRuns')::integer
    LOOP
        PERFORM FROM loop_issues WHERE id = v_lost.issue_id FOR NO KEY UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND AND EXISTS (SELECT FROM loop_issues WHERE id = v_lost.issue_id);
        v_now := clock_timestamp();

        PERFORM
        FROM loop_runs
        WHERE id = v_lost.id AND completed_at IS NULL AND lease_expires_at <= v_now
        FOR NO KEY UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND; -- ended or extended meanwhile, or somebody is about to

        PERFORM loop_expire_run(v_lost.id, v_now, request ->> 'endedBy');
        v_ended := v_ended || to_jsonb(v_lost.id);
        v_runs := v_runs || (SELECT to_jsonb(r) FROM loop_runs AS r WHERE r.id = v_lost.id);
    END LOOP;
    RETURN jsonb_build_object('ended', v_ended, 'runs', v_runs);
END
$$;

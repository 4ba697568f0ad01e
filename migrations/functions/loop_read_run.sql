-- A run with its steps, its events, newest first, and the run that retried it; null where there is no such run. Its events lie
-- between its beginning and its end; only that its retry is cancelled comes later, and soon; the run that retries it is one
-- of the next, too. It reads no more of an issue with many runs: see loop_list_runs on sorts and arrays.
--
-- answer: the run's columns, steps [], events [], retried_by
CREATE OR REPLACE FUNCTION loop_read_run(wanted_run_id uuid) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET enable_bitmapscan = off
SET enable_sort = off
SET jit = off
AS $$
DECLARE
    v_run     loop_runs;
    v_events  jsonb;
    v_retried uuid;
BEGIN
    SELECT * INTO v_run FROM loop_runs WHERE id = wanted_run_id;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    SELECT coalesce(jsonb_agg(to_jsonb(e) ORDER BY e.occurred_at DESC, e.event_id DESC), '[]') INTO v_events
    FROM (
        SELECT *
        FROM loop_events
        WHERE issue_id = v_run.issue_id AND run_id = v_run.id
            AND occurred_at >= v_run.created_at AND occurred_at <= coalesce(v_run.completed_at, 'infinity')
        UNION ALL
        SELECT *
        FROM (
            SELECT *
            FROM loop_events
            WHERE issue_id = v_run.issue_id AND occurred_at > v_run.completed_at AND v_run.retry_at IS NOT NULL
            ORDER BY occurred_at, event_id
            LIMIT 100
        ) AS following
        WHERE run_id = v_run.id
    ) AS e;

    IF v_run.status = 'failed' THEN -- no other is retried
        SELECT following.id INTO v_retried
        FROM (
            SELECT id, retry_of, created_at
            FROM loop_runs
            WHERE issue_id = ANY(ARRAY[v_run.issue_id]) AND (created_at, id) > (v_run.created_at, v_run.id)
            ORDER BY issue_id DESC, created_at, id
            LIMIT 100
        ) AS following
        WHERE following.retry_of = v_run.id
        ORDER BY following.created_at
        LIMIT 1;
    END IF;

    RETURN to_jsonb(v_run) || jsonb_build_object(
        'steps', loop_get_run(v_run.id) -> 'steps', 'events', v_events, 'retried_by', v_retried);
END
$$;

-- What the runs that execute did which were recorded in a window (dry runs do not count), and what is at work now. Reads
-- what is in the window and no more, however old the ledger is. Durations are [p50, p95, longest] in milliseconds, of steps
-- that were executed or of runs; null where there is nothing to measure. An episode is an unbroken row of runs of an issue
-- that were blocked by the same code; it lasts until the issue's next other run in the window, else until the window's end.
--
-- request: maxSeconds, the longest window; optional since (a day before until), until (now)
-- answer:  outcome measured {since, until,
--             runs {total, byStatus {status: count}, retries, durations},
--             steps [{loop, stepNumber, stepType, byStatus, durations}], by loop and number,
--             blocked [{code, runs, issues, ongoing, durations}], most runs first,
--             hours [{hour, byStatus, durations}], every hour of the window, UTC,
--             live {total, oldest: a run}} | badWindow
CREATE OR REPLACE FUNCTION loop_stats(request jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET jit = off -- compiling takes longer than it saves
AS $$
DECLARE
    v_until timestamptz := coalesce((request ->> 'until')::timestamptz, clock_timestamp());
    v_since timestamptz := coalesce((request ->> 'since')::timestamptz, v_until - interval '1 day');
BEGIN
    IF v_since >= v_until OR v_until - v_since > (request ->> 'maxSeconds')::float8 * interval '1 second' THEN
        RETURN jsonb_build_object('outcome', 'badWindow');
    END IF;

    RETURN (
    WITH runs AS MATERIALIZED (
        SELECT
            r.id, r.issue_id, r.status, r.loop_name, r.attempt, r.blocker_code, r.created_at, r.duration_ms,
            date_trunc('hour', r.created_at, 'UTC') AS hour
        FROM loop_runs AS r
        WHERE r.created_at >= v_since AND r.created_at < v_until AND r.mode = 'execute'
    ),
    executed AS MATERIALIZED (
        SELECT r.loop_name, r.hour, s.step_number, s.step_type, s.status, s.duration_ms
        FROM runs AS r
        CROSS JOIN LATERAL ( -- run by run: a join may read every step that there is
            SELECT step_number, step_type, status, duration_ms
            FROM loop_run_steps
            WHERE run_id = r.id AND started_at IS NOT NULL
            OFFSET 0
        ) AS s
    ),
    in_all AS (
        SELECT
            count(*) AS total,
            count(*) FILTER (WHERE attempt > 1) AS retries,
            percentile_disc(ARRAY[0.5, 0.95, 1]) WITHIN GROUP (ORDER BY duration_ms) AS durations
        FROM runs
    ),
    statuses AS (
        SELECT status, count(*) AS n FROM runs GROUP BY status
    ),
    step_statuses AS (
        SELECT loop_name, step_number, step_type, status, count(*) AS n
        FROM executed
        GROUP BY loop_name, step_number, step_type, status
    ),
    step_durations AS (
        SELECT
            loop_name, step_number, step_type,
            percentile_disc(ARRAY[0.5, 0.95, 1]) WITHIN GROUP (ORDER BY duration_ms) AS durations
        FROM executed
        GROUP BY loop_name, step_number, step_type
    ),
    ordered AS (
        SELECT
            issue_id, blocker_code, created_at, id,
            lag(blocker_code) OVER (PARTITION BY issue_id ORDER BY created_at, id) AS code_before
        FROM runs
    ),
    episodes AS (
        SELECT
            issue_id, blocker_code, runs, since_at,
            lead(since_at) OVER (PARTITION BY issue_id ORDER BY since_at) AS until_at
        FROM (
            SELECT issue_id, blocker_code, count(*) AS runs, min(created_at) AS since_at
            FROM (
                SELECT
                    issue_id, blocker_code, created_at,
                    sum((blocker_code IS DISTINCT FROM code_before)::integer) OVER (
                        PARTITION BY issue_id ORDER BY created_at, id ROWS UNBOUNDED PRECEDING) AS episode
                FROM ordered
            ) AS numbered
            GROUP BY issue_id, blocker_code, episode
        ) AS grouped
    ),
    blocked AS (
        SELECT
            blocker_code, sum(runs) AS runs, count(DISTINCT issue_id) AS issues,
            count(*) FILTER (WHERE until_at IS NULL) AS ongoing,
            percentile_disc(ARRAY[0.5, 0.95, 1]) WITHIN GROUP (
                ORDER BY loop_duration_ms(since_at, coalesce(until_at, least(v_until, clock_timestamp())))) AS durations
        FROM episodes
        WHERE blocker_code IS NOT NULL
        GROUP BY blocker_code
    ),
    hour_statuses AS (
        SELECT hour, jsonb_object_agg(status, n) AS by_status
        FROM (SELECT hour, status, count(*) AS n FROM runs GROUP BY hour, status) AS counted
        GROUP BY hour
    ),
    hour_durations AS (
        SELECT hour, percentile_disc(ARRAY[0.5, 0.95, 1]) WITHIN GROUP (ORDER BY duration_ms) AS durations
        FROM executed
        GROUP BY hour
    ),
    live AS MATERIALIZED ( -- by its partial index; ORDER BY … LIMIT 1 would walk the ledger to the oldest
        SELECT r.* FROM loop_runs AS r WHERE r.mode = 'execute' AND r.completed_at IS NULL
    )
    SELECT jsonb_build_object(
        'outcome', 'measured', 'since', v_since, 'until', v_until,
        'runs', (
            SELECT jsonb_build_object(
                'total', total, 'retries', retries, 'durations', durations,
                'byStatus', (SELECT coalesce(jsonb_object_agg(status, n), '{}') FROM statuses))
            FROM in_all
        ),
        'steps', (
            SELECT coalesce(jsonb_agg(jsonb_build_object(
                'loop', d.loop_name, 'stepNumber', d.step_number, 'stepType', d.step_type, 'durations', d.durations,
                'byStatus', (
                    SELECT jsonb_object_agg(s.status, s.n)
                    FROM step_statuses AS s
                    WHERE (s.loop_name, s.step_number, s.step_type) IS NOT DISTINCT FROM (d.loop_name, d.step_number, d.step_type))
                ) ORDER BY d.loop_name, d.step_number, d.step_type), '[]')
            FROM step_durations AS d
        ),
        'blocked', (
            SELECT coalesce(jsonb_agg(jsonb_build_object(
                'code', blocker_code, 'runs', runs, 'issues', issues, 'ongoing', ongoing, 'durations', durations
                ) ORDER BY runs DESC, blocker_code), '[]')
            FROM blocked
        ),
        'hours', (
            SELECT coalesce(jsonb_agg(jsonb_build_object(
                'hour', h.hour, 'byStatus', coalesce(s.by_status, '{}'), 'durations', d.durations) ORDER BY h.hour), '[]')
            FROM generate_series(date_trunc('hour', v_since, 'UTC'), v_until - interval '1 microsecond', interval '1 hour') AS h (hour)
            LEFT JOIN hour_statuses AS s ON s.hour = h.hour
            LEFT JOIN hour_durations AS d ON d.hour = h.hour
        ),
        'live', jsonb_build_object(
            'total', (SELECT count(*) FROM live),
            'oldest', (SELECT to_jsonb(l) FROM live AS l ORDER BY l.created_at, l.id LIMIT 1)
        )
    )
    );
END
$$;

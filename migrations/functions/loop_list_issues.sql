-- Issues without their facts, newest first, each with its last run that executes: of each loop and state that there are and
-- that are wanted, the newest, by one index. It reads no more of many issues than of few: see loop_list_runs on sorts.
--
-- request: limit; optional loop, state, beforeAt with beforeId
-- answer:  issues [each with last_run, null without one]
CREATE OR REPLACE FUNCTION loop_list_issues(request jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET enable_bitmapscan = off
SET enable_seqscan = off
SET enable_sort = off
SET jit = off
AS $$
DECLARE
    v_loop      text := request ->> 'loop';
    v_state     text := request ->> 'state';
    v_before_at timestamptz := coalesce((request ->> 'beforeAt')::timestamptz, 'infinity');
    v_before_id text := coalesce(request ->> 'beforeId', '');
    v_limit     integer := (request ->> 'limit')::integer;
BEGIN
    RETURN (
        WITH RECURSIVE kinds AS (
            (SELECT loop_name, state FROM loop_issues ORDER BY loop_name, state LIMIT 1)
            UNION ALL
            SELECT following.loop_name, following.state
            FROM kinds AS k
            CROSS JOIN LATERAL (
                SELECT loop_name, state
                FROM loop_issues
                WHERE (loop_name, state) > (k.loop_name, k.state)
                ORDER BY loop_name, state
                LIMIT 1
            ) AS following
        ),
        listed AS MATERIALIZED (
            SELECT i.*
            FROM kinds AS k
            CROSS JOIN LATERAL (
                SELECT id, loop_name, state, version, hold, next_attempt_at, created_at, updated_at
                FROM loop_issues
                WHERE loop_name = k.loop_name AND state = k.state AND (created_at, id) < (v_before_at, v_before_id)
                ORDER BY created_at DESC, id DESC
                LIMIT v_limit
            ) AS i
            WHERE (v_loop IS NULL OR k.loop_name = v_loop) AND (v_state IS NULL OR k.state = v_state)
            ORDER BY i.created_at DESC, i.id DESC
            LIMIT v_limit
        )
        SELECT jsonb_build_object('issues', coalesce(jsonb_agg(
            to_jsonb(i) || jsonb_build_object('last_run', (
                SELECT to_jsonb(r)
                FROM (
                    SELECT * FROM loop_runs WHERE issue_id = i.id ORDER BY created_at DESC, id DESC LIMIT 50
                ) AS r
                WHERE r.mode = 'execute'
                ORDER BY r.created_at DESC, r.id DESC
                LIMIT 1
            )) ORDER BY i.created_at DESC, i.id DESC), '[]'))
        FROM listed AS i
    );
END
$$;

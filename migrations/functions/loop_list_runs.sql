-- Runs of all issues, newest first. What an index finds (status, time) is read along it; of what none finds (loop, actor),
-- ``scan`` runs are looked at. The last of these comes along, whether it fits or not: the next page goes on behind it.
--
-- One bound from above, a row: of two (until, and the run to go on behind) the index would be entered by the time alone, and
-- walked from there to the cursor, through all that is newer.
--
-- An array and an order that begins with the status: only the index of statuses serves both. With an equality the planner
-- may walk all runs by time, in the hope that one of a rare status comes soon. Without sorts and bitmaps it cannot read
-- every run of a status to sort them, either, whatever its statistics say. Where it must sort a page all the same, that looks
-- so expensive that it would compile the plan, in half a second: not without jit.
-- There is one plan for whatever is asked; to make it anew for each call takes as long as the page itself.
--
-- request: limit, scan; optional statuses [], loop, actor, since, until, beforeAt with beforeId
-- answer:  runs [each with place, from 1, and whether it fits]
CREATE OR REPLACE FUNCTION loop_list_runs(request jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET enable_bitmapscan = off
SET enable_sort = off
SET jit = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_statuses  text[] := ARRAY(SELECT jsonb_array_elements_text(coalesce(request -> 'statuses', '[]')));
    v_since     timestamptz := coalesce((request ->> 'since')::timestamptz, '-infinity');
    v_until     timestamptz := coalesce((request ->> 'until')::timestamptz, 'infinity');
    v_before_at timestamptz := coalesce((request ->> 'beforeAt')::timestamptz, 'infinity');
    v_before_id uuid := coalesce(request ->> 'beforeId', 'ffffffff-ffff-ffff-ffff-ffffffffffff')::uuid;
    v_loop      text := request ->> 'loop';
    v_actor     text := request ->> 'actor';
    v_scan      integer := (request ->> 'scan')::integer;
BEGIN
    IF v_until <= v_before_at THEN -- nothing of that instant
        v_before_at := v_until;
        v_before_id := '00000000-0000-0000-0000-000000000000';
    END IF;
    RETURN (
        SELECT jsonb_build_object('runs', coalesce(jsonb_agg(to_jsonb(l) ORDER BY l.place), '[]'))
        FROM (
            SELECT *
            FROM (
                SELECT
                    r.*,
                    row_number() OVER (ORDER BY r.created_at DESC, r.id DESC) AS place,
                    (v_loop IS NULL OR r.loop_name = v_loop) AND (v_actor IS NULL OR r.actor = v_actor) AS fits
                FROM (
                    (
                        SELECT *
                        FROM loop_runs
                        WHERE v_statuses = '{}'
                            AND created_at >= v_since
                            AND (created_at, id) < (v_before_at, v_before_id)
                        ORDER BY created_at DESC, id DESC
                        LIMIT v_scan
                    )
                    UNION ALL
                    SELECT of_status.*
                    FROM unnest(v_statuses) AS wanted (status)
                    CROSS JOIN LATERAL (
                        SELECT *
                        FROM loop_runs
                        WHERE status = ANY(ARRAY[wanted.status])
                            AND created_at >= v_since
                            AND (created_at, id) < (v_before_at, v_before_id)
                        ORDER BY status, created_at DESC, id DESC
                        LIMIT v_scan
                    ) AS of_status
                ) AS r
                ORDER BY r.created_at DESC, r.id DESC
                LIMIT v_scan
            ) AS looked_at
            WHERE fits OR place = v_scan
            ORDER BY place
            LIMIT (request ->> 'limit')::integer
        ) AS l
    );
END
$$;

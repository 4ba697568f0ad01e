-- Deletes runs that ended before a time, the oldest first, at most max_rows of them, with their steps and events; returns
-- how many. The one way in which history goes: it runs as the owner of the schema, since loop_app may delete nothing, and
-- refuses what is younger than a day, for which Idempotency-Keys are kept. A run that its issue would retry, or that
-- planned how it goes on, stays.
CREATE OR REPLACE FUNCTION loop_purge(before timestamptz, max_rows integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET enable_seqscan = off -- some runs of many, whatever the statistics say
AS $$
DECLARE
    v_runs loop_runs[];
BEGIN
    IF before IS NULL OR before > clock_timestamp() - interval '1 day' THEN
        RAISE EXCEPTION 'loop_purge: % is less than a day ago; runs are kept for a day at least', before
            USING ERRCODE = 'LR003';
    ELSIF max_rows IS NULL OR max_rows NOT BETWEEN 1 AND 10000 THEN
        RAISE EXCEPTION 'loop_purge: max_rows is %; it must be from 1 to 10000, for a short transaction', max_rows
            USING ERRCODE = 'LR003';
    END IF;

    SELECT array_agg(old) INTO v_runs
    FROM (
        SELECT r.*
        FROM loop_runs AS r
        WHERE r.created_at < before
            AND r.completed_at < before
            AND NOT EXISTS (
                SELECT FROM loop_issues AS i WHERE i.id = r.issue_id AND r.id IN (i.failed_run_id, i.next_attempt_after)
            )
        ORDER BY r.created_at
        LIMIT max_rows
        FOR UPDATE OF r SKIP LOCKED
    ) AS old;

    DELETE FROM loop_events AS e
    USING unnest(v_runs) AS r
    WHERE e.issue_id = r.issue_id AND e.run_id = r.id
        AND e.occurred_at BETWEEN r.created_at AND greatest(r.completed_at, r.retry_at); -- a retry is cancelled before it is due

    DELETE FROM loop_runs AS d
    USING unnest(v_runs) AS r
    WHERE d.id = r.id;

    RETURN coalesce(cardinality(v_runs), 0);
END
$$;

-- A function that runs as its owner must not look where its caller tells it to.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION loop_purge(timestamptz, integer) SET search_path = pg_catalog, %I, pg_temp', current_schema());
END
$$;

REVOKE ALL ON FUNCTION loop_purge(timestamptz, integer) FROM PUBLIC;

-- Looks through the whole ledger for what the rules rule out; changes nothing. One row a rule, with how many rows of
-- which table break it and the first of their ids. It reads one snapshot, so that runs may go on meanwhile.
--
-- Three kinds of runs are told apart: those of a call (loop_name is set), those that the run store records (which moves
-- no issue, and records runs of issues that nobody registered), and those written before 086 (neither loop_name nor
-- lease), whose times were their client's. Where history may be gone, only neighbours that are there are compared.
CREATE OR REPLACE FUNCTION loop_audit(max_ids integer DEFAULT 20)
RETURNS TABLE (rule text, table_name text, meaning text, violations bigint, ids text [])
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH runs AS NOT MATERIALIZED (
        SELECT
            r.*,
            r.loop_name IS NOT NULL AS is_of_call,
            r.loop_name IS NULL AND r.lease_expires_at IS NULL AS is_old,
            r.status IN ('completed', 'failed', 'blocked', 'cancelled') AS has_ended
        FROM loop_runs AS r
    ),
    steps AS NOT MATERIALIZED (
        SELECT
            s.*, r.is_of_call, r.is_old, r.has_ended AS run_has_ended, r.loop_version,
            s.status IN ('completed', 'failed', 'blocked', 'cancelled', 'skipped') AS has_ended
        FROM loop_run_steps AS s
        INNER JOIN runs AS r ON r.id = s.run_id
    ),
    run_events AS (
        SELECT
            e.run_id,
            count(*) FILTER (WHERE e.event_type = 'loop_run_started') AS starts,
            count(*) FILTER (WHERE e.event_type = 'loop_run_queued') AS queued,
            count(*) FILTER (WHERE e.event_type = 'loop_retry_planned') AS retries,
            min(e.event_id) FILTER (WHERE e.event_type = 'loop_run_queued') AS queue_id,
            coalesce(array_agg(e.event_type) FILTER (
                WHERE e.event_type IN ('loop_run_finished', 'loop_run_blocked', 'loop_run_failed', 'loop_run_cancelled')
            ), '{}') AS ends,
            min(e.event_id) FILTER (WHERE e.event_type = 'loop_run_started') AS start_id,
            max(e.event_id) FILTER (
                WHERE e.event_type IN ('loop_run_finished', 'loop_run_blocked', 'loop_run_failed', 'loop_run_cancelled')
            ) AS end_id
        FROM loop_events AS e
        WHERE e.run_id IS NOT NULL
        GROUP BY e.run_id
    ),
    -- What may have moved an issue, in order. A state that the ledger does not tell is null: nothing is compared with it.
    moves AS (
        SELECT
            e.issue_id, e.event_id, r.id AS run_id, r.status, r.issue_version, r.started_at IS NOT NULL AS is_attempt,
            coalesce(r.state_before, e.event_data ->> 'stateBefore') AS state_before,
            coalesce(r.state_after, e.event_data ->> 'stateAfter', CASE
                -- what has moved it since may have been purged, but for that of the last day
                WHEN e.run_id IS NULL AND e.occurred_at > now() - interval '1 day'
                    THEN e.event_data ->> 'state'
            END) AS state_after
        FROM loop_events AS e
        LEFT JOIN runs AS r ON r.id = e.run_id
        WHERE e.event_type IN (
            'loop_issue_registered', 'loop_state_set', 'loop_issue_held', 'loop_issue_resumed',
            'loop_run_finished', 'loop_run_blocked', 'loop_run_failed', 'loop_run_cancelled'
        )
            AND (r.id IS NULL OR (r.is_of_call AND r.mode = 'execute'))
    ),
    chain AS (
        SELECT
            m.*,
            lag(m.state_after) OVER issue AS state_found,
            max(m.issue_version) OVER (issue ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS version_found,
            lead(m.event_id) OVER issue IS NULL AS is_last
        FROM moves AS m
        -- a run that did not complete leaves the issue where it was, whatever it tells of it
        WHERE m.state_after IS NOT NULL OR m.status IS NULL OR m.status = 'completed'
        WINDOW issue AS (PARTITION BY m.issue_id ORDER BY m.event_id)
    ),
    findings (rule, table_name, meaning, ids) AS (
        -- ------------------------------------------------------------------------------------------------- runs
        SELECT 'one-live-run', 'loop_runs', 'At most one execute run of an issue is pending or running', ARRAY(
            SELECT l.id
            FROM (
                SELECT r.id, count(*) OVER (PARTITION BY r.issue_id) AS live
                FROM runs AS r
                WHERE r.mode = 'execute' AND NOT r.has_ended
            ) AS l
            WHERE l.live > 1
            ORDER BY l.id
        )::text []
        UNION ALL
        SELECT 'one-run-at-a-time', 'loop_runs', 'A run of an issue begins after the one before it has ended', ARRAY(
            SELECT o.id
            FROM (
                SELECT
                    r.id, r.created_at, lag(r.completed_at, 1, '-infinity') OVER (
                        PARTITION BY r.issue_id ORDER BY r.created_at, r.id
                    ) AS free_at
                FROM runs AS r
                WHERE r.mode = 'execute' AND r.is_of_call
            ) AS o
            WHERE o.created_at < coalesce(o.free_at, 'infinity')
            ORDER BY o.id
        )::text []
        UNION ALL
        SELECT 'run-end', 'loop_runs', 'A run has completed_at exactly when its status is terminal', ARRAY(
            SELECT r.id
            FROM runs AS r
            WHERE r.has_ended <> (r.completed_at IS NOT NULL)
            ORDER BY r.id
        )::text []
        UNION ALL
        SELECT
            'run-start', 'loop_runs',
            'A running, completed or blocked run has started_at, a pending one has none', ARRAY(
                SELECT r.id
                FROM runs AS r
                WHERE NOT r.is_old
                    AND r.status IN ('pending', 'running', 'completed', 'blocked')
                    AND (r.started_at IS NULL) <> (r.status = 'pending')
                ORDER BY r.id
            )::text []
        UNION ALL
        SELECT
            'run-times', 'loop_runs',
            'A run was created, started and completed in this order, and duration_ms is the difference', ARRAY(
                SELECT r.id
                FROM runs AS r
                WHERE NOT r.is_old
                    AND (
                        r.started_at < r.created_at OR r.completed_at < r.created_at OR r.completed_at < r.started_at
                        OR r.duration_ms IS DISTINCT FROM loop_duration_ms(r.started_at, r.completed_at)
                    )
                ORDER BY r.id
            )::text []
        UNION ALL
        SELECT 'run-lease', 'loop_runs', 'A live run has a lease, and a token when a call runs it', ARRAY(
            SELECT r.id
            FROM runs AS r
            WHERE NOT r.has_ended
                AND (r.lease_expires_at IS NULL OR (r.is_of_call AND r.status = 'running' AND r.lease_token IS NULL))
            ORDER BY r.id
        )::text []
        UNION ALL
        SELECT 'run-issue', 'loop_runs', 'A run of a call has an issue, and that issue''s loop', ARRAY(
            SELECT r.id
            FROM runs AS r
            LEFT JOIN loop_issues AS i ON i.id = r.issue_id
            WHERE r.is_of_call AND r.loop_name IS DISTINCT FROM i.loop_name
            ORDER BY r.id
        )::text []
        UNION ALL
        SELECT
            'run-outcome', 'loop_runs',
            'A run of a call that has ended tells the states before and after, the issue''s version and loop_status', ARRAY(
                SELECT r.id
                FROM runs AS r
                WHERE r.is_of_call AND r.started_at IS NOT NULL AND r.status IN ('completed', 'failed', 'blocked')
                    AND num_nulls(r.state_before, r.state_after, r.issue_version, r.loop_status) > 0
                ORDER BY r.id
            )::text []
        UNION ALL
        SELECT
            'run-reason', 'loop_runs',
            'Of the runs of calls, a blocked one has a blocker_code, a failed one an error_code, a completed one neither', ARRAY(
                SELECT r.id
                FROM runs AS r
                WHERE r.is_of_call
                    AND (
                        (r.status = 'blocked' AND r.blocker_code IS NULL)
                        OR (r.status = 'failed' AND r.error_code IS NULL)
                        OR (r.status = 'completed' AND num_nonnulls(r.blocker_code, r.error_code) > 0)
                    )
                ORDER BY r.id
            )::text []
        UNION ALL
        SELECT
            'dry-run', 'loop_runs',
            'A dry run has no events; that of a call has ended, has no steps and leaves the state', ARRAY(
                SELECT r.id
                FROM runs AS r
                LEFT JOIN run_events AS e ON e.run_id = r.id
                LEFT JOIN (SELECT s.run_id FROM loop_run_steps AS s GROUP BY s.run_id) AS s ON s.run_id = r.id
                WHERE r.mode = 'dryRun'
                    AND (
                        e.run_id IS NOT NULL
                        OR (r.is_of_call AND (
                            NOT r.has_ended OR s.run_id IS NOT NULL OR r.state_after IS DISTINCT FROM r.state_before
                        ))
                    )
                ORDER BY r.id
            )::text []
        UNION ALL
        SELECT
            'run-attempt', 'loop_runs',
            'Attempt n + 1 is the retry_of a failed run of its issue with attempt n, attempt 1 of none', ARRAY(
                SELECT r.id
                FROM runs AS r
                LEFT JOIN loop_runs AS p ON p.id = r.retry_of
                WHERE r.is_of_call AND r.mode = 'execute' AND r.started_at IS NOT NULL
                    AND (
                        (r.attempt = 1) <> (r.retry_of IS NULL)
                        OR p.issue_id <> r.issue_id OR p.status <> 'failed' OR p.attempt <> r.attempt - 1
                    )
                ORDER BY r.id
            )::text []
        UNION ALL
        SELECT
            'run-queued', 'loop_runs',
            'A run of a call that is or was pending has one loop_run_queued before its start, queued_at, sent_at and sends', ARRAY(
                SELECT r.id
                FROM runs AS r
                LEFT JOIN run_events AS e ON e.run_id = r.id
                WHERE r.is_of_call AND r.mode = 'execute'
                    AND (
                        coalesce(e.queued, 0) <> (r.queued_at IS NOT NULL)::integer
                        OR e.queue_id > e.start_id
                        OR (r.queued_at IS NULL) <> (r.sent_at IS NULL)
                        OR (r.queued_at IS NULL) <> (r.sends = 0)
                        OR (r.status = 'pending' AND r.queued_at IS NULL)
                    )
                ORDER BY r.id
            )::text []
        UNION ALL
        SELECT
            'run-waiting', 'loop_runs',
            'A live run of a call has a loop_status only while it waits: for one running step with a token, until its timeout', ARRAY(
                SELECT r.id
                FROM runs AS r
                WHERE r.is_of_call AND r.mode = 'execute' AND NOT r.has_ended AND r.loop_status IS NOT NULL
                    AND (
                        r.status <> 'running' OR r.loop_status <> 'paused' OR NOT EXISTS (
                            SELECT
                            FROM loop_run_steps AS s
                            WHERE s.run_id = r.id AND s.step_number = r.step AND s.status = 'running'
                                AND s.task_token_hash IS NOT NULL AND s.timeout_at >= r.lease_expires_at
                        )
                    )
                ORDER BY r.id
            )::text []
        UNION ALL
        SELECT
            'run-retry', 'loop_runs',
            'Only a failed run has retry_at, after its end and with a loop_retry_planned, and its issue is paused', ARRAY(
                SELECT r.id
                FROM runs AS r
                LEFT JOIN run_events AS e ON e.run_id = r.id
                WHERE coalesce(e.retries, 0) <> (r.retry_at IS NOT NULL)::integer
                    OR (r.retry_at IS NOT NULL AND (
                        r.status <> 'failed' OR r.loop_status <> 'paused' OR r.retry_at < r.completed_at
                    ))
                ORDER BY r.id
            )::text []
        UNION ALL
        SELECT 'run-cancelled', 'loop_runs', 'A cancelled run of a call says when and by whom that was asked for', ARRAY(
            SELECT r.id
            FROM runs AS r
            WHERE r.is_of_call AND r.status = 'cancelled'
                AND num_nulls(r.cancel_requested_at, r.cancel_requested_by) > 0
            ORDER BY r.id
        )::text []

        -- ------------------------------------------------------------------------------------------------ steps
        UNION ALL
        SELECT 'step-end', 'loop_run_steps', 'A step has completed_at exactly when its status is terminal', ARRAY(
            SELECT s.id
            FROM steps AS s
            WHERE s.has_ended <> (s.completed_at IS NOT NULL)
            ORDER BY s.id
        )::text []
        UNION ALL
        SELECT
            'step-start', 'loop_run_steps',
            'A running, completed or blocked step has started_at, a pending or skipped one has none', ARRAY(
                SELECT s.id
                FROM steps AS s
                WHERE NOT s.is_old
                    AND s.status IN ('pending', 'running', 'completed', 'blocked', 'skipped')
                    AND (s.started_at IS NULL) <> (s.status IN ('pending', 'skipped'))
                ORDER BY s.id
            )::text []
        UNION ALL
        SELECT
            'step-times', 'loop_run_steps',
            'A step was started, recorded and completed in an order that can be, and duration_ms is the difference', ARRAY(
                SELECT s.id
                FROM steps AS s
                WHERE NOT s.is_old
                    AND (
                        s.completed_at < s.created_at OR s.completed_at < s.started_at
                        OR s.duration_ms IS DISTINCT FROM loop_duration_ms(s.started_at, s.completed_at)
                    )
                ORDER BY s.id
            )::text []
        UNION ALL
        SELECT 'step-open', 'loop_run_steps', 'A run that has ended has no open step', ARRAY(
            SELECT s.id
            FROM steps AS s
            WHERE s.run_has_ended AND NOT s.has_ended
            ORDER BY s.id
        )::text []
        UNION ALL
        SELECT
            'step-once', 'loop_run_steps',
            'A run has each step number once, and that of a call executes one step at most', ARRAY(
                SELECT t.id
                FROM (
                    SELECT
                        s.id, s.is_of_call AND s.status <> 'skipped' AS is_executed,
                        count(*) OVER (PARTITION BY s.run_id, s.step_number) AS of_number,
                        count(*) FILTER (WHERE s.status <> 'skipped') OVER (PARTITION BY s.run_id) AS executed
                    FROM steps AS s
                ) AS t
                WHERE t.of_number > 1 OR (t.is_executed AND t.executed > 1)
                ORDER BY t.id
            )::text []
        UNION ALL
        SELECT 'step-type', 'loop_run_steps', 'In one version of a loop a step number has one type', ARRAY(
            SELECT s.id
            FROM steps AS s
            INNER JOIN (
                SELECT k.loop_version, k.step_number, mode() WITHIN GROUP (ORDER BY k.step_type) AS step_type
                FROM steps AS k
                WHERE k.is_of_call
                GROUP BY k.loop_version, k.step_number
            ) AS known ON known.loop_version = s.loop_version AND known.step_number = s.step_number
            WHERE s.is_of_call AND s.step_type <> known.step_type
            ORDER BY s.id
        )::text []
        UNION ALL
        SELECT
            'step-of-run', 'loop_runs',
            'The step that a run of a call executed is the one that it names, and ended as the run did', ARRAY(
                SELECT r.id
                FROM runs AS r
                LEFT JOIN loop_run_steps AS s ON s.run_id = r.id AND s.status <> 'skipped'
                WHERE r.is_of_call AND r.mode = 'execute' AND r.has_ended
                    AND (
                        s.step_number <> r.step
                        OR (r.status = 'completed' AND r.step IS NOT NULL AND s.status IS DISTINCT FROM 'completed')
                        OR (r.status = 'completed' AND r.step IS NULL AND s.id IS NOT NULL)
                        OR (r.status IN ('failed', 'blocked') AND s.status = 'completed')
                    )
                GROUP BY r.id
                ORDER BY r.id
            )::text []
        UNION ALL
        SELECT
            'step-elsewhere', 'loop_run_steps',
            'A step with a task token, a heartbeat or a plan for its loss has timeout_at: it is executed elsewhere', ARRAY(
                SELECT s.id
                FROM steps AS s
                WHERE s.timeout_at IS NULL
                    AND num_nonnulls(s.task_token_hash, s.heartbeat_seconds, s.retry_if_lost_seconds) > 0
                ORDER BY s.id
            )::text []

        -- ----------------------------------------------------------------------------------------------- events
        UNION ALL
        SELECT
            'run-start-event', 'loop_runs',
            'An execute run that has started has one loop_run_started, any other has none', ARRAY(
                SELECT r.id
                FROM runs AS r
                LEFT JOIN run_events AS e ON e.run_id = r.id
                WHERE r.mode = 'execute' AND NOT r.is_old
                    AND coalesce(e.starts, 0) <> (r.started_at IS NOT NULL)::integer
                ORDER BY r.id
            )::text []
        UNION ALL
        SELECT
            'run-end-event', 'loop_runs',
            'An execute run that has ended has one of finished, blocked, failed, cancelled, as its status is; a live one none', ARRAY(
                SELECT r.id
                FROM runs AS r
                LEFT JOIN run_events AS e ON e.run_id = r.id
                WHERE r.mode = 'execute' AND NOT r.is_old
                    AND coalesce(e.ends, '{}') <> CASE
                        WHEN NOT r.has_ended THEN '{}'
                        WHEN r.status = 'completed' THEN ARRAY['loop_run_finished']
                        ELSE ARRAY['loop_run_' || r.status]
                    END
                ORDER BY r.id
            )::text []
        UNION ALL
        SELECT
            'step-event', 'loop_runs',
            'Each skipped or completed step of a run of a call has its event, and each such event its step', ARRAY(
                WITH recorded AS (
                    SELECT s.run_id, s.status, s.step_number::text AS step_number, s.step_type
                    FROM steps AS s
                    WHERE s.is_of_call AND s.status IN ('skipped', 'completed')
                ),
                told AS (
                    SELECT
                        e.run_id, substr(e.event_type, length('loop_step_') + 1) AS status,
                        e.event_data ->> 'stepNumber' AS step_number, e.event_data ->> 'stepType' AS step_type
                    FROM loop_events AS e
                    INNER JOIN runs AS r ON r.id = e.run_id
                    WHERE r.is_of_call AND e.event_type IN ('loop_step_skipped', 'loop_step_completed')
                )
                SELECT odd.run_id
                FROM (
                    (TABLE recorded EXCEPT ALL TABLE told) UNION ALL (TABLE told EXCEPT ALL TABLE recorded)
                ) AS odd
                GROUP BY odd.run_id
                ORDER BY odd.run_id
            )::text []
        UNION ALL
        SELECT 'event-order', 'loop_events', 'A run''s events are its start, its steps, its end, in this order', ARRAY(
            SELECT e.event_id
            FROM loop_events AS e
            INNER JOIN run_events AS r ON r.run_id = e.run_id
            WHERE (
                e.event_type IN ('loop_step_skipped', 'loop_step_completed')
                AND (e.event_id < r.start_id OR e.event_id > r.end_id)
            )
                OR (e.event_id = r.end_id AND e.event_id < r.start_id)
            ORDER BY e.event_id
        )::text []
        UNION ALL
        SELECT 'event-time', 'loop_events', 'The events of an issue happened in the order of their ids', ARRAY(
            SELECT t.event_id
            FROM (
                SELECT
                    e.event_id, e.occurred_at,
                    lag(e.occurred_at) OVER (PARTITION BY e.issue_id ORDER BY e.event_id) AS before
                FROM loop_events AS e
                LEFT JOIN runs AS r ON r.id = e.run_id
                WHERE r.id IS NULL OR r.is_of_call -- the store cannot lock an issue that nobody registered
            ) AS t
            WHERE t.occurred_at < t.before
            ORDER BY t.event_id
        )::text []
        UNION ALL
        SELECT 'event-issue', 'loop_events', 'An event is of an issue that exists, and of its run''s', ARRAY(
            SELECT e.event_id
            FROM loop_events AS e
            LEFT JOIN loop_issues AS i ON i.id = e.issue_id
            LEFT JOIN runs AS r ON r.id = e.run_id
            WHERE (i.id IS NULL AND (e.run_id IS NULL OR r.is_of_call)) OR r.issue_id <> e.issue_id
            ORDER BY e.event_id
        )::text []

        -- ----------------------------------------------------------------------------------------------- issues
        UNION ALL
        SELECT 'state-found', 'loop_runs', 'A run finds the issue in the state in which it was left', ARRAY(
            SELECT c.run_id
            FROM chain AS c
            WHERE c.run_id IS NOT NULL AND c.state_before <> c.state_found
            GROUP BY c.run_id
            ORDER BY c.run_id
        )::text []
        UNION ALL
        SELECT 'state-moved', 'loop_runs', 'Only a completed run moves its issue to another state', ARRAY(
            SELECT r.id
            FROM runs AS r
            WHERE r.is_of_call AND r.status IN ('failed', 'blocked', 'cancelled') AND r.state_after <> r.state_before
            ORDER BY r.id
        )::text []
        UNION ALL
        SELECT
            'version-grown', 'loop_runs',
            'The issue''s version never falls from run to run, and grows with each run that moves it', ARRAY(
                SELECT c.run_id
                FROM chain AS c
                WHERE c.issue_version < c.version_found
                    OR (c.issue_version = coalesce(c.version_found, 1) AND c.state_after <> c.state_before)
                GROUP BY c.run_id
                ORDER BY c.run_id
            )::text []
        UNION ALL
        SELECT
            'issue-state', 'loop_issues',
            'An issue is in the state in which it was left, and at least at the version of its last run', ARRAY(
                SELECT i.id
                FROM loop_issues AS i
                INNER JOIN chain AS c ON c.issue_id = i.id AND c.is_last
                WHERE i.state <> c.state_after OR i.version < greatest(c.issue_version, c.version_found)
                ORDER BY i.id
            )
        UNION ALL
        SELECT
            'issue-failed-attempts', 'loop_issues',
            'An issue''s failed_attempts and failed_run_id are of its last failed attempt, until it moves or they are used up',
            ARRAY(
                SELECT i.id
                FROM loop_issues AS i
                LEFT JOIN runs AS f ON f.id = i.failed_run_id
                LEFT JOIN chain AS last ON last.issue_id = i.id AND last.is_last
                LEFT JOIN (
                    SELECT DISTINCT ON (c.issue_id) c.issue_id, c.run_id
                    FROM chain AS c
                    WHERE (c.status = 'failed' AND c.is_attempt)
                        OR (c.run_id IS NOT NULL AND c.state_after <> c.state_before)
                    ORDER BY c.issue_id, c.event_id DESC
                ) AS decided ON decided.issue_id = i.id
                WHERE (i.failed_attempts = 0) <> (i.failed_run_id IS NULL)
                    OR f.issue_id <> i.id OR f.status <> 'failed' OR f.attempt <> i.failed_attempts
                    OR (last.status = 'failed' AND last.is_attempt AND i.failed_run_id IS NULL AND NOT EXISTS (
                        SELECT FROM steps AS s WHERE s.run_id = last.run_id AND s.timeout_at IS NOT NULL -- tried often enough
                    ))
                    OR (f.is_of_call AND f.id <> decided.run_id)
                ORDER BY i.id
            )
        UNION ALL
        SELECT
            'issue-plan', 'loop_issues',
            'What an issue plans was planned by a run of its that has ended: failed with retry_at, or completed; none is at work', ARRAY(
                SELECT i.id
                FROM loop_issues AS i
                LEFT JOIN runs AS p ON p.id = i.next_attempt_after
                WHERE (i.next_attempt_at IS NULL) <> (i.next_attempt_after IS NULL)
                    OR (i.next_attempt_after IS NOT NULL AND (
                        p.id IS NULL OR p.issue_id <> i.id
                        OR (p.status <> 'completed' AND (p.status <> 'failed' OR p.retry_at IS NULL))
                        OR (i.hold IS NULL AND EXISTS ( -- a queued one has not taken the plan's place yet
                            SELECT FROM runs AS r WHERE r.issue_id = i.id AND r.is_of_call AND r.status = 'running'
                        ))
                    ))
                ORDER BY i.id
            )
        UNION ALL
        SELECT
            'issue-token', 'loop_issues',
            'An issue''s idempotency_token is of a run that executed a step elsewhere; no outcome is recorded since', ARRAY(
                SELECT i.id
                FROM loop_issues AS i
                INNER JOIN runs AS t ON t.id = i.idempotency_token
                WHERE t.issue_id <> i.id
                    OR NOT EXISTS (SELECT FROM steps AS s WHERE s.run_id = t.id AND s.timeout_at IS NOT NULL)
                    OR EXISTS (
                        SELECT
                        FROM runs AS r
                        INNER JOIN loop_run_steps AS s ON s.run_id = r.id AND s.status IN ('completed', 'blocked')
                        WHERE r.issue_id = i.id AND r.is_of_call AND r.created_at >= t.created_at
                    )
                ORDER BY i.id
            )
        UNION ALL
        SELECT
            'issue-approval', 'loop_issues',
            'An issue''s approval is of a version that it has or had, and told by an event', ARRAY(
                SELECT i.id
                FROM loop_issues AS i
                WHERE i.approval IS NOT NULL
                    AND ((i.approval ->> 'version')::bigint > i.version OR NOT EXISTS (
                        SELECT
                        FROM loop_events AS e
                        WHERE e.issue_id = i.id AND e.event_type = 'loop_approval_decided'
                            AND e.event_data @> (i.approval - 'at')
                    ))
                ORDER BY i.id
            )
    )
    SELECT f.rule, f.table_name, f.meaning, cardinality(f.ids)::bigint, f.ids[1:max_ids]
    FROM findings AS f;
END
$$;

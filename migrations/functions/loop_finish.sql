-- Ends a run and moves its issue, all or nothing: the run's terminal status, its step rows, state and facts, the events.
-- Only the holder of the lease token of a run that still runs changes anything (fencing); anybody else, the holder's own
-- repetition after a lost acknowledgement included, gets the run as it stands.
--
-- request: runId, issueId, leaseToken, status (completed, failed, blocked), loopStatus, message;
--          optional loopVersion, step, stateAfter, facts (merge patch), blockerCode, errorCode, errorMessage, nextStep,
--          steps [{stepNumber, stepType, status (skipped, completed, failed), errorMessage?}]
-- answer:  recorded (whether this call ended the run), run, steps
CREATE OR REPLACE FUNCTION loop_finish(request jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v_issue      loop_issues;
    v_run        loop_runs;
    v_state      text;
    v_facts      jsonb;
    v_new_facts  boolean := false;
    v_is_changed boolean;
    v_steps      loop_run_steps[];
    v_now        timestamptz;
BEGIN
    SELECT * INTO v_issue FROM loop_issues WHERE id = request ->> 'issueId' FOR NO KEY UPDATE;
    v_now := clock_timestamp();
    v_state := coalesce(request ->> 'stateAfter', v_issue.state);
    IF request ? 'facts' THEN
        v_facts := loop_merge_patch(v_issue.facts, request -> 'facts');
        v_new_facts := v_facts IS DISTINCT FROM v_issue.facts;
    END IF;
    v_is_changed := v_state IS DISTINCT FROM v_issue.state OR v_new_facts;
    IF v_is_changed THEN
        v_issue.version := v_issue.version + 1;
    END IF;

    -- Before the run ends: an ended run takes no steps. The token decides here as it does below.
    WITH recorded AS (
        INSERT INTO loop_run_steps (
            run_id, step_number, step_type, status, created_at, started_at, completed_at, duration_ms, error_message
        )
        SELECT
            r.id, t."stepNumber", t."stepType", t.status, v_now,
            CASE WHEN t.status <> 'skipped' THEN r.started_at END, v_now,
            CASE WHEN t.status <> 'skipped' THEN loop_duration_ms(r.started_at, v_now) END, t."errorMessage"
        FROM loop_runs AS r
        CROSS JOIN ROWS FROM (
            jsonb_to_recordset(request -> 'steps')
                AS ("stepNumber" integer, "stepType" text, status text, "errorMessage" text)
        ) WITH ORDINALITY AS t("stepNumber", "stepType", status, "errorMessage", position)
        WHERE r.id = (request ->> 'runId')::uuid
            AND r.status = 'running'
            AND r.lease_token = (request ->> 'leaseToken')::uuid
        ORDER BY t.position
        RETURNING *
    )
    SELECT array_agg(s) INTO v_steps FROM recorded AS s;

    UPDATE loop_runs AS r
    SET status = request ->> 'status',
        completed_at = v_now,
        duration_ms = loop_duration_ms(r.started_at, v_now),
        loop_version = request ->> 'loopVersion',
        step = (request ->> 'step')::integer,
        state_after = v_state,
        issue_version = v_issue.version,
        blocker_code = request ->> 'blockerCode',
        error_code = request ->> 'errorCode',
        error_message = request ->> 'errorMessage',
        loop_status = request ->> 'loopStatus',
        next_step = nullif(request -> 'nextStep', 'null'),
        message = request ->> 'message'
    WHERE r.id = (request ->> 'runId')::uuid
        AND r.status = 'running'
        AND r.lease_token = (request ->> 'leaseToken')::uuid
    RETURNING * INTO v_run;

    IF NOT FOUND THEN
        IF v_steps IS NOT NULL THEN -- whoever ends a claimed run holds the issue's lock, as we do
            RAISE EXCEPTION 'run % was ended by somebody who does not hold the lock of its issue', request ->> 'runId';
        END IF;
        RETURN jsonb_build_object('recorded', false) || loop_get_run((request ->> 'runId')::uuid);
    END IF;

    IF v_run.status = 'failed' THEN
        UPDATE loop_issues SET failed_attempts = v_run.attempt, failed_run_id = v_run.id WHERE id = v_issue.id;
    ELSIF v_is_changed THEN
        UPDATE loop_issues
        SET state = v_state,
            facts = CASE WHEN v_new_facts THEN v_facts ELSE facts END, -- large ones are not written again
            version = v_issue.version,
            updated_at = v_now,
            failed_attempts = 0,
            failed_run_id = NULL
        WHERE id = v_issue.id;
    END IF;

    INSERT INTO loop_events (issue_id, run_id, event_type, event_data, occurred_at)
    SELECT v_issue.id, v_run.id, e.event_type, e.event_data, v_now
    FROM (
        SELECT
            CASE s.status WHEN 'skipped' THEN 'loop_step_skipped' ELSE 'loop_step_completed' END AS event_type,
            jsonb_build_object('stepNumber', s.step_number, 'stepType', s.step_type) AS event_data,
            s.ordinality AS position
        FROM unnest(v_steps) WITH ORDINALITY AS s
        WHERE s.status IN ('skipped', 'completed')
        UNION ALL
        SELECT
            CASE v_run.status WHEN 'completed' THEN 'loop_run_finished' ELSE 'loop_run_' || v_run.status END,
            jsonb_strip_nulls(jsonb_build_object(
                'stepNumber', v_run.step, 'stateBefore', v_run.state_before, 'stateAfter', v_run.state_after,
                'blockerCode', v_run.blocker_code, 'errorCode', v_run.error_code)),
            NULL
        ORDER BY position NULLS LAST
    ) AS e;

    RETURN jsonb_build_object('recorded', true, 'run', to_jsonb(v_run), 'steps', coalesce((
        SELECT jsonb_agg(to_jsonb(s) ORDER BY s.step_number) FROM unnest(v_steps) AS s), '[]'));
END
$$;

-- Ends a run and moves its issue, all or nothing: the run's terminal status, its step rows, state and facts, the events.
-- Only who holds the lease token of a run that still runs, or the token of its waiting step, changes anything (fencing);
-- anybody else, the holder's own repetition after a lost acknowledgement included, gets the run as it stands. A run that
-- is to be cancelled ends so, whatever came of its step: that is kept on the step's row.
--
-- request: runId, issueId, leaseToken or tokenHash, status (completed, failed, blocked), loopStatus, message, maxBytes;
--          optional loopVersion, step, stateAfter, facts (merge patch), blockerCode, errorCode, errorMessage, nextStep,
--          steps [{stepNumber, stepType, status (skipped, completed, failed, blocked), errorMessage?}],
--          toldBy, toldId (who told the outcome, to be known again), retrySeconds (try again), attemptsAreUsedUp (count anew), advance (go on by itself), isUnknown (the outcome),
--          ifVersion (of the issue, that was decided on)
-- answer:  recorded (whether this call ended the run), run, steps | outcome factsTooLarge {bytes} | moved {version}
CREATE OR REPLACE FUNCTION loop_finish(request jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v_run_id     uuid := (request ->> 'runId')::uuid;
    v_issue      loop_issues;
    v_run        loop_runs;
    v_is_ours    boolean;
    v_state      text;
    v_facts      jsonb;
    v_new_facts  boolean := false;
    v_new_state  boolean;
    v_is_changed boolean;
    v_told       jsonb;
    v_step       loop_run_steps;
    v_steps      jsonb := '[]';
    v_types      text[] := '{}'; -- of the events, with their data
    v_data       jsonb[] := '{}';
    v_retry_at   timestamptz;
    v_now        timestamptz;
BEGIN
    SELECT * INTO v_issue FROM loop_issues WHERE id = request ->> 'issueId' FOR NO KEY UPDATE;
    v_now := clock_timestamp();
    SELECT * INTO v_run FROM loop_runs WHERE id = v_run_id;
    IF v_run.status = 'running' AND v_issue.version <> (request ->> 'ifVersion')::bigint THEN
        RETURN jsonb_build_object('outcome', 'moved', 'version', v_issue.version);
    END IF;
    IF request ? 'tokenHash' THEN
        v_is_ours := loop_is_task_of(v_run_id, request ->> 'tokenHash');
    ELSE
        v_is_ours := v_run.lease_token = (request ->> 'leaseToken')::uuid;
    END IF;
    IF v_is_ours IS NOT TRUE OR v_run.status <> 'running' OR v_run.cancel_requested_at IS NOT NULL THEN
        RETURN loop_finish_cancelled(request, v_now);
    END IF;

    v_state := v_issue.state;
    IF request ->> 'status' <> 'failed' THEN -- a failed run leaves the issue as it is
        v_state := coalesce(request ->> 'stateAfter', v_issue.state);
        IF request ? 'facts' THEN
            v_facts := loop_merge_patch(v_issue.facts, request -> 'facts');
            v_new_facts := v_facts IS DISTINCT FROM v_issue.facts;
            IF v_new_facts AND octet_length(v_facts::text) > (request ->> 'maxBytes')::integer THEN
                RETURN jsonb_build_object('outcome', 'factsTooLarge', 'bytes', octet_length(v_facts::text));
            END IF;
        END IF;
    END IF;
    v_new_state := v_state IS DISTINCT FROM v_issue.state;
    v_is_changed := v_new_state OR v_new_facts;
    IF v_is_changed THEN
        v_issue.version := v_issue.version + 1;
    END IF;
    v_retry_at := v_now + (request ->> 'retrySeconds')::float8 * interval '1 second';

    FOR v_place IN 0 .. coalesce(jsonb_array_length(request -> 'steps'), 0) - 1 LOOP -- an ended run takes none
        v_told := request -> 'steps' -> v_place;
        v_step := NULL;
        IF v_run.step IS NOT NULL THEN -- it was started before it was executed elsewhere
            UPDATE loop_run_steps AS s
            SET status = v_told ->> 'status',
                completed_at = v_now,
                duration_ms = loop_duration_ms(s.started_at, v_now),
                error_message = v_told ->> 'errorMessage',
                metadata = CASE WHEN request ? 'toldId'
                    THEN s.metadata || jsonb_build_object('toldBy', request -> 'toldBy', 'toldId', request -> 'toldId')
                    ELSE s.metadata END
            WHERE s.run_id = v_run_id AND s.step_number = (v_told ->> 'stepNumber')::integer
            RETURNING * INTO v_step;
        END IF;
        IF v_step.id IS NULL THEN
            INSERT INTO loop_run_steps (
                run_id, step_number, step_type, status, created_at, started_at, completed_at, duration_ms, error_message
            ) VALUES (
                v_run_id, (v_told ->> 'stepNumber')::integer, v_told ->> 'stepType', v_told ->> 'status', v_now,
                CASE WHEN v_told ->> 'status' <> 'skipped' THEN v_run.started_at END, v_now,
                CASE WHEN v_told ->> 'status' <> 'skipped' THEN loop_duration_ms(v_run.started_at, v_now) END,
                v_told ->> 'errorMessage'
            )
            RETURNING * INTO v_step;
        END IF;
        v_steps := v_steps || to_jsonb(v_step);
        IF v_step.status IN ('skipped', 'completed') THEN
            v_types := v_types || ('loop_step_' || v_step.status);
            v_data := v_data || jsonb_build_object('stepNumber', v_step.step_number, 'stepType', v_step.step_type);
        END IF;
    END LOOP;

    UPDATE loop_runs AS r
    SET status = request ->> 'status',
        completed_at = v_now,
        duration_ms = loop_duration_ms(r.started_at, v_now),
        loop_version = coalesce(request ->> 'loopVersion', r.loop_version), -- of a step that was started
        step = coalesce((request ->> 'step')::integer, r.step),
        state_after = v_state,
        issue_version = v_issue.version,
        blocker_code = request ->> 'blockerCode',
        error_code = request ->> 'errorCode',
        error_message = request ->> 'errorMessage',
        loop_status = request ->> 'loopStatus',
        next_step = nullif(request -> 'nextStep', 'null'),
        message = request ->> 'message',
        retry_at = v_retry_at
    WHERE r.id = v_run_id AND r.completed_at IS NULL AND r.cancel_requested_at IS NULL
    RETURNING * INTO v_run;

    IF NOT FOUND THEN -- whoever ends a claimed run holds the issue's lock, as we do
        RAISE EXCEPTION 'run % was ended by somebody who does not hold the lock of its issue', v_run_id;
    END IF;

    IF v_run.status = 'failed' AND v_steps = '[]' THEN -- a step that was started does not stay open
        UPDATE loop_run_steps
        SET status = 'failed',
            completed_at = v_now,
            duration_ms = loop_duration_ms(started_at, v_now),
            error_message = v_run.error_message
        WHERE run_id = v_run_id AND status = 'running';
    END IF;

    IF v_run.status = 'failed' AND NOT request ? 'attemptsAreUsedUp' THEN
        v_issue.failed_attempts := v_run.attempt;
        v_issue.failed_run_id := v_run.id;
    ELSIF v_run.status = 'failed' OR v_is_changed OR (v_run.status = 'completed' AND v_issue.failed_attempts > 0) THEN
        v_is_changed := true;
        v_issue.failed_attempts := 0;
        v_issue.failed_run_id := NULL;
    END IF;
    IF v_run.status = 'completed' AND v_issue.approval IS NOT NULL AND v_steps <> '[]' THEN
        v_is_changed := true;
        v_issue.approval := NULL; -- a decision is for one step
    END IF;
    IF v_new_state THEN
        v_issue.approval_requesters := '[]';
    ELSIF v_run.blocker_code = 'APPROVAL_REQUIRED' AND NOT v_issue.approval_requesters @> jsonb_build_array(
        jsonb_build_object('actor', v_run.actor, 'principal', v_run.principal))
    THEN
        v_is_changed := true;
        v_issue.approval_requesters := v_issue.approval_requesters || jsonb_build_object(
            'actor', v_run.actor, 'principal', v_run.principal);
    END IF;
    IF v_issue.idempotency_token IS NOT NULL AND v_steps <> '[]' AND NOT request ? 'isUnknown' THEN
        v_is_changed := true;
        v_issue.idempotency_token := NULL; -- an outcome is recorded: the next execution is another one
    END IF;
    IF v_is_changed OR v_run.status = 'failed' OR request ? 'advance' THEN
        UPDATE loop_issues
        SET state = v_state,
            facts = CASE WHEN v_new_facts THEN v_facts ELSE facts END, -- large ones are not written again
            version = v_issue.version,
            updated_at = CASE WHEN v_new_state OR v_new_facts THEN v_now ELSE updated_at END,
            failed_attempts = v_issue.failed_attempts,
            failed_run_id = v_issue.failed_run_id,
            approval = v_issue.approval,
            approval_requesters = v_issue.approval_requesters,
            idempotency_token = v_issue.idempotency_token,
            next_attempt_at = coalesce(v_retry_at, CASE WHEN request ? 'advance' THEN v_now END),
            next_attempt_after = CASE WHEN v_retry_at IS NOT NULL OR request ? 'advance' THEN v_run_id END,
            next_attempt_sent_at = CASE -- the caller sends a message after the commit, where SQS can delay it so long
                WHEN v_retry_at <= v_now + interval '900 seconds' THEN v_retry_at
                WHEN request ? 'advance' THEN v_now
            END
        WHERE id = v_issue.id;
    END IF;

    IF v_new_facts THEN
        v_types := v_types || 'loop_facts_changed'::text;
        v_data := v_data || jsonb_build_object(
            'actor', v_run.actor, 'version', v_issue.version, 'factKeys', loop_fact_keys(request -> 'facts'));
    END IF;
    v_types := v_types || CASE v_run.status WHEN 'completed' THEN 'loop_run_finished' ELSE 'loop_run_' || v_run.status END;
    v_data := v_data || jsonb_strip_nulls(jsonb_build_object(
        'stepNumber', v_run.step, 'stateBefore', v_run.state_before, 'stateAfter', v_run.state_after,
        'blockerCode', v_run.blocker_code, 'errorCode', v_run.error_code));
    IF v_retry_at IS NOT NULL THEN
        v_types := v_types || 'loop_retry_planned'::text;
        v_data := v_data || jsonb_build_object(
            'errorCode', v_run.error_code, 'attempt', v_run.attempt, 'retryAt', v_retry_at);
    END IF;
    INSERT INTO loop_events (issue_id, run_id, event_type, event_data, occurred_at)
    SELECT v_issue.id, v_run.id, e.event_type, e.event_data, v_now
    FROM unnest(v_types, v_data) WITH ORDINALITY AS e (event_type, event_data, place)
    ORDER BY e.place;

    IF jsonb_array_length(v_steps) <> 1 THEN -- in the order of their numbers, and with those that were closed
        RETURN jsonb_build_object('recorded', true) || loop_get_run(v_run_id);
    END IF;
    RETURN jsonb_build_object('recorded', true, 'run', to_jsonb(v_run), 'steps', v_steps);
END
$$;

-- Claims an issue for one run. Decides, in this order: whether code and schema fit; then, under the issue's lock,
-- unknown issue, Idempotency-Key, live run (an expired one is taken over), If-Match. A dry run reads only. The run id is
-- the caller's: the same claim again, after a lost acknowledgement, finds its own run and is answered as the first time,
-- or with the run's end where somebody ended it meanwhile.
--
-- A state from which a step may be next that takes longer than the caller can wait is in longStates: then nothing is
-- claimed, and the caller, who knows the loop, claims again for the version that it has looked at.
--
-- request: codeVersion, requiredSchema, runId, issueId, actor, requestId, mode, leaseToken, leaseMs;
--          optional principal, ifMatch [versions], idempotencyKey with requestHash, lambdaRequestId, logStream,
--          longStates {loop: [states]}, resolvedVersion, startByMs: a pending run that must start by then;
--          after: the run that planned this attempt, whose actor it has (then no actor, requestId)
-- answer:  outcome claimed {issue, now, run?, tookOver?: a lost run was ended for it} | queued {run, steps} | resolve {issue, now} | schemaTooOld | codeTooOld |
--          issueNotFound | keyReused {run} | ended {run, steps}: the key's run, or this call's own | conflict {run, now} |
--          stale {issue} | notPlanned | notDue {seconds}
CREATE OR REPLACE FUNCTION loop_claim(request jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v_run_id     uuid := (request ->> 'runId')::uuid;
    v_is_execute boolean := request ->> 'mode' = 'execute';
    v_is_queued  boolean := request ? 'startByMs';
    v_actor      text := request ->> 'actor';
    v_principal  text := request ->> 'principal';
    v_request_id text := request ->> 'requestId';
    v_issue      loop_issues;
    v_run        loop_runs;
    v_keyed      loop_runs;
    v_now        timestamptz;
    v_misfit     jsonb := loop_misfit(request);
    v_took_over  boolean := false;
BEGIN
    IF v_misfit IS NOT NULL THEN
        RETURN v_misfit;
    END IF;

    IF v_is_execute THEN
        SELECT * INTO v_issue FROM loop_issues WHERE id = request ->> 'issueId' FOR NO KEY UPDATE;
    ELSE
        SELECT * INTO v_issue FROM loop_issues WHERE id = request ->> 'issueId';
    END IF;
    v_now := clock_timestamp();
    IF v_issue.id IS NULL THEN
        RETURN jsonb_build_object('outcome', 'issueNotFound');
    END IF;

    IF request ? 'idempotencyKey' THEN
        SELECT * INTO v_keyed FROM loop_find_keyed_run(v_issue.id, request ->> 'idempotencyKey', v_now);
        IF v_keyed.id <> v_run_id THEN
            IF v_keyed.request_hash IS DISTINCT FROM request ->> 'requestHash' THEN
                RETURN jsonb_build_object('outcome', 'keyReused', 'run', to_jsonb(v_keyed));
            ELSIF v_keyed.queued_at IS NOT NULL THEN
                NULL; -- its answer was that it is queued, and still is
            ELSIF v_keyed.loop_status = 'paused' AND v_keyed.lease_expires_at > v_now THEN
                NULL; -- its answer was that it waits, and still is
            ELSIF v_keyed.status IN ('pending', 'running') AND v_keyed.lease_expires_at > v_now THEN
                RETURN jsonb_build_object('outcome', 'conflict', 'now', v_now, 'run', to_jsonb(v_keyed));
            ELSIF v_keyed.status IN ('pending', 'running') THEN
                PERFORM loop_expire_run(v_keyed.id, v_now, v_actor);
            END IF;
            RETURN jsonb_build_object('outcome', 'ended') || loop_get_run(v_keyed.id);
        END IF;
    END IF;

    IF v_is_execute THEN
        SELECT * INTO v_run
        FROM loop_runs
        WHERE issue_id = v_issue.id AND mode = 'execute' AND completed_at IS NULL;

        IF v_run.lease_expires_at > v_now THEN
            IF v_run.id = v_run_id AND v_is_queued THEN
                RETURN jsonb_build_object('outcome', 'queued') || loop_get_run(v_run_id);
            ELSIF v_run.id = v_run_id THEN
                RETURN loop_answer_claim(v_issue, v_run, v_now, false);
            END IF;
            RETURN coalesce(
                jsonb_build_object('outcome', 'ended') || loop_get_run(v_run_id),
                jsonb_build_object('outcome', 'conflict', 'now', v_now, 'run', to_jsonb(v_run)));
        END IF;
    END IF;

    IF request ? 'ifMatch' AND NOT request -> 'ifMatch' @> to_jsonb(v_issue.version) THEN
        RETURN coalesce(
            jsonb_build_object('outcome', 'ended') || loop_get_run(v_run_id),
            jsonb_build_object('outcome', 'stale', 'issue', to_jsonb(v_issue)));
    END IF;

    IF NOT v_is_execute THEN
        RETURN jsonb_build_object('outcome', 'claimed', 'now', v_now, 'issue', to_jsonb(v_issue));
    END IF;

    IF request ? 'after' THEN
        IF v_issue.next_attempt_after IS DISTINCT FROM (request ->> 'after')::uuid OR v_issue.hold IS NOT NULL THEN
            RETURN coalesce(
                jsonb_build_object('outcome', 'ended') || loop_get_run(v_run_id),
                jsonb_build_object('outcome', 'notPlanned'));
        ELSIF v_issue.next_attempt_at > v_now THEN
            RETURN jsonb_build_object(
                'outcome', 'notDue', 'seconds', ceil(extract(EPOCH FROM v_issue.next_attempt_at - v_now)));
        END IF;
        SELECT r.actor, r.principal, r.request_id INTO v_actor, v_principal, v_request_id
        FROM loop_runs AS r
        WHERE r.id = v_issue.next_attempt_after;
    ELSIF v_issue.version IS DISTINCT FROM (request ->> 'resolvedVersion')::bigint
        AND request -> 'longStates' -> v_issue.loop_name ? v_issue.state
    THEN
        RETURN jsonb_build_object('outcome', 'resolve', 'now', v_now, 'issue', to_jsonb(v_issue));
    END IF;

    IF v_run.id IS NOT NULL THEN
        PERFORM loop_expire_run(v_run.id, v_now, v_actor);
        v_took_over := true;
        SELECT * INTO v_issue FROM loop_issues WHERE id = v_issue.id; -- the lost run counts as an attempt
    END IF;

    INSERT INTO loop_runs (
        id, issue_id, actor, principal, request_id, mode, status, created_at, queued_at, sent_at, sends, started_at,
        loop_name, attempt, retry_of, state_before, idempotency_key, request_hash, lease_token, lease_expires_at,
        lambda_request_id, log_stream
    ) VALUES (
        v_run_id, v_issue.id, v_actor, v_principal, v_request_id, 'execute',
        CASE WHEN v_is_queued THEN 'pending' ELSE 'running' END, v_now,
        CASE WHEN v_is_queued THEN v_now END, CASE WHEN v_is_queued THEN v_now END, v_is_queued::integer,
        CASE WHEN NOT v_is_queued THEN v_now END,
        v_issue.loop_name, v_issue.failed_attempts + 1, v_issue.failed_run_id, v_issue.state,
        request ->> 'idempotencyKey', request ->> 'requestHash', (request ->> 'leaseToken')::uuid,
        v_now + coalesce(request ->> 'startByMs', request ->> 'leaseMs')::bigint * interval '1 millisecond',
        request ->> 'lambdaRequestId', request ->> 'logStream'
    )
    ON CONFLICT DO NOTHING
    RETURNING * INTO v_run;

    IF NOT FOUND THEN -- this call's own run has ended, or somebody recorded one who does not take the issue's lock
        SELECT * INTO v_run
        FROM loop_runs
        WHERE issue_id = v_issue.id AND mode = 'execute' AND completed_at IS NULL;
        RETURN coalesce(
            jsonb_build_object('outcome', 'ended') || loop_get_run(v_run_id),
            jsonb_build_object('outcome', 'conflict', 'now', v_now, 'run', to_jsonb(v_run)));
    END IF;

    IF v_issue.next_attempt_at IS NOT NULL AND v_issue.hold IS NULL AND NOT v_is_queued THEN -- this is it, or before it
        UPDATE loop_issues SET next_attempt_at = NULL, next_attempt_after = NULL WHERE id = v_issue.id;
        v_issue.next_attempt_at := NULL;
    END IF;

    INSERT INTO loop_events (issue_id, run_id, event_type, event_data, occurred_at)
    VALUES (v_issue.id, v_run_id, CASE WHEN v_is_queued THEN 'loop_run_queued' ELSE 'loop_run_started' END,
            jsonb_strip_nulls(jsonb_build_object('actor', v_run.actor, 'principal', v_run.principal,
                                                 'attempt', v_run.attempt, 'state', v_issue.state)), v_now);

    IF v_is_queued THEN
        RETURN jsonb_build_object('outcome', 'queued') || loop_get_run(v_run_id);
    END IF;
    RETURN loop_answer_claim(v_issue, v_run, v_now, v_took_over);
END
$$;

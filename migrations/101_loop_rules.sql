-- 101: the rules of rows as functions; 102 to 105 put them in the place of the constraints. The text of a CHECK, and of a
-- trigger's WHEN, is parsed and planned by each statement that writes to the table; a function in plpgsql is by each
-- connection. A run writes six times: its rules took a third of the server's work. They say what they said; null passes.
--
-- Operators by their whole name: what a rule means is not up to the search path of who writes.

CREATE OR REPLACE FUNCTION loop_is_issue(
    id text, facts jsonb, version bigint, failed_attempts integer, hold jsonb
) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN id OPERATOR(pg_catalog.~) '^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$'
        AND pg_catalog.jsonb_typeof(facts) OPERATOR(pg_catalog.=) 'object'
        AND version OPERATOR(pg_catalog.>=) 1
        AND failed_attempts OPERATOR(pg_catalog.>=) 0
        AND pg_catalog.jsonb_typeof(hold) OPERATOR(pg_catalog.=) 'object'
        AND hold OPERATOR(pg_catalog.?&) ARRAY['reason', 'by', 'since'];
END
$$;

CREATE OR REPLACE FUNCTION loop_is_run(
    mode text, status text, completed_at timestamptz, duration_ms bigint, attempt integer, step integer, loop_status text
) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN mode OPERATOR(pg_catalog.=) ANY (ARRAY['execute', 'dryRun'])
        AND CASE
            WHEN completed_at IS NULL THEN status OPERATOR(pg_catalog.=) ANY (ARRAY['pending', 'running'])
            ELSE status OPERATOR(pg_catalog.=) ANY (ARRAY['completed', 'failed', 'blocked', 'cancelled'])
        END
        AND duration_ms OPERATOR(pg_catalog.>=) 0
        AND attempt OPERATOR(pg_catalog.>=) 1
        AND step OPERATOR(pg_catalog.>=) 1
        AND loop_status OPERATOR(pg_catalog.=) ANY (ARRAY['active', 'paused', 'failed', 'completed']);
END
$$;

CREATE OR REPLACE FUNCTION loop_is_run_step(
    step_number integer, status text, completed_at timestamptz, duration_ms bigint
) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN step_number OPERATOR(pg_catalog.>=) 1
        AND CASE
            WHEN completed_at IS NULL THEN status OPERATOR(pg_catalog.=) ANY (ARRAY['pending', 'running'])
            ELSE status OPERATOR(pg_catalog.=) ANY (
                ARRAY['completed', 'failed', 'blocked', 'cancelled', 'skipped'])
        END
        AND duration_ms OPERATOR(pg_catalog.>=) 0;
END
$$;

CREATE OR REPLACE FUNCTION loop_is_event(event_type text, event_data jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN event_type OPERATOR(pg_catalog.=) ANY (ARRAY[
        'loop_issue_registered', 'loop_facts_changed', 'loop_issue_held', 'loop_issue_resumed', 'loop_state_set',
        'loop_approval_decided', 'loop_run_queued', 'loop_run_started', 'loop_step_skipped', 'loop_step_completed',
        'loop_run_finished', 'loop_run_blocked', 'loop_run_failed', 'loop_run_cancelled', 'loop_retry_planned',
        'loop_retry_cancelled'
    ]) AND (event_data OPERATOR(pg_catalog.-) ARRAY[
        'actor', 'attempt', 'blockerCode', 'comment', 'decision', 'endedBy', 'errorCode', 'factKeys', 'loop', 'outcome',
        'principal', 'reason', 'retryAt', 'retryOf', 'state', 'stateAfter', 'stateBefore', 'stepNumber', 'stepType', 'version'
    ]) OPERATOR(pg_catalog.=) '{}';
END
$$;

-- As a trigger of 086, with WHEN, it is called for what is refused only; as one of 103 and 104 for each update.
CREATE OR REPLACE FUNCTION loop_refuse_transition() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.status OPERATOR(pg_catalog.=) 'running' AND NEW.status OPERATOR(pg_catalog.=) ANY (
        ARRAY['running', 'completed', 'failed', 'blocked', 'cancelled'])
    THEN
        RETURN NULL;
    ELSIF OLD.status OPERATOR(pg_catalog.=) 'pending' AND NEW.status OPERATOR(pg_catalog.=) ANY (
        ARRAY['pending', 'running', 'failed', 'cancelled', 'skipped']) -- a run is never skipped: loop_is_run
    THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'illegal transition of % %: % -> %', TG_TABLE_NAME, OLD.id, OLD.status, NEW.status
        USING ERRCODE = 'LR001';
END
$$;

-- Its table by the whole name: to set a path for each call took longer than the look.
DO $$
BEGIN
    EXECUTE format(
        $function$
        CREATE OR REPLACE FUNCTION loop_refuse_step() RETURNS trigger
        LANGUAGE plpgsql AS $body$
        BEGIN
            IF EXISTS (
                SELECT
                FROM %I.loop_runs
                WHERE id OPERATOR(pg_catalog.=) NEW.run_id AND completed_at IS NOT NULL
            ) THEN
                RAISE EXCEPTION 'run %% has ended: it takes no step', NEW.run_id
                    USING ERRCODE = 'LR002';
            END IF;
            RETURN NEW;
        END
        $body$
        $function$, current_schema());
END
$$;

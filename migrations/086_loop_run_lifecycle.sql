-- 086: what a run must carry to be claimed once, fenced, taken over, explained and replayed, and the rules of its
-- lifecycle. Rows written under 083 are brought to these rules first.
-- Nothing claims runs before this file, so that scans and locks hurt nobody:
-- squawk-ignore-file constraint-missing-not-valid, ban-drop-constraint, require-concurrent-index-creation, adding-not-nullable-field

ALTER TABLE loop_runs
    ADD COLUMN IF NOT EXISTS principal           text,
    ADD COLUMN IF NOT EXISTS loop_name           text,
    ADD COLUMN IF NOT EXISTS loop_version        text,
    ADD COLUMN IF NOT EXISTS step                integer,
    ADD COLUMN IF NOT EXISTS attempt             integer NOT NULL DEFAULT 1,
    ADD COLUMN IF NOT EXISTS retry_of            uuid,
    ADD COLUMN IF NOT EXISTS state_before        text,
    ADD COLUMN IF NOT EXISTS state_after         text,
    ADD COLUMN IF NOT EXISTS issue_version       bigint,
    ADD COLUMN IF NOT EXISTS blocker_code        text,
    ADD COLUMN IF NOT EXISTS error_code          text,
    ADD COLUMN IF NOT EXISTS loop_status         text,
    ADD COLUMN IF NOT EXISTS next_step           jsonb,
    ADD COLUMN IF NOT EXISTS message             text,
    ADD COLUMN IF NOT EXISTS idempotency_key     text,
    ADD COLUMN IF NOT EXISTS request_hash        text,
    ADD COLUMN IF NOT EXISTS lease_token         uuid,
    ADD COLUMN IF NOT EXISTS lease_expires_at    timestamptz,
    ADD COLUMN IF NOT EXISTS cancel_requested_at timestamptz,
    ADD COLUMN IF NOT EXISTS cancel_requested_by text,
    ADD COLUMN IF NOT EXISTS cancel_reason       text,
    ADD COLUMN IF NOT EXISTS lambda_request_id   text,
    ADD COLUMN IF NOT EXISTS log_stream          text;

-- A ledger that was made by hand may name its check of the status otherwise, and lack what the code relies on.
DO $$
DECLARE
    v_check record;
BEGIN
    FOR v_check IN
        SELECT conrelid::regclass AS relation, conname
        FROM pg_constraint
        WHERE conrelid IN ('loop_runs'::regclass, 'loop_run_steps'::regclass)
            AND contype = 'c' AND conname NOT LIKE 'chk_%' AND pg_get_constraintdef(oid) ~ '\mstatus\M'
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', v_check.relation, v_check.conname);
    END LOOP;
END
$$;

UPDATE loop_runs SET metadata = '{}' WHERE metadata IS NULL;
UPDATE loop_run_steps SET metadata = '{}' WHERE metadata IS NULL;

ALTER TABLE loop_runs
    ALTER COLUMN mode SET DEFAULT 'execute',
    ALTER COLUMN status SET DEFAULT 'pending',
    ALTER COLUMN metadata SET DEFAULT '{}',
    ALTER COLUMN metadata SET NOT NULL;
ALTER TABLE loop_run_steps
    ALTER COLUMN status SET DEFAULT 'pending',
    ALTER COLUMN metadata SET DEFAULT '{}',
    ALTER COLUMN metadata SET NOT NULL;

-- Nobody owns what was left open: no process of an earlier version knows of leases.
UPDATE loop_runs
SET status = 'failed',
    error_code = 'LEASE_EXPIRED',
    error_message = coalesce(error_message, 'left open by an earlier version')
WHERE status IN ('pending', 'running');

UPDATE loop_runs
SET completed_at = greatest(started_at, created_at)
WHERE completed_at IS NULL;

UPDATE loop_run_steps
SET status = 'failed',
    error_message = coalesce(error_message, 'left open by an earlier version')
WHERE status IN ('pending', 'running');

UPDATE loop_run_steps
SET completed_at = greatest(started_at, created_at)
WHERE completed_at IS NULL;

ALTER TABLE loop_runs
    DROP CONSTRAINT IF EXISTS chk_loop_runs_status,
    ADD CONSTRAINT chk_loop_runs_status
        CHECK (status IN ('pending', 'running', 'completed', 'failed', 'blocked', 'cancelled')),
    ADD CONSTRAINT chk_loop_runs_terminal
        CHECK ((status IN ('completed', 'failed', 'blocked', 'cancelled')) = (completed_at IS NOT NULL)),
    ADD CONSTRAINT chk_loop_runs_attempt CHECK (attempt >= 1),
    ADD CONSTRAINT chk_loop_runs_step CHECK (step >= 1),
    ADD CONSTRAINT chk_loop_runs_loop_status CHECK (loop_status IN ('active', 'paused', 'failed', 'completed'));

ALTER TABLE loop_run_steps
    DROP CONSTRAINT IF EXISTS chk_loop_run_steps_status,
    ADD CONSTRAINT chk_loop_run_steps_status
        CHECK (status IN ('pending', 'running', 'completed', 'failed', 'blocked', 'cancelled', 'skipped')),
    ADD CONSTRAINT chk_loop_run_steps_terminal
        CHECK ((status IN ('completed', 'failed', 'blocked', 'cancelled', 'skipped')) = (completed_at IS NOT NULL));

-- One live run per issue: the database decides.
CREATE UNIQUE INDEX IF NOT EXISTS uq_loop_runs_live ON loop_runs (issue_id)
WHERE mode = 'execute' AND status IN ('pending', 'running');

-- An issue's runs, newest first, by keyset.
CREATE INDEX IF NOT EXISTS idx_loop_runs_issue_newest ON loop_runs (issue_id, created_at DESC, id DESC);

-- Terminal is immutable and there are no other ways: the WHEN clause is checked without a call, the function only raises.
CREATE OR REPLACE FUNCTION loop_refuse_transition() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'illegal transition of % %: % -> %', TG_TABLE_NAME, OLD.id, OLD.status, NEW.status
        USING ERRCODE = 'LR001';
END
$$;

CREATE OR REPLACE TRIGGER loop_runs_lifecycle
BEFORE UPDATE ON loop_runs
FOR EACH ROW
WHEN (NOT (
    (OLD.status = 'pending' AND NEW.status IN ('pending', 'running', 'failed', 'cancelled'))
    OR (OLD.status = 'running' AND NEW.status IN ('running', 'completed', 'failed', 'blocked', 'cancelled'))
))
EXECUTE FUNCTION loop_refuse_transition();

CREATE OR REPLACE TRIGGER loop_run_steps_lifecycle
BEFORE UPDATE ON loop_run_steps
FOR EACH ROW
WHEN (NOT (
    (OLD.status = 'pending' AND NEW.status IN ('pending', 'running', 'failed', 'skipped', 'cancelled'))
    OR (OLD.status = 'running' AND NEW.status IN ('running', 'completed', 'failed', 'blocked', 'cancelled'))
))
EXECUTE FUNCTION loop_refuse_transition();

COMMENT ON COLUMN loop_runs.status IS 'pending -> running -> completed, failed, blocked or cancelled';
COMMENT ON COLUMN loop_runs.principal IS 'The authenticated principal, where it named another person as actor';
COMMENT ON COLUMN loop_runs.loop_name IS 'Loop of the issue';
COMMENT ON COLUMN loop_runs.loop_version IS 'Content hash of the loop that was run';
COMMENT ON COLUMN loop_runs.step IS 'Number of the step that was executed or blocked';
COMMENT ON COLUMN loop_runs.attempt IS 'The how-manieth run of the same step visit, from 1';
COMMENT ON COLUMN loop_runs.retry_of IS 'The failed run that this one repeats';
COMMENT ON COLUMN loop_runs.state_before IS 'State of the issue when the run was claimed';
COMMENT ON COLUMN loop_runs.state_after IS 'State of the issue when the run ended';
COMMENT ON COLUMN loop_runs.issue_version IS 'Version of the issue when the run ended';
COMMENT ON COLUMN loop_runs.blocker_code IS 'Why the run was blocked';
COMMENT ON COLUMN loop_runs.error_code IS 'Why the run failed, as a stable name';
COMMENT ON COLUMN loop_runs.loop_status IS 'active, paused, failed or completed: how the issue stands after the run';
COMMENT ON COLUMN loop_runs.next_step IS 'The step that the next run would execute';
COMMENT ON COLUMN loop_runs.message IS 'What happened, for people';
COMMENT ON COLUMN loop_runs.idempotency_key IS 'Idempotency-Key of the call';
COMMENT ON COLUMN loop_runs.request_hash IS 'What the key stands for';
COMMENT ON COLUMN loop_runs.lease_token IS 'Fencing token: only its holder finishes the run';
COMMENT ON COLUMN loop_runs.lease_expires_at IS 'Until when the run owns its issue; of a pending run, by when it must start';
COMMENT ON COLUMN loop_runs.cancel_requested_at IS 'When somebody asked to cancel';
COMMENT ON COLUMN loop_runs.cancel_requested_by IS 'Who asked to cancel';
COMMENT ON COLUMN loop_runs.cancel_reason IS 'Why, in their words';
COMMENT ON COLUMN loop_runs.lambda_request_id IS 'Lambda''s id of the invocation';
COMMENT ON COLUMN loop_runs.log_stream IS 'CloudWatch log stream of the invocation';

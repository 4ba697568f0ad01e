-- 083: the record of loop runs and of their steps.
-- Repeatable: a database where this file was applied by hand keeps what it has.

CREATE TABLE IF NOT EXISTS loop_runs (
    id            uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    issue_id      text        NOT NULL,
    actor         text        NOT NULL,
    request_id    text        NOT NULL,
    mode          text        NOT NULL DEFAULT 'execute',
    status        text        NOT NULL DEFAULT 'pending',
    created_at    timestamptz NOT NULL DEFAULT now(),
    started_at    timestamptz,
    completed_at  timestamptz,
    duration_ms   bigint,
    error_message text,
    metadata      jsonb       NOT NULL DEFAULT '{}',
    CONSTRAINT chk_loop_runs_mode CHECK (mode IN ('execute', 'dryRun')),
    CONSTRAINT chk_loop_runs_status CHECK (status IN ('pending', 'running', 'completed', 'failed', 'blocked')),
    CONSTRAINT chk_loop_runs_duration CHECK (duration_ms >= 0)
);

CREATE INDEX IF NOT EXISTS idx_loop_runs_issue_id ON loop_runs (issue_id);
CREATE INDEX IF NOT EXISTS idx_loop_runs_status ON loop_runs (status);
CREATE INDEX IF NOT EXISTS idx_loop_runs_request_id ON loop_runs (request_id);
CREATE INDEX IF NOT EXISTS idx_loop_runs_created_at ON loop_runs (created_at DESC);

CREATE TABLE IF NOT EXISTS loop_run_steps (
    id            uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    run_id        uuid        NOT NULL REFERENCES loop_runs (id) ON DELETE CASCADE,
    step_number   integer     NOT NULL,
    step_type     text        NOT NULL,
    status        text        NOT NULL DEFAULT 'pending',
    created_at    timestamptz NOT NULL DEFAULT now(),
    started_at    timestamptz,
    completed_at  timestamptz,
    duration_ms   bigint,
    error_message text,
    metadata      jsonb       NOT NULL DEFAULT '{}',
    CONSTRAINT uq_loop_run_steps_run_step UNIQUE (run_id, step_number),
    CONSTRAINT chk_loop_run_steps_number CHECK (step_number >= 1),
    CONSTRAINT chk_loop_run_steps_status CHECK (status IN ('pending', 'running', 'completed', 'failed', 'skipped')),
    CONSTRAINT chk_loop_run_steps_duration CHECK (duration_ms >= 0)
);

COMMENT ON TABLE loop_runs IS 'One row per execution of run-next-step; immutable once its status is terminal';
COMMENT ON COLUMN loop_runs.id IS 'Run id, returned to the caller as runId';
COMMENT ON COLUMN loop_runs.issue_id IS 'The issue that was driven, e.g. AFU9-123';
COMMENT ON COLUMN loop_runs.actor IS 'Verified identity on whose behalf the call was made';
COMMENT ON COLUMN loop_runs.request_id IS 'x-request-id of the call';
COMMENT ON COLUMN loop_runs.mode IS 'execute, or dryRun (nothing but this row was written)';
COMMENT ON COLUMN loop_runs.status IS 'pending -> running -> completed, failed or blocked';
COMMENT ON COLUMN loop_runs.created_at IS 'When the run was recorded';
COMMENT ON COLUMN loop_runs.started_at IS 'When it began to run';
COMMENT ON COLUMN loop_runs.completed_at IS 'When it reached its terminal status';
COMMENT ON COLUMN loop_runs.duration_ms IS 'Milliseconds from started_at to completed_at';
COMMENT ON COLUMN loop_runs.error_message IS 'Why the run failed';
COMMENT ON COLUMN loop_runs.metadata IS 'Caller''s notes; merged, never replaced';

COMMENT ON TABLE loop_run_steps IS 'One row per step that a run touched: those skipped on the way, then the one executed';
COMMENT ON COLUMN loop_run_steps.id IS 'Row id';
COMMENT ON COLUMN loop_run_steps.run_id IS 'The run; its steps go with it';
COMMENT ON COLUMN loop_run_steps.step_number IS 'The step''s number in its loop, from 1';
COMMENT ON COLUMN loop_run_steps.step_type IS 'The step''s type in its loop, e.g. S1_PICK_ISSUE';
COMMENT ON COLUMN loop_run_steps.status IS 'pending -> running -> completed or failed; skipped';
COMMENT ON COLUMN loop_run_steps.created_at IS 'When the row was recorded';
COMMENT ON COLUMN loop_run_steps.started_at IS 'When the step began; null when it was skipped';
COMMENT ON COLUMN loop_run_steps.completed_at IS 'When the step reached its terminal status';
COMMENT ON COLUMN loop_run_steps.duration_ms IS 'Milliseconds from started_at to completed_at';
COMMENT ON COLUMN loop_run_steps.error_message IS 'Why the step failed';
COMMENT ON COLUMN loop_run_steps.metadata IS 'Notes on the step; merged, never replaced';

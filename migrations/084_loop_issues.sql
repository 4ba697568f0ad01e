-- 084: the issues that are driven through loops. Their lease lives in loop_runs only.

CREATE TABLE IF NOT EXISTS loop_issues (
    id              text        PRIMARY KEY,
    loop_name       text        NOT NULL,
    state           text        NOT NULL,
    facts           jsonb       NOT NULL DEFAULT '{}',
    version         bigint      NOT NULL DEFAULT 1,
    hold            jsonb,
    failed_attempts integer     NOT NULL DEFAULT 0,
    failed_run_id   uuid,
    next_attempt_at timestamptz,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT chk_loop_issues_id CHECK (id ~ '^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$'),
    CONSTRAINT chk_loop_issues_facts CHECK (jsonb_typeof(facts) = 'object'),
    CONSTRAINT chk_loop_issues_version CHECK (version >= 1),
    CONSTRAINT chk_loop_issues_failed_attempts CHECK (failed_attempts >= 0),
    CONSTRAINT chk_loop_issues_hold CHECK (jsonb_typeof(hold) = 'object' AND hold ?& ARRAY['reason', 'by', 'since'])
);

COMMENT ON TABLE loop_issues IS 'What is driven through a loop: its state, its facts, its version';
COMMENT ON COLUMN loop_issues.id IS 'Chosen by the caller, e.g. AFU9-123';
COMMENT ON COLUMN loop_issues.loop_name IS 'Name of the loop: loops/<name>.toml';
COMMENT ON COLUMN loop_issues.state IS 'State within the loop';
COMMENT ON COLUMN loop_issues.facts IS 'What gates read; callers and steps add to it (RFC 7396)';
COMMENT ON COLUMN loop_issues.version IS 'Grows by one exactly when state, facts or hold change; the ETag';
COMMENT ON COLUMN loop_issues.hold IS 'Set while a person has stopped the issue: {reason, by, since}';
COMMENT ON COLUMN loop_issues.failed_attempts IS 'How often the step that is next has failed, since the issue came to it';
COMMENT ON COLUMN loop_issues.failed_run_id IS 'The last of these runs';
COMMENT ON COLUMN loop_issues.next_attempt_at IS 'When a waiting retry is due';
COMMENT ON COLUMN loop_issues.created_at IS 'When the issue was registered';
COMMENT ON COLUMN loop_issues.updated_at IS 'When state, facts or hold last changed';

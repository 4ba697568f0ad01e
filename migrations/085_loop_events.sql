-- 085: the timeline of issues, append-only. Ids are assigned under the issue's lock, so that their order is the order
-- of what happened. event_data carries the listed keys only: no payloads, no secrets.

CREATE TABLE IF NOT EXISTS loop_events (
    event_id    bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    issue_id    text        NOT NULL,
    run_id      uuid,
    event_type  text        NOT NULL,
    event_data  jsonb       NOT NULL DEFAULT '{}',
    occurred_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT chk_loop_events_type CHECK (event_type IN (
        'loop_issue_registered', 'loop_facts_changed', 'loop_issue_held', 'loop_issue_resumed', 'loop_state_set',
        'loop_approval_decided', 'loop_run_queued', 'loop_run_started', 'loop_step_skipped', 'loop_step_completed',
        'loop_run_finished', 'loop_run_blocked', 'loop_run_failed', 'loop_run_cancelled', 'loop_retry_planned'
    )),
    CONSTRAINT chk_loop_events_data CHECK (event_data - ARRAY[
        'actor', 'attempt', 'blockerCode', 'comment', 'decision', 'endedBy', 'errorCode', 'factKeys', 'loop', 'outcome',
        'principal', 'reason', 'retryAt', 'retryOf', 'state', 'stateAfter', 'stateBefore', 'stepNumber', 'stepType', 'version'
    ] = '{}')
);

CREATE INDEX IF NOT EXISTS idx_loop_events_issue ON loop_events (issue_id, event_id DESC);

COMMENT ON TABLE loop_events IS 'Append-only timeline of an issue';
COMMENT ON COLUMN loop_events.event_id IS 'Order of events';
COMMENT ON COLUMN loop_events.issue_id IS 'The issue';
COMMENT ON COLUMN loop_events.run_id IS 'The run that caused it, if one did';
COMMENT ON COLUMN loop_events.event_type IS 'What happened';
COMMENT ON COLUMN loop_events.event_data IS 'Details: allow-listed keys, no payloads, no secrets';
COMMENT ON COLUMN loop_events.occurred_at IS 'When, by the database''s clock';

-- 091: what steps need that are executed elsewhere, that wait, that are retried, approved or run in the background.

ALTER TABLE loop_issues
    ADD COLUMN IF NOT EXISTS registered_by        text,
    ADD COLUMN IF NOT EXISTS registered_principal text,
    ADD COLUMN IF NOT EXISTS approval             jsonb,
    ADD COLUMN IF NOT EXISTS approval_requesters  jsonb NOT NULL DEFAULT '[]',
    ADD COLUMN IF NOT EXISTS idempotency_token    uuid,
    ADD COLUMN IF NOT EXISTS next_attempt_after   uuid,
    ADD COLUMN IF NOT EXISTS next_attempt_sent_at timestamptz;

UPDATE loop_issues AS i
SET registered_by = e.event_data ->> 'actor',
    registered_principal = e.event_data ->> 'principal'
FROM loop_events AS e
WHERE e.issue_id = i.id AND e.event_type = 'loop_issue_registered' AND i.registered_by IS NULL;

ALTER TABLE loop_runs
    ADD COLUMN IF NOT EXISTS retry_at  timestamptz,
    ADD COLUMN IF NOT EXISTS queued_at timestamptz,
    ADD COLUMN IF NOT EXISTS sent_at   timestamptz,
    ADD COLUMN IF NOT EXISTS sends     integer NOT NULL DEFAULT 0;

ALTER TABLE loop_run_steps
    ADD COLUMN IF NOT EXISTS retry_if_lost_seconds jsonb,
    ADD COLUMN IF NOT EXISTS task_token_hash       text,
    ADD COLUMN IF NOT EXISTS heartbeat_seconds     integer,
    ADD COLUMN IF NOT EXISTS timeout_at            timestamptz;

ALTER TABLE loop_events
    -- squawk-ignore ban-drop-constraint
    DROP CONSTRAINT IF EXISTS chk_loop_events_type,
    ADD CONSTRAINT chk_loop_events_type CHECK (event_type IN (
        'loop_issue_registered', 'loop_facts_changed', 'loop_issue_held', 'loop_issue_resumed', 'loop_state_set',
        'loop_approval_decided', 'loop_run_queued', 'loop_run_started', 'loop_step_skipped', 'loop_step_completed',
        'loop_run_finished', 'loop_run_blocked', 'loop_run_failed', 'loop_run_cancelled', 'loop_retry_planned',
        'loop_retry_cancelled'
    )) NOT VALID; -- it only allows more

COMMENT ON COLUMN loop_issues.registered_by IS 'Who registered the issue: an approval with four eyes is for somebody else';
COMMENT ON COLUMN loop_issues.registered_principal IS 'The authenticated principal, where it named another person';
COMMENT ON COLUMN loop_issues.approval IS 'The last decision: {decision, actor, principal, comment, at, version}; it counts for that version';
COMMENT ON COLUMN loop_issues.approval_requesters IS 'Who ran into the approval that is next: [{actor, principal}]';
COMMENT ON COLUMN loop_issues.idempotency_token IS 'Of the step that is next, while the outcome of its last execution is unknown';
COMMENT ON COLUMN loop_issues.next_attempt_at IS 'When the issue goes on by itself: a retry, or the next step';
COMMENT ON COLUMN loop_issues.next_attempt_after IS 'The run that planned it';
COMMENT ON COLUMN loop_issues.next_attempt_sent_at IS 'When the last message for it was sent, or is delivered; null: none was';
COMMENT ON COLUMN loop_runs.retry_at IS 'When the step is tried again after this failed run';
COMMENT ON COLUMN loop_runs.queued_at IS 'When a background run was queued; null for others';
COMMENT ON COLUMN loop_runs.sent_at IS 'When the last message for a pending run was sent';
COMMENT ON COLUMN loop_runs.sends IS 'How many messages were sent for a pending run';
COMMENT ON COLUMN loop_run_steps.retry_if_lost_seconds IS 'By error code: after how long the step is tried again if its run is lost; null: tried often enough';
COMMENT ON COLUMN loop_run_steps.task_token_hash IS 'SHA-256 of the token with which the outcome is told';
COMMENT ON COLUMN loop_run_steps.heartbeat_seconds IS 'How long the waiting run may be without a heartbeat';
COMMENT ON COLUMN loop_run_steps.timeout_at IS 'By when the outcome must have been told';

-- migrate: no-transaction
-- 088: the timeline of an issue, and the part of it that belongs to one run: from its created_at to its completed_at.
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_loop_events_issue_time
ON loop_events (issue_id, occurred_at DESC, event_id DESC);

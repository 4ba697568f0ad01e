-- migrate: no-transaction
-- 097: the timeline of an issue, in either direction. 099 makes it the key, in the place of two indexes.
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS idx_loop_events_in_time
ON loop_events (issue_id, occurred_at, event_id);

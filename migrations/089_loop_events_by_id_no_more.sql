-- migrate: no-transaction
-- 089: 088 serves what this index served; an entry less to write for each event.
DROP INDEX CONCURRENTLY IF EXISTS idx_loop_events_issue;

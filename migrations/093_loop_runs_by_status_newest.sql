-- migrate: no-transaction
-- 093: runs of a status, newest first, by keyset. 095 gives it the name of the index whose place it takes.
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_loop_runs_status_newest
ON loop_runs (status, created_at DESC, id DESC);

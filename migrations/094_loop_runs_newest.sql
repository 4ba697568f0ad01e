-- migrate: no-transaction
-- 094: all runs, newest first, by keyset. 095 gives it the name of the index whose place it takes.
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_loop_runs_newest
ON loop_runs (created_at DESC, id DESC);

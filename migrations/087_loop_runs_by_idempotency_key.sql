-- migrate: no-transaction
-- 087: a call that repeats an Idempotency-Key finds its run. Only runs that were asked for with a key are in the index.
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_loop_runs_idempotency_key
ON loop_runs (issue_id, idempotency_key, created_at DESC)
WHERE idempotency_key IS NOT NULL;

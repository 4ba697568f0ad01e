-- migrate: no-transaction
-- 096: issues of a loop and a state, newest first, by keyset.
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_loop_issues_state_newest
ON loop_issues (loop_name, state, created_at DESC, id DESC);

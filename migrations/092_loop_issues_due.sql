-- migrate: no-transaction
-- 092: issues that go on by themselves, by when.
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_loop_issues_next_attempt
ON loop_issues (next_attempt_at)
WHERE next_attempt_at IS NOT NULL;

-- migrate: no-transaction
-- 098: one live run per issue, by what a run has when it has ended. 100 gives it the name of the index whose place it takes,
-- whose condition on the status led the planner to the index of statuses, and through every run that had just been live.
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS uq_loop_runs_not_ended
ON loop_runs (issue_id)
WHERE mode = 'execute' AND completed_at IS NULL;

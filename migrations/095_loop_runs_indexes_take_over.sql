-- 095: 093 and 094 serve what these two served, and lists by keyset as well: no entry more to write for each run.
-- squawk-ignore-file require-concurrent-index-deletion, ban-drop-column, renaming-column
DO $$
BEGIN
    IF to_regclass('idx_loop_runs_status_newest') IS NOT NULL THEN
        DROP INDEX IF EXISTS idx_loop_runs_status;
        ALTER INDEX idx_loop_runs_status_newest RENAME TO idx_loop_runs_status;
    END IF;
    IF to_regclass('idx_loop_runs_newest') IS NOT NULL THEN
        DROP INDEX IF EXISTS idx_loop_runs_created_at;
        ALTER INDEX idx_loop_runs_newest RENAME TO idx_loop_runs_created_at;
    END IF;
END
$$;

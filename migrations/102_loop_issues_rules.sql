-- 102: see 101. Rows that are there were held to the same rules: NOT VALID.
-- squawk-ignore-file ban-drop-constraint
ALTER TABLE loop_issues
    DROP CONSTRAINT IF EXISTS chk_loop_issues_id,
    DROP CONSTRAINT IF EXISTS chk_loop_issues_facts,
    DROP CONSTRAINT IF EXISTS chk_loop_issues_version,
    DROP CONSTRAINT IF EXISTS chk_loop_issues_failed_attempts,
    DROP CONSTRAINT IF EXISTS chk_loop_issues_hold,
    DROP CONSTRAINT IF EXISTS chk_loop_issues,
    ADD CONSTRAINT chk_loop_issues CHECK (loop_is_issue(id, facts, version, failed_attempts, hold)) NOT VALID;

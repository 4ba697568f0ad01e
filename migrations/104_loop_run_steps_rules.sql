-- 104: see 101 and 103.
-- squawk-ignore-file ban-drop-constraint
ALTER TABLE loop_run_steps
    DROP CONSTRAINT IF EXISTS chk_loop_run_steps_number,
    DROP CONSTRAINT IF EXISTS chk_loop_run_steps_status,
    DROP CONSTRAINT IF EXISTS chk_loop_run_steps_terminal,
    DROP CONSTRAINT IF EXISTS chk_loop_run_steps_duration,
    DROP CONSTRAINT IF EXISTS chk_loop_run_steps,
    ADD CONSTRAINT chk_loop_run_steps CHECK (loop_is_run_step(step_number, status, completed_at, duration_ms)) NOT VALID;

DROP TRIGGER IF EXISTS loop_run_steps_lifecycle ON loop_run_steps;
CREATE TRIGGER loop_run_steps_lifecycle
AFTER UPDATE ON loop_run_steps
FOR EACH ROW
EXECUTE FUNCTION loop_refuse_transition();

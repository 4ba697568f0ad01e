-- 090: an ended run takes no more steps. That it is not rewritten is 086's; that loop_app deletes nothing, its rights'
-- (functions/loop_set_rights.sql).

CREATE OR REPLACE FUNCTION loop_refuse_step() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM loop_runs WHERE id = NEW.run_id AND completed_at IS NOT NULL) THEN
        RAISE EXCEPTION 'run % has ended: it takes no step', NEW.run_id
            USING ERRCODE = 'LR002';
    END IF;
    RETURN NEW;
END
$$;

-- Not where a caller's temporary table may stand in front of the ledger's.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION loop_refuse_step() SET search_path = pg_catalog, %I, pg_temp', current_schema());
END
$$;

CREATE OR REPLACE TRIGGER loop_run_steps_of_live_run
BEFORE INSERT OR UPDATE OF run_id ON loop_run_steps
FOR EACH ROW
EXECUTE FUNCTION loop_refuse_step();

-- Gives role loop_app, as which the functions connect, the rights that they need and no other: it cannot delete, truncate
-- or change a definition, an event is never changed, and what has ended is guarded by triggers. Called here and by
-- bootstrap.sql, whichever comes last; does nothing where there is no such role.
CREATE OR REPLACE FUNCTION loop_set_rights() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'loop_app') THEN
        RETURN;
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO loop_app', current_schema());
    REVOKE ALL ON loop_issues, loop_runs, loop_run_steps, loop_events, schema_migrations FROM loop_app;
    GRANT SELECT, INSERT, UPDATE ON loop_issues, loop_runs, loop_run_steps TO loop_app;
    GRANT SELECT, INSERT ON loop_events TO loop_app;
    GRANT SELECT ON schema_migrations TO loop_app;
    GRANT EXECUTE ON FUNCTION loop_purge(timestamptz, integer) TO loop_app;
END
$$;

SELECT loop_set_rights();

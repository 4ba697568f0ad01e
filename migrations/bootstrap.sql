-- For a DBA, once per database, before or after the first migration; may be repeated. Makes loop_app, the role as which
-- the functions connect, with timeouts of its own: role settings, since a session's SET would pin an RDS Proxy connection.
-- Then give it a way to log in, for example: ALTER ROLE loop_app PASSWORD '…'.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'loop_app') THEN
        CREATE ROLE loop_app LOGIN;
    END IF;
    ALTER ROLE loop_app SET lock_timeout = '5s';
    ALTER ROLE loop_app SET statement_timeout = '8s';
    ALTER ROLE loop_app SET idle_in_transaction_session_timeout = '10s';
    IF to_regproc('loop_set_rights') IS NOT NULL THEN
        PERFORM loop_set_rights();
    END IF;
END
$$;

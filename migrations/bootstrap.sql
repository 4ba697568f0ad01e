-- Makes the two roles of a database, before its first migration: loop_owner, who owns the schema and applies migrations, and
-- loop_app, as which the functions connect. A DBA runs it once, in the database itself, as its owner; where the stack made
-- the database, the migrate function runs it at each deployment. It may be repeated.
--
-- On Aurora and RDS both sign in with IAM tokens and have no password. Elsewhere give them a way to log in, for example:
-- ALTER ROLE loop_app PASSWORD '…'.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'loop_owner') THEN
        CREATE ROLE loop_owner LOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'loop_app') THEN
        CREATE ROLE loop_app LOGIN;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_iam') THEN
        GRANT rds_iam TO loop_owner, loop_app;
    END IF;

    -- Tables and functions in the schema public; on the database for `make verify`, which makes a schema to compare with.
    EXECUTE format('GRANT CONNECT, CREATE ON DATABASE %I TO loop_owner', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO loop_app', current_database());
    GRANT USAGE, CREATE ON SCHEMA public TO loop_owner;
    GRANT USAGE ON SCHEMA public TO loop_app;

    -- Role settings, since a session's SET would pin an RDS Proxy connection.
    ALTER ROLE loop_app SET lock_timeout = '5s';
    ALTER ROLE loop_app SET statement_timeout = '8s';
    ALTER ROLE loop_app SET idle_in_transaction_session_timeout = '10s';

    -- What loop_app may do with the tables is said by the migrations; where they came first, again, by their owner.
    IF EXISTS (
        SELECT
        FROM pg_proc
        WHERE oid = to_regproc('loop_set_rights') AND pg_has_role(proowner, 'USAGE')
    ) THEN
        PERFORM loop_set_rights();
    END IF;
END
$$;

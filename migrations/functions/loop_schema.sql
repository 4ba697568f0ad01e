-- What this schema is, for code that meets it: version is the newest numbered migration, minimum_code the oldest
-- code (loop_runner.settings.CODE_VERSION) that may run on it. Constants, so that they travel with a claim for free.
CREATE OR REPLACE FUNCTION loop_schema() RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT '{"version": 105, "minimumCode": 1}'::jsonb
$$;

-- The top-level keys of a patch, for an event: the first twenty, cut to a length; never a value.
CREATE OR REPLACE FUNCTION loop_fact_keys(patch jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT jsonb_agg(k.key ORDER BY k.key)
    FROM (SELECT left(key, 128) AS key FROM jsonb_object_keys(patch) AS key LIMIT 20) AS k
$$;

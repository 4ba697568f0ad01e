-- JSON Merge Patch (RFC 7396): the result of applying patch to target. Each level is built once: key by key it would be
-- copied for every key.
CREATE OR REPLACE FUNCTION loop_merge_patch(target jsonb, patch jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF jsonb_typeof(patch) IS DISTINCT FROM 'object' THEN
        RETURN patch;
    END IF;
    IF jsonb_typeof(target) IS DISTINCT FROM 'object' THEN
        target := '{}';
    END IF;
    RETURN coalesce((
        SELECT jsonb_object_agg(merged.key, merged.value)
        FROM (
            SELECT t.key, t.value
            FROM jsonb_each(target) AS t
            LEFT JOIN jsonb_each(patch) AS p ON p.key = t.key
            WHERE p.key IS NULL
            UNION ALL
            SELECT
                p.key,
                CASE jsonb_typeof(p.value) WHEN 'object' THEN loop_merge_patch(t.value, p.value) ELSE p.value END
            FROM jsonb_each(patch) AS p
            LEFT JOIN jsonb_each(target) AS t ON t.key = p.key
            WHERE p.value <> 'null'
        ) AS merged
    ), '{}');
END
$$;

-- JSON Merge Patch (RFC 7396): the result of applying patch to target.
CREATE OR REPLACE FUNCTION loop_merge_patch(target jsonb, patch jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    v_result jsonb;
    v_key    text;
    v_value  jsonb;
BEGIN
    IF jsonb_typeof(patch) IS DISTINCT FROM 'object' THEN
        RETURN patch;
    END IF;
    v_result := CASE WHEN jsonb_typeof(target) = 'object' THEN target ELSE '{}'::jsonb END;
    FOR v_key, v_value IN SELECT key, value FROM jsonb_each(patch) LOOP
        IF v_value = 'null' THEN
            v_result := v_result - v_key;
        ELSE
            v_result := v_result || jsonb_build_object(v_key, loop_merge_patch(v_result -> v_key, v_value));
        END IF;
    END LOOP;
    RETURN v_result;
END
$$;

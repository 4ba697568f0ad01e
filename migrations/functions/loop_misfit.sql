-- Why this code does not fit this schema, as an outcome; null where it does.
CREATE OR REPLACE FUNCTION loop_misfit(request jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_schema jsonb := loop_schema();
BEGIN
    IF (request ->> 'requiredSchema')::integer > (v_schema ->> 'version')::integer THEN
        RETURN jsonb_build_object('outcome', 'schemaTooOld');
    ELSIF (request ->> 'codeVersion')::integer < (v_schema ->> 'minimumCode')::integer THEN
        RETURN jsonb_build_object('outcome', 'codeTooOld');
    END IF;
    RETURN NULL;
END
$$;

-- The issues that wait for a pull request: in one of these states, not on hold, with no attempt planned (which will look by
-- itself), and with facts that name the pull request (prUrl, pr.number), or its head, its branch or its merge commit. A look
-- at the newest issues of each state, along one index (docs/adr/0004): see loop_list_issues on what it is kept from.
--
-- request: states {loop: [states]}, repository (owner/name), pullRequests [numbers], branches [names], maxLooked (of each state),
--          maxFound; optional sha
-- answer:  issues [ids, newest first], isCut: whether a state has more issues than were looked at, or more were found
CREATE OR REPLACE FUNCTION loop_find_waiting(request jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET enable_bitmapscan = off
SET enable_seqscan = off
SET enable_sort = off
SET jit = off
AS $$
DECLARE
    v_repository text := lower(request ->> 'repository');
    v_max_looked integer := (request ->> 'maxLooked')::integer;
    v_max_found  integer := (request ->> 'maxFound')::integer;
    v_branches   text[] := ARRAY(SELECT jsonb_array_elements_text(request -> 'branches'));
    v_paths      text[] := ARRAY(
        SELECT format('/%s/pull/%s', v_repository, number) FROM jsonb_array_elements_text(request -> 'pullRequests') AS number
    );
BEGIN
    RETURN (
        WITH looked AS MATERIALIZED (
            SELECT i.*, count(*) OVER (PARTITION BY k.loop_name, k.state) AS of_kind
            FROM (
                SELECT l.key AS loop_name, s.state
                FROM jsonb_each(request -> 'states') AS l (key, states)
                CROSS JOIN LATERAL jsonb_array_elements_text(l.states) AS s (state)
            ) AS k
            CROSS JOIN LATERAL (
                SELECT id, created_at, hold, next_attempt_at, rtrim(lower(split_part(split_part(facts ->> 'prUrl', '#', 1), '?', 1)), '/') AS url, facts -> 'pr' AS pr
                FROM loop_issues
                WHERE loop_name = k.loop_name AND state = k.state
                ORDER BY created_at DESC, id DESC
                LIMIT v_max_looked
            ) AS i
        ),
        found AS (
            SELECT id, created_at
            FROM looked
            WHERE hold IS NULL AND next_attempt_at IS NULL AND (
                EXISTS (SELECT FROM unnest(v_paths) AS path WHERE right(url, length(path)) = path)
                OR lower(pr ->> 'repository') = v_repository AND (
                    request -> 'pullRequests' @> (pr -> 'number')
                    OR request ->> 'sha' IN (pr ->> 'headSha', pr ->> 'mergeSha')
                    OR pr ->> 'headRef' = ANY(v_branches)
                )
            )
            ORDER BY created_at DESC, id DESC
            LIMIT v_max_found + 1
        )
        SELECT jsonb_build_object(
            'issues', coalesce((
                SELECT jsonb_agg(id ORDER BY created_at DESC, id DESC)
                FROM (SELECT * FROM found ORDER BY created_at DESC, id DESC LIMIT v_max_found) AS f
            ), '[]'),
            'isCut', (SELECT count(*) > v_max_found FROM found)
                OR EXISTS (SELECT FROM looked WHERE of_kind >= v_max_looked)
        )
    );
END
$$;

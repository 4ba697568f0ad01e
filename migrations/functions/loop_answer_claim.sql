-- What loop_begin and loop_claim answer with a claimed run: of its row what the claim does not know itself, and what a
-- release reads that takes it for a whole one. Functions are applied by name, each at once: this one before those two.
CREATE OR REPLACE FUNCTION loop_answer_claim(issue loop_issues, run loop_runs, at_time timestamptz, took_over boolean) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'outcome', 'claimed', 'now', at_time, 'tookOver', took_over, 'issue', to_jsonb(issue),
        'run', jsonb_build_object(
            'id', run.id, 'issue_id', run.issue_id, 'actor', run.actor, 'principal', run.principal,
            'request_id', run.request_id, 'mode', run.mode, 'status', run.status, 'created_at', run.created_at,
            'queued_at', run.queued_at, 'attempt', run.attempt, 'metadata', run.metadata))
$$;

-- A relay takes due rows for a while: business events (p_events), or everything else, so that events which nobody takes
-- are not in the way of jobs. Rows that another relay holds are skipped; rows whose holder let its time pass are
-- `reclaimed`, and `node_state` then tells whether a worker has had the message after all.
-- The claim is a hint among relays, so its commit is asynchronous.
CREATE OR REPLACE FUNCTION flowcraft_take_outbox(p_token uuid, p_limit int, p_claim_ms bigint, p_events boolean) RETURNS TABLE (
	id text, message_id uuid, kind text, run_id text, node_id text, generation text, recovers text, blueprint_id text,
	queue text, priority smallint, exchange text, routing_key text, payload text, headers text, traceparent text,
	failures int, reclaimed boolean, node_state text
)
LANGUAGE plpgsql VOLATILE ROWS 200
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_material = off
SET random_page_cost = 0
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	v_now timestamptz := clock_timestamp();
BEGIN
	PERFORM set_config('synchronous_commit', 'off', true);
	RETURN QUERY
	WITH due AS (
		SELECT o.ctid AS place, o.claim_token IS NOT NULL AS reclaimed
		FROM flowcraft_outbox o
		WHERE (o.kind = 'event') = p_events AND o.due_at <= v_now
			AND (o.claimed_until IS NULL OR o.claimed_until < v_now)
		ORDER BY o.due_at
		LIMIT p_limit
		FOR UPDATE SKIP LOCKED
	)
	UPDATE flowcraft_outbox o SET claim_token = p_token, claimed_until = v_now + p_claim_ms * interval '1 millisecond'
	FROM due d
	WHERE o.ctid = d.place
	RETURNING o.id::text, o.message_id, o.kind, o.run_id::text, o.node_id::text, o.generation::text, o.recovers::text,
		o.blueprint_id, o.queue, o.priority, o.exchange, o.routing_key, o.payload, o.headers, o.traceparent, o.failures, d.reclaimed,
		CASE WHEN d.reclaimed THEN (
			SELECT n.state FROM flowcraft_nodes n
			WHERE n.run_id = o.run_id AND n.node_id = o.node_id AND n.generation = o.generation AND n.recovers = o.recovers
		) END;
END $$;

-- What became of the rows that a relay took: p_done are deleted, p_failed come back after their delay. Rows that
-- another relay has taken since are left alone, and so are rows that are locked: by a cancel or a resume, which is about
-- to delete them, in an order of its own. Losing this in a crash only publishes again: asynchronous.
CREATE OR REPLACE FUNCTION flowcraft_settle_outbox(
	p_token uuid, p_done bigint[], p_failed bigint[], p_delays bigint[], p_errors text[]
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_material = off
SET random_page_cost = 0
SET jit = off
AS $$
BEGIN
	PERFORM set_config('synchronous_commit', 'off', true);
	IF cardinality(p_done) > 0 THEN
		DELETE FROM flowcraft_outbox o USING (
			SELECT ours.ctid AS place FROM flowcraft_outbox ours
			WHERE ours.id = ANY (p_done) AND ours.claim_token = p_token FOR UPDATE SKIP LOCKED
		) AS ours
		WHERE o.ctid = ours.place;
	END IF;
	IF cardinality(p_failed) > 0 THEN
		UPDATE flowcraft_outbox o SET claim_token = NULL, claimed_until = NULL, failures = o.failures + 1, last_error = f.error,
			due_at = clock_timestamp() + f.delay_ms * interval '1 millisecond'
		FROM (
			SELECT ours.ctid AS place, ours.id FROM flowcraft_outbox ours
			WHERE ours.id = ANY (p_failed) AND ours.claim_token = p_token FOR UPDATE SKIP LOCKED
		) AS ours
		JOIN unnest(p_failed, p_delays, p_errors) AS f(id, delay_ms, error) ON f.id = ours.id
		WHERE o.ctid = ours.place;
	END IF;
END $$;

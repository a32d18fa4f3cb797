-- Claims jobs for a worker: the only way for a node to become `running`, but for the successors that a commit claims.
-- One row per asked job, in any order. The tokens are the worker's choice, a new one for each claim: a claim whose answer
-- was lost is asked again under the same token, and answered the same.
--
-- Outcomes:
--   claimed  it is this worker's, under this token; the row carries what the execution needs
--   held     it runs under another token, or is being claimed right now
--   early    it is not due yet; its outbox row will come back
--   paused   its run is paused
--   done     nothing is left to do: finished, cancelled, unknown, or its child still runs
--
--   no_lease the worker's lease has passed, or the sweep has declared it dead: it claims nothing, and the message has
--            to go back
--
-- Losing a claim in a crash of Postgres is harmless (the node is `ready` again and the sweep emits it), so the commit
-- is asynchronous.
CREATE OR REPLACE FUNCTION flowcraft_claim(
	p_worker uuid, p_runs text[], p_nodes text[], p_generations text[], p_recovers text[], p_tokens uuid[]
) RETURNS TABLE (
	ix int, outcome text, attempt int, crashes int, unrunnable_ms bigint, wake text, wait text, resume text,
	has_input boolean, transformed boolean, input text, child_run_id text, child_status text, child_reason text,
	blueprint_id text, blueprint_hash text, depth int, traceparent text, dynamic text, given text
)
LANGUAGE plpgsql VOLATILE ROWS 50
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
	v_locked text[];
	v_woken_runs text[];
	v_woken_waiting int[];
BEGIN
	PERFORM set_config('synchronous_commit', 'off', true);

	IF NOT EXISTS (
		SELECT FROM flowcraft_workers w
		WHERE w.worker_id = p_worker AND w.dead_at IS NULL AND w.stopped_at IS NULL AND w.lease_until > v_now
	) THEN
		RETURN QUERY SELECT i::int, 'no_lease', NULL::int, NULL::int, NULL::bigint, NULL, NULL, NULL, NULL::boolean, NULL::boolean, NULL, NULL,
			NULL, NULL, NULL, NULL, NULL::int, NULL, NULL, NULL FROM generate_subscripts(p_runs, 1) AS i;
		RETURN;
	END IF;

	-- 1. Timers that have fired and children that have ended: these nodes cease to wait, which a run counts, so the runs
	--    are locked: first, before any node, and parents before children. Only what is locked here is woken.
	SELECT array_agg(DISTINCT w.run_id) INTO v_locked
	FROM unnest(p_runs, p_nodes, p_generations, p_recovers) AS w(run_id, node_id, generation, recovers)
	CROSS JOIN LATERAL (
		SELECT n.state FROM flowcraft_nodes n
		WHERE n.run_id = w.run_id AND n.node_id = w.node_id AND n.generation = w.generation AND n.recovers = w.recovers
		OFFSET 0
	) AS n
	WHERE n.state IN ('waiting', 'child');
	IF v_locked IS NOT NULL THEN
		PERFORM FROM flowcraft_statuses s WHERE s.run_id = ANY (v_locked) ORDER BY s.depth, s.run_id FOR NO KEY UPDATE;
		WITH wanted AS (
			SELECT min(w.ix)::int AS ix, w.run_id, w.node_id, w.generation, w.recovers
			FROM unnest(p_runs, p_nodes, p_generations, p_recovers) WITH ORDINALITY AS w(run_id, node_id, generation, recovers, ix)
			WHERE w.run_id = ANY (v_locked)
			GROUP BY w.run_id, w.node_id, w.generation, w.recovers
		), asleep AS (
			SELECT w.ix, n.place, n.state, child.status AS child_status, child.finished_at AS child_finished_at,
				-- Counted as waiting until now: every wait, and a child that was known to wait.
				CASE WHEN n.state = 'waiting' OR n.child_status = 'awaiting' THEN -1 ELSE 0 END AS waiting
			FROM wanted w
			CROSS JOIN LATERAL (
				SELECT n.ctid AS place, n.state, n.due_at, n.child_run_id, n.child_status, n.claim_token FROM flowcraft_nodes n
				WHERE n.run_id = w.run_id AND n.node_id = w.node_id AND n.generation = w.generation AND n.recovers = w.recovers
				OFFSET 0
			) AS n
			CROSS JOIN LATERAL (SELECT s.status FROM flowcraft_statuses s WHERE s.run_id = w.run_id OFFSET 0) AS s
			LEFT JOIN LATERAL (
				SELECT c.status, c.finished_at FROM flowcraft_statuses c WHERE c.run_id = n.child_run_id OFFSET 0
			) AS child ON n.state = 'child'
			WHERE s.status IN ('running', 'awaiting') AND (
				(n.state = 'waiting' AND n.due_at <= v_now)
				OR (n.state = 'child' AND child.finished_at IS NOT NULL)
			)
			-- An ask that comes late must not give a token that has been used up its power back.
			AND n.claim_token IS DISTINCT FROM p_tokens[w.ix]
		), woken AS (
			UPDATE flowcraft_nodes n
			SET state = 'running', worker_id = p_worker, claim_token = p_tokens[a.ix], claimed_at = v_now,
				claimed_xid = pg_current_xact_id(),
				wake = CASE n.state WHEN 'child' THEN 'child' ELSE 'timer' END,
				-- Its message was due when the timer was, or when the child ended: the sweep compares messages by it.
				emitted_at = greatest(n.emitted_at, n.due_at, a.child_finished_at),
				due_at = NULL,
				child_status = coalesce(a.child_status, n.child_status)
			FROM asleep a
			WHERE n.ctid = a.place AND n.state || '' = a.state
			RETURNING n.run_id, a.waiting
		)
		SELECT array_agg(woken.run_id), array_agg(woken.waiting) INTO v_woken_runs, v_woken_waiting FROM woken;
		IF v_woken_runs IS NOT NULL THEN
			PERFORM flowcraft_settle_runs(v_woken_runs, array_fill(0, ARRAY[cardinality(v_woken_runs)]), v_woken_waiting,
				array_fill(0, ARRAY[cardinality(v_woken_runs)]), array_fill(NULL::text, ARRAY[cardinality(v_woken_runs)]));
		END IF;
	END IF;

	-- 2. Ready nodes. No counter changes, so the run's row stays unlocked; a cancel that is under way has either
	--    marked the node already or will mark it `cancelled` right after us.
	WITH wanted AS (
		SELECT min(w.ix)::int AS ix, w.run_id, w.node_id, w.generation, w.recovers
		FROM unnest(p_runs, p_nodes, p_generations, p_recovers) WITH ORDINALITY AS w(run_id, node_id, generation, recovers, ix)
		GROUP BY w.run_id, w.node_id, w.generation, w.recovers
	), free AS (
		SELECT w.ix, n.place
		FROM wanted w
		CROSS JOIN LATERAL (SELECT s.status FROM flowcraft_statuses s WHERE s.run_id = w.run_id OFFSET 0) AS s
		CROSS JOIN LATERAL (
			SELECT n.ctid AS place FROM flowcraft_nodes n
			WHERE n.run_id = w.run_id AND n.node_id = w.node_id AND n.generation = w.generation AND n.recovers = w.recovers
				AND n.state || '' = 'ready' AND (n.due_at IS NULL OR n.due_at <= v_now)
				AND n.claim_token IS DISTINCT FROM p_tokens[w.ix]
			FOR UPDATE SKIP LOCKED
		) AS n
		WHERE s.status IN ('running', 'awaiting')
	)
	UPDATE flowcraft_nodes n
	SET state = 'running', worker_id = p_worker, claim_token = p_tokens[f.ix], claimed_at = v_now,
		claimed_xid = pg_current_xact_id()
	FROM free f
	WHERE n.ctid = f.place AND n.state || '' = 'ready';

	-- 3. What the execution needs: the input that the last taken edge brought, the resume payload, the child's end.
	RETURN QUERY
	SELECT w.ix::int,
		CASE
			WHEN n.state = 'running' AND n.claim_token = w.token AND n.worker_id = p_worker THEN 'claimed'
			WHEN n.state IS NULL OR s.finished_at IS NOT NULL THEN 'done'
			WHEN s.status = 'paused' AND n.state IN ('ready', 'waiting', 'child') THEN 'paused'
			WHEN n.state = 'running' OR (n.state = 'ready' AND (n.due_at IS NULL OR n.due_at <= v_now)) THEN 'held'
			WHEN n.state = 'ready' OR (n.state = 'waiting' AND n.due_at > v_now) THEN 'early'
			ELSE 'done'
		END,
		n.attempt, n.crashes,
		(extract(epoch FROM v_now - n.unrunnable_since) * 1000)::bigint, n.wake, n.wait, n.resume,
		n.input IS NOT NULL OR n.input_node IS NOT NULL, n.input IS NOT NULL,
		coalesce(n.input, source.output),
		n.child_run_id::text, child.status, child.reason,
		s.blueprint_id, s.blueprint_hash, s.depth::int, s.traceparent, n.dynamic,
		-- What a run was started with for a node that no edge leads to.
		CASE WHEN n.input IS NULL AND n.input_node IS NULL THEN (
			SELECT c.value FROM flowcraft_contexts c WHERE c.run_id = w.run_id AND c.key = '_inputs.' || w.node_id OFFSET 0
		) END
	FROM unnest(p_runs, p_nodes, p_generations, p_recovers, p_tokens)
		WITH ORDINALITY AS w(run_id, node_id, generation, recovers, token, ix)
	LEFT JOIN LATERAL (
		SELECT n.* FROM flowcraft_nodes n
		WHERE n.run_id = w.run_id AND n.node_id = w.node_id AND n.generation = w.generation AND n.recovers = w.recovers
		OFFSET 0
	) AS n ON true
	LEFT JOIN LATERAL (SELECT s.* FROM flowcraft_statuses s WHERE s.run_id = w.run_id OFFSET 0) AS s ON true
	LEFT JOIN LATERAL (
		SELECT i.output FROM flowcraft_nodes i
		WHERE i.run_id = w.run_id AND i.node_id = n.input_node AND i.generation = n.input_generation AND i.recovers = n.input_recovers
		OFFSET 0
	) AS source ON true
	LEFT JOIN LATERAL (
		SELECT c.status, c.reason FROM flowcraft_statuses c WHERE c.run_id = n.child_run_id OFFSET 0
	) AS child ON true;
END $$;

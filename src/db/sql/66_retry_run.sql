-- Another attempt of failed nodes, by hand: while their siblings run, or after the run has failed, which opens it again.
-- Nothing is planned here: a node becomes `ready`, and a worker goes on from it as from any other.
--
-- It is one more attempt, whatever `maxRetries` says. Its crashes are forgotten, its mark as a dead letter too, its saved
-- steps are kept. A subflow's attempt gets a child run of its own.

-- The fallbacks of a run's nodes, nearest or not, one row for each node that they stand in for.
CREATE OR REPLACE FUNCTION flowcraft_fallbacks(p_run text) RETURNS TABLE (
	failed_node text, failed_recovers text, node_id text, generation text, recovers text, state text
)
LANGUAGE sql STABLE ROWS 1000 AS $$
	SELECT failed.id,
		coalesce('[' || (
			SELECT string_agg(to_json(outer_one.id)::text, ',' ORDER BY outer_one.position)
			FROM json_array_elements_text(n.recovers::json) WITH ORDINALITY AS outer_one(id, position)
			WHERE outer_one.position > failed.position
		) || ']', ''),
		n.node_id::text, n.generation::text, n.recovers::text, n.state
	FROM flowcraft_nodes n
	CROSS JOIN LATERAL json_array_elements_text(n.recovers::json) WITH ORDINALITY AS failed(id, position)
	WHERE n.run_id = p_run AND n.recovers <> ''
$$;

-- Begins another attempt of the given nodes as far as they are in p_state; the one before goes into the history. The
-- caller has locked their runs and counts them as live. Returns the run of each node that is ready now.
CREATE OR REPLACE FUNCTION flowcraft_begin_attempt(
	p_runs text[], p_nodes text[], p_generations text[], p_recovers text[], p_state text
) RETURNS SETOF text
LANGUAGE plpgsql VOLATILE
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
	RETURN QUERY
	WITH superseded AS (
		INSERT INTO flowcraft_attempts (recorded_at, run_id, node_id, generation, recovers, attempt, outcome, worker_id, claimed_at, error)
		SELECT v_now, n.run_id, n.node_id, n.generation, n.recovers, n.attempt, 'failed', n.worker_id, n.claimed_at, n.error
		FROM unnest(p_runs, p_nodes, p_generations, p_recovers) AS x(run_id, node_id, generation, recovers)
		CROSS JOIN LATERAL (
			SELECT n.* FROM flowcraft_nodes n
			WHERE n.run_id = x.run_id AND n.node_id = x.node_id AND n.generation = x.generation AND n.recovers = x.recovers
			OFFSET 0
		) AS n
		WHERE n.state = p_state
	), begun AS (
		UPDATE flowcraft_nodes n SET state = 'ready', attempt = n.attempt + 1, crashes = 0, reemits = 0, emitted_at = v_now,
			due_at = NULL, unrunnable_since = NULL, dead_letter = NULL, error = NULL, output = NULL, action = NULL,
			wake = NULL, wait = NULL, wait_event = NULL, wait_key = NULL, resume = NULL, child_run_id = NULL, child_status = NULL,
			worker_id = NULL, claimed_at = NULL, finished_seq = NULL, finished_at = NULL
		FROM unnest(p_runs, p_nodes, p_generations, p_recovers) AS x(run_id, node_id, generation, recovers)
		CROSS JOIN LATERAL (
			SELECT p.ctid AS place FROM flowcraft_nodes p
			WHERE p.run_id = x.run_id AND p.node_id = x.node_id AND p.generation = x.generation AND p.recovers = x.recovers
			OFFSET 0
		) AS p
		WHERE n.ctid = p.place AND n.state || '' = p_state
		RETURNING n.run_id, n.node_id, n.generation, n.recovers
	), posted AS (
		INSERT INTO flowcraft_outbox (run_id, node_id, generation, recovers, blueprint_id, traceparent, due_at)
		SELECT b.run_id, b.node_id, b.generation, b.recovers, s.blueprint_id, s.traceparent, v_now
		FROM begun b CROSS JOIN LATERAL (
			SELECT s.blueprint_id, s.traceparent FROM flowcraft_statuses s WHERE s.run_id = b.run_id OFFSET 0
		) AS s
	)
	SELECT b.run_id::text FROM begun b;
END $$;

-- Without p_node: every failed node that nothing else of its branch may yet recover. Of a node whose fallback has failed
-- too, that is the fallback, and of several in a row the last one: when it completes, it stands in for the node as if it
-- had never failed. With p_node: that node, in each of its generations that failed, or in p_generation alone and
-- standing in for p_recovers. Failures of its fallbacks are set aside then (`cancelled`): they run again if the node
-- fails again, and only then. A node and its fallback are never tried at once.
--
-- Outcomes: `retried`, and `nodes` are ready now; `unknown`; `child`, it is retried through `parent`; `cancelled`;
-- `recovering`, the fallbacks `nodes` are under way; `not_failed`, and `nodes` have.
CREATE OR REPLACE FUNCTION flowcraft_retry_run(
	p_run text, p_node text, p_generation text, p_recovers text,
	OUT outcome text, OUT status text, OUT nodes text[], OUT parent text
)
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	v_run record;
	v_nodes text[];
	v_generations text[];
	v_recovers text[];
	v_aside int := 0;
	v_begun int;
BEGIN
	nodes := '{}';
	SELECT s.status, s.parent_run_id, s.finished_at INTO v_run FROM flowcraft_statuses s WHERE s.run_id = p_run FOR NO KEY UPDATE;
	outcome := CASE
		WHEN NOT FOUND THEN 'unknown'
		WHEN v_run.status = 'cancelled' THEN 'cancelled'
		WHEN v_run.parent_run_id IS NOT NULL THEN 'child'
	END;
	status := v_run.status;
	parent := v_run.parent_run_id;
	IF outcome IS NOT NULL THEN
		RETURN;
	END IF;

	-- 1. Which ones: what has failed, without those that a fallback may still recover.
	SELECT array_agg(n.node_id), array_agg(n.generation), array_agg(n.recovers) INTO v_nodes, v_generations, v_recovers
	FROM flowcraft_nodes n
	WHERE n.run_id = p_run AND n.state = 'failed'
		AND (p_node IS NULL OR n.node_id = p_node)
		AND (p_generation IS NULL OR n.generation = p_generation)
		AND (p_recovers IS NULL OR n.recovers = p_recovers)
		-- Hashed once, however many have failed.
		AND (n.node_id, n.generation, n.recovers) NOT IN (
			SELECT f.failed_node, f.generation, f.failed_recovers FROM flowcraft_fallbacks(p_run) f
			WHERE f.state <> 'cancelled' AND (p_node IS NULL OR f.state <> 'failed')
		);
	IF v_nodes IS NULL THEN
		SELECT coalesce(array_agg(DISTINCT f.node_id), '{}') INTO nodes
		FROM flowcraft_fallbacks(p_run) f JOIN flowcraft_nodes n
			ON n.run_id = p_run AND n.node_id = f.failed_node AND n.recovers = f.failed_recovers AND n.generation = f.generation
		WHERE n.state = 'failed' AND f.state NOT IN ('failed', 'cancelled') AND (p_node IS NULL OR n.node_id = p_node);
		outcome := 'recovering';
		IF cardinality(nodes) = 0 THEN
			SELECT coalesce(array_agg(DISTINCT n.node_id::text), '{}') INTO nodes
			FROM flowcraft_nodes n WHERE n.run_id = p_run AND n.state = 'failed';
			outcome := 'not_failed';
		END IF;
		RETURN;
	END IF;

	-- 2. A run that has failed is live again.
	IF v_run.finished_at IS NOT NULL THEN
		UPDATE flowcraft_statuses s SET status = 'running', finished_at = NULL WHERE s.run_id = p_run;
		INSERT INTO flowcraft_transitions (recorded_at, run_id, status) VALUES (clock_timestamp(), p_run, 'running');
	END IF;

	-- 3. Failed fallbacks of a node that is tried again itself.
	IF p_node IS NOT NULL THEN
		WITH aside AS (
			UPDATE flowcraft_nodes n SET state = 'cancelled', dead_letter = NULL
			FROM flowcraft_fallbacks(p_run) f
			JOIN unnest(v_nodes, v_generations, v_recovers) AS x(node_id, generation, recovers)
				ON f.failed_node = x.node_id AND f.generation = x.generation AND f.failed_recovers = x.recovers
			WHERE n.run_id = p_run AND n.node_id = f.node_id AND n.generation = f.generation AND n.recovers = f.recovers
				AND n.state = 'failed'
			RETURNING 1
		)
		SELECT count(*) INTO v_aside FROM aside;
	END IF;

	-- 4. Their next attempt, and what the run counts.
	SELECT count(*) INTO v_begun
	FROM flowcraft_begin_attempt(array_fill(p_run, ARRAY[cardinality(v_nodes)]), v_nodes, v_generations, v_recovers, 'failed');
	PERFORM flowcraft_settle_runs(ARRAY[p_run], ARRAY[v_begun], ARRAY[0], ARRAY[-(v_begun + v_aside)], ARRAY[NULL::text]);
	PERFORM flowcraft_ring();
	outcome := 'retried';
	SELECT array_agg(DISTINCT x.node_id) INTO nodes FROM unnest(v_nodes) AS x(node_id);
	SELECT s.status INTO status FROM flowcraft_statuses s WHERE s.run_id = p_run;
END $$;

-- Reconciling: what the sweep does for everybody, asked for by name. As there, a run is stalled if a worker died with
-- one of its nodes in hand, or if the message of a node that could run is lost; never because something takes long. A
-- worker is not dead because Postgres was down; that it could not be reached for another reason only a sweep can know.
--
-- A message counts as lost as in flowcraft_sweep_lost: its node has no row in the outbox, and its grace has passed,
-- doubled with each time that it was emitted again. p_backlog: messages wait in the broker. Then ours may be among
-- them, and only a node that was passed by (one emitted a whole grace later runs already) counts.

-- Up to p_limit stalled runs after p_after, in the order of their ids. Changes nothing.
CREATE OR REPLACE FUNCTION flowcraft_stalled_runs(
	p_after text, p_stalled_ms bigint, p_backlog boolean, p_limit int
) RETURNS SETOF text
LANGUAGE plpgsql STABLE ROWS 100
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_material = off
SET random_page_cost = 0
SET jit = off
AS $$
DECLARE
	v_now timestamptz := clock_timestamp();
	v_grace interval := p_stalled_ms * interval '1 millisecond';
	v_passed timestamptz := 'infinity';
BEGIN
	IF p_backlog THEN
		SELECT coalesce(max(n.emitted_at), '-infinity') INTO v_passed FROM flowcraft_nodes n WHERE n.state = 'running';
	END IF;

	-- One branch for each partial index on flowcraft_nodes, so that only live nodes are looked at.
	RETURN QUERY
	WITH sent AS (
		SELECT n.run_id, n.node_id, n.generation, n.recovers, n.reemits, n.emitted_at AS sent_at
		FROM flowcraft_nodes n
		WHERE n.state = 'ready' AND n.emitted_at < v_now - v_grace
		UNION ALL
		SELECT n.run_id, n.node_id, n.generation, n.recovers, n.reemits, greatest(n.due_at, n.emitted_at)
		FROM flowcraft_nodes n
		WHERE n.state = 'waiting' AND n.due_at IS NOT NULL AND n.due_at < v_now - v_grace
		UNION ALL
		SELECT n.run_id, n.node_id, n.generation, n.recovers, n.reemits, greatest(child.finished_at, n.emitted_at)
		FROM flowcraft_nodes n JOIN flowcraft_statuses child ON child.run_id = n.child_run_id
		WHERE n.state = 'child' AND n.child_run_id IS NOT NULL AND child.finished_at < v_now - v_grace
	), stalled AS (
		SELECT sent.run_id FROM sent
		WHERE sent.sent_at < v_now - v_grace * (2 ^ least(sent.reemits, 6))
			AND sent.sent_at < v_passed - v_grace
			AND NOT EXISTS (
				SELECT FROM flowcraft_outbox o
				WHERE o.run_id = sent.run_id AND o.node_id = sent.node_id AND o.generation = sent.generation
					AND o.recovers = sent.recovers AND o.kind = 'job'
			)
		UNION
		SELECT n.run_id
		FROM flowcraft_nodes n LEFT JOIN flowcraft_workers w ON w.worker_id = n.worker_id
		WHERE n.state = 'running'
			AND (w.worker_id IS NULL OR w.dead_at IS NOT NULL OR w.stopped_at IS NOT NULL
				OR flowcraft_lease_end(w.lease_until, w.heartbeat_at, pg_postmaster_start_time()) < v_now)
	)
	SELECT s.run_id::text
	FROM stalled JOIN flowcraft_statuses s ON s.run_id = stalled.run_id AND s.status IN ('running', 'awaiting')
	WHERE s.run_id > p_after
	ORDER BY s.run_id
	LIMIT p_limit;
END $$;

-- Emits again whatever of one run can run but has no worker and no message. `emitted` names those nodes. `status` is
-- the run's, null for an unknown one; of a run that is neither running nor awaiting nothing is emitted.
CREATE OR REPLACE FUNCTION flowcraft_reconcile_run(
	p_run text, p_stalled_ms bigint, p_backlog boolean, OUT status text, OUT emitted text[]
)
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_material = off
SET random_page_cost = 0
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	v_run record;
	v_now timestamptz;
	v_grace interval := p_stalled_ms * interval '1 millisecond';
	v_passed timestamptz := 'infinity';
	v_lost text[];
BEGIN
	emitted := '{}';
	SELECT s.status, s.blueprint_id, s.traceparent INTO v_run
	FROM flowcraft_statuses s WHERE s.run_id = p_run FOR NO KEY UPDATE;
	status := v_run.status;
	IF status IS NULL OR status NOT IN ('running', 'awaiting') THEN
		RETURN;
	END IF;
	v_now := clock_timestamp();

	-- 1. Dead workers first lose the right to finish what they hold. One whose heartbeat is being written is alive; one
	--    that the sweep is burying is left to it.
	WITH silent AS (
		SELECT w.worker_id FROM flowcraft_workers w
		WHERE w.stopped_at IS NULL AND w.dead_at IS NULL
			AND flowcraft_lease_end(w.lease_until, w.heartbeat_at, pg_postmaster_start_time()) < v_now
			AND EXISTS (SELECT FROM flowcraft_nodes n WHERE n.run_id = p_run AND n.state = 'running' AND n.worker_id = w.worker_id)
		FOR NO KEY UPDATE OF w SKIP LOCKED
	)
	UPDATE flowcraft_workers w SET dead_at = v_now FROM silent WHERE w.worker_id = silent.worker_id;

	WITH held AS (
		SELECT n.node_id, n.generation, n.recovers, n.worker_id, v_now + flowcraft_crash_rest(n.crashes) AS due_at
		FROM flowcraft_nodes n LEFT JOIN flowcraft_workers w ON w.worker_id = n.worker_id
		WHERE n.run_id = p_run AND n.state = 'running'
			AND (w.worker_id IS NULL OR w.dead_at IS NOT NULL OR w.stopped_at IS NOT NULL)
		FOR NO KEY UPDATE OF n SKIP LOCKED
	), freed AS (
		UPDATE flowcraft_nodes n SET state = 'ready', crashes = n.crashes + 1, due_at = h.due_at,
			emitted_at = coalesce(h.due_at, v_now), claim_token = NULL
		FROM held h
		WHERE n.run_id = p_run AND n.node_id = h.node_id AND n.generation = h.generation AND n.recovers = h.recovers
			AND n.state = 'running' AND n.worker_id = h.worker_id
		RETURNING n.node_id, n.generation, n.recovers, n.attempt, n.worker_id, n.claimed_at, n.emitted_at
	), posted AS (
		INSERT INTO flowcraft_outbox (run_id, node_id, generation, recovers, blueprint_id, traceparent, due_at)
		SELECT p_run, f.node_id, f.generation, f.recovers, v_run.blueprint_id, v_run.traceparent, f.emitted_at FROM freed f
	), history AS (
		INSERT INTO flowcraft_attempts (run_id, node_id, generation, recovers, attempt, outcome, worker_id, claimed_at, error)
		SELECT p_run, f.node_id, f.generation, f.recovers, f.attempt, 'crashed', f.worker_id, f.claimed_at,
			'{"name":"WorkerDied","message":"The worker that ran this attempt died"}'
		FROM freed f
	)
	SELECT coalesce(array_agg(f.node_id::text), '{}') INTO emitted FROM freed f;

	-- 2. Lost messages: of ready nodes, of timers that are due, of children that have ended.
	IF p_backlog THEN
		SELECT coalesce(max(n.emitted_at), '-infinity') INTO v_passed FROM flowcraft_nodes n WHERE n.state = 'running';
	END IF;
	WITH lost AS (
		SELECT n.node_id, n.generation, n.recovers, n.state
		FROM flowcraft_nodes n
		LEFT JOIN flowcraft_statuses child ON child.run_id = n.child_run_id AND n.state = 'child'
		CROSS JOIN LATERAL (
			SELECT CASE n.state WHEN 'ready' THEN n.emitted_at WHEN 'waiting' THEN n.due_at ELSE child.finished_at END
		) AS message(due_at)
		WHERE n.run_id = p_run AND n.state IN ('ready', 'waiting', 'child')
			-- Null without a timer, and while the child has not ended.
			AND message.due_at IS NOT NULL
			AND greatest(message.due_at, n.emitted_at) < v_now - v_grace * (2 ^ least(n.reemits, 6))
			AND greatest(message.due_at, n.emitted_at) < v_passed - v_grace
			AND NOT EXISTS (
				SELECT FROM flowcraft_outbox o
				WHERE o.run_id = n.run_id AND o.node_id = n.node_id AND o.generation = n.generation AND o.recovers = n.recovers
					AND o.kind = 'job'
			)
		FOR NO KEY UPDATE OF n SKIP LOCKED
	), again AS (
		UPDATE flowcraft_nodes n SET
			emitted_at = v_now,
			reemits = least(n.reemits + 1, 32000)
		FROM lost l
		WHERE n.run_id = p_run AND n.node_id = l.node_id AND n.generation = l.generation AND n.recovers = l.recovers
			AND n.state = l.state
		RETURNING n.node_id, n.generation, n.recovers
	), posted AS (
		INSERT INTO flowcraft_outbox (run_id, node_id, generation, recovers, blueprint_id, traceparent, due_at)
		SELECT p_run, a.node_id, a.generation, a.recovers, v_run.blueprint_id, v_run.traceparent, v_now FROM again a
	)
	SELECT coalesce(array_agg(a.node_id::text), '{}') INTO v_lost FROM again a;
	emitted := emitted || v_lost;
END $$;

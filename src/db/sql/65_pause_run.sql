-- Pausing: nothing of the run that is queued, due or resumed starts any more, what runs may finish. Only the run's
-- status says so: claims and the sweep look at it, messages that come meanwhile are dropped, and unpausing emits again
-- whatever could run by then. A claim that was under way when the pause committed counts as one before it.

-- Leaves word for a run's parent: it counts whether its child waits, and a paused child does not.
CREATE OR REPLACE FUNCTION flowcraft_tell_parent(p_run text) RETURNS void
LANGUAGE sql VOLATILE AS $$
	INSERT INTO flowcraft_outbox (kind, run_id, node_id, generation, recovers, blueprint_id, traceparent, due_at)
	SELECT 'child', s.parent_run_id, s.parent_node_id, s.parent_generation, s.parent_recovers,
		parent.blueprint_id, parent.traceparent, clock_timestamp()
	FROM flowcraft_statuses s JOIN flowcraft_statuses parent ON parent.run_id = s.parent_run_id
	WHERE s.run_id = p_run
$$;

-- Pauses a run and its live descendants; children that start later start paused (`flowcraft_insert_runs`).
-- Outcomes: `paused`; `unchanged`, it was paused before; `final`, it has ended; `unknown`.
CREATE OR REPLACE FUNCTION flowcraft_pause_run(p_run text, OUT outcome text, OUT status text)
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	v_now timestamptz;
	v_runs text[];
BEGIN
	SELECT s.status INTO status FROM flowcraft_statuses s WHERE s.run_id = p_run FOR NO KEY UPDATE;
	outcome := CASE
		WHEN NOT FOUND THEN 'unknown'
		WHEN status = 'paused' THEN 'unchanged'
		WHEN status NOT IN ('running', 'awaiting') THEN 'final'
	END;
	IF outcome IS NOT NULL THEN
		RETURN;
	END IF;
	v_runs := flowcraft_lock_descendants(p_run);
	v_now := clock_timestamp();

	WITH paused AS (
		UPDATE flowcraft_statuses s SET status = 'paused', updated_at = v_now
		WHERE s.run_id = ANY (v_runs) AND s.status <> 'paused'
		RETURNING s.run_id
	)
	INSERT INTO flowcraft_transitions (recorded_at, run_id, status) SELECT v_now, p.run_id, 'paused' FROM paused p;
	PERFORM flowcraft_tell_parent(p_run);
	outcome := 'paused';
	status := 'paused';
END $$;

-- Lets a paused run and its live descendants go on: their statuses follow from their counters again, and what could
-- run gets a message: ready nodes, timers, nodes whose child has ended. Messages that a relay has in hand may have been
-- dropped already, so only those that nobody has taken yet count; of two messages one dies at the claim.
-- Outcomes: `unpaused`; `unchanged`, it was not paused; `parent_paused`, p_run's parent `parent` is: unpausing begins
-- there; `final`; `unknown`.
CREATE OR REPLACE FUNCTION flowcraft_unpause_run(p_run text, OUT outcome text, OUT status text, OUT parent text)
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
	v_now timestamptz;
	v_runs text[];
	v_posted bigint[];
	v_depth int;
BEGIN
	-- Never changes. The parent is locked first, as everywhere: it may be about to be paused.
	SELECT s.parent_run_id INTO parent FROM flowcraft_statuses s WHERE s.run_id = p_run;
	PERFORM FROM flowcraft_statuses s WHERE s.run_id = parent FOR NO KEY UPDATE;
	SELECT s.status INTO status FROM flowcraft_statuses s WHERE s.run_id = p_run FOR NO KEY UPDATE;
	outcome := CASE
		WHEN NOT FOUND THEN 'unknown'
		WHEN status IN ('running', 'awaiting') THEN 'unchanged'
		WHEN status <> 'paused' THEN 'final'
		WHEN EXISTS (SELECT FROM flowcraft_statuses s WHERE s.run_id = parent AND s.status = 'paused') THEN 'parent_paused'
	END;
	IF outcome IS NOT NULL THEN
		RETURN;
	END IF;
	v_runs := flowcraft_lock_descendants(p_run);
	v_now := clock_timestamp();

	-- 1. Children before parents: a run awaits only if its children do, and a child may have changed while it was paused.
	FOR v_depth IN
		SELECT DISTINCT s.depth FROM flowcraft_statuses s WHERE s.run_id = ANY (v_runs) ORDER BY s.depth DESC
	LOOP
		WITH heard AS (
			UPDATE flowcraft_nodes n SET child_status = child.status
			FROM flowcraft_statuses s, flowcraft_nodes was, flowcraft_statuses child
			WHERE s.run_id = ANY (v_runs) AND s.depth = v_depth
				AND was.run_id = s.run_id AND was.state = 'child' AND child.run_id = was.child_run_id
				AND was.child_status IS DISTINCT FROM child.status
				AND n.run_id = was.run_id AND n.node_id = was.node_id AND n.generation = was.generation AND n.recovers = was.recovers
			RETURNING n.run_id, (child.status = 'awaiting')::int - coalesce(was.child_status = 'awaiting', false)::int AS waiting
		), counted AS (
			SELECT h.run_id, sum(h.waiting)::int AS waiting FROM heard h GROUP BY h.run_id
		), unpaused AS (
			UPDATE flowcraft_statuses s SET
				waiting_count = s.waiting_count + coalesce(c.waiting, 0),
				commit_seq = s.commit_seq + 1,
				status = CASE WHEN s.waiting_count + coalesce(c.waiting, 0) = s.live_count THEN 'awaiting' ELSE 'running' END,
				updated_at = v_now
			FROM flowcraft_statuses was LEFT JOIN counted c ON c.run_id = was.run_id
			WHERE was.run_id = ANY (v_runs) AND was.depth = v_depth AND s.run_id = was.run_id
			RETURNING s.run_id, s.status
		)
		INSERT INTO flowcraft_transitions (recorded_at, run_id, status) SELECT v_now, u.run_id, u.status FROM unpaused u;
	END LOOP;

	-- 2. What could run, and what will once it is due. Rows that nobody has taken yet stay ours until we are done: taken a
	--    moment earlier, their messages would still find the run paused, and be dropped.
	SELECT array_agg(o.id) INTO v_posted FROM (
		SELECT o.id FROM flowcraft_outbox o
		WHERE o.run_id = ANY (v_runs) AND o.kind = 'job' AND o.claim_token IS NULL
		FOR UPDATE SKIP LOCKED
	) AS o;
	WITH able AS (
		SELECT n.run_id, n.node_id, n.generation, n.recovers,
			greatest(v_now, CASE WHEN n.state <> 'child' THEN n.due_at END) AS due_at
		FROM flowcraft_nodes n
		WHERE n.run_id = ANY (v_runs)
			AND (
				n.state || '' = 'ready' OR (n.state || '' = 'waiting' AND n.due_at IS NOT NULL)
				OR (n.state || '' = 'child' AND EXISTS (
					SELECT FROM flowcraft_statuses child WHERE child.run_id = n.child_run_id AND child.finished_at IS NOT NULL
				))
			)
			AND NOT EXISTS (
				SELECT FROM flowcraft_outbox o
				WHERE o.run_id = n.run_id AND o.node_id = n.node_id AND o.generation = n.generation AND o.recovers = n.recovers
					AND o.id = ANY (v_posted)
			)
		ORDER BY n.run_id, n.node_id, n.generation, n.recovers
		FOR NO KEY UPDATE OF n
	), emitted AS (
		UPDATE flowcraft_nodes n SET emitted_at = a.due_at, reemits = 0
		FROM able a
		WHERE n.run_id = a.run_id AND n.node_id = a.node_id AND n.generation = a.generation AND n.recovers = a.recovers
		RETURNING n.run_id, n.node_id, n.generation, n.recovers, a.due_at
	)
	INSERT INTO flowcraft_outbox (run_id, node_id, generation, recovers, blueprint_id, traceparent, due_at)
	SELECT e.run_id, e.node_id, e.generation, e.recovers, s.blueprint_id, s.traceparent, e.due_at
	FROM emitted e JOIN flowcraft_statuses s ON s.run_id = e.run_id;

	PERFORM flowcraft_tell_parent(p_run);
	PERFORM flowcraft_ring();
	outcome := 'unpaused';
	SELECT s.status INTO status FROM flowcraft_statuses s WHERE s.run_id = p_run;
END $$;

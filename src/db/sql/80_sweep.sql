-- The sweep's writes. None of them looks at a run's `updated_at` to judge a stall: a node is taken up again because
-- its worker is dead or its message is lost, never because it takes long.

-- How long a node rests that has just lost a worker, p_crashes before this one: not at all the first time, since what
-- happened was most likely not its doing; then a random while that grows. A node that kills its workers takes all down
-- that run beside it, each time, and whoever came back together with it would again be there: each on its own, only the
-- one at fault gets to its last crash.
CREATE OR REPLACE FUNCTION flowcraft_crash_rest(p_crashes int) RETURNS interval
LANGUAGE sql VOLATILE AS $$
	SELECT CASE WHEN p_crashes > 0 THEN random() * 2 ^ least(p_crashes - 1, 3) * interval '1 second' END
$$;

-- When a worker's lease ends that has last been extended at p_heartbeat_at: in its time; or, if nobody could reach the
-- database until p_reached_at, as long after that as the lease is. Its heartbeats could not land, which says nothing of it.
CREATE OR REPLACE FUNCTION flowcraft_lease_end(
	p_lease_until timestamptz, p_heartbeat_at timestamptz, p_reached_at timestamptz
) RETURNS timestamptz
LANGUAGE sql STABLE AS $$
	SELECT p_lease_until + greatest(p_reached_at - p_heartbeat_at, interval '0')
$$;

-- Declares workers dead whose lease has passed, and makes the nodes that dead or stopped workers still hold ready
-- again. Rows that somebody else is changing right now are left for the next sweep.
-- p_reached_at: when the caller last found the database within reach again, null if it has never been out of it. What the
-- caller cannot know, the server does: since when it runs.
CREATE OR REPLACE FUNCTION flowcraft_sweep_workers(p_limit int, p_reached_at timestamptz, OUT buried int, OUT recovered int)
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
	v_now timestamptz := clock_timestamp();
	v_reached_at timestamptz := greatest(pg_postmaster_start_time(), p_reached_at);
BEGIN
	WITH dead AS (
		UPDATE flowcraft_workers w SET dead_at = v_now
		WHERE w.lease_until < v_now AND w.stopped_at IS NULL AND w.dead_at IS NULL
			AND flowcraft_lease_end(w.lease_until, w.heartbeat_at, v_reached_at) < v_now
		RETURNING 1
	)
	SELECT count(*) INTO buried FROM dead;

	WITH held AS (
		SELECT n.ctid AS place, n.worker_id, s.blueprint_id, s.traceparent, v_now + flowcraft_crash_rest(n.crashes) AS due_at
		FROM flowcraft_nodes n
		CROSS JOIN LATERAL (
			SELECT s.blueprint_id, s.traceparent, s.finished_at FROM flowcraft_statuses s WHERE s.run_id = n.run_id OFFSET 0
		) AS s
		LEFT JOIN LATERAL (
			SELECT w.worker_id, w.dead_at, w.stopped_at FROM flowcraft_workers w WHERE w.worker_id = n.worker_id OFFSET 0
		) AS w ON true
		WHERE n.state = 'running' AND s.finished_at IS NULL
			AND (w.worker_id IS NULL OR w.dead_at IS NOT NULL OR w.stopped_at IS NOT NULL)
		LIMIT p_limit
		FOR NO KEY UPDATE OF n SKIP LOCKED
	), freed AS (
		UPDATE flowcraft_nodes n SET state = 'ready', crashes = n.crashes + 1, due_at = h.due_at,
			emitted_at = coalesce(h.due_at, v_now), claim_token = NULL
		FROM held h
		WHERE n.ctid = h.place AND n.state || '' = 'running' AND n.worker_id = h.worker_id
		RETURNING n.run_id, n.node_id, n.generation, n.recovers, n.attempt, n.worker_id, n.claimed_at, n.emitted_at, h.blueprint_id, h.traceparent
	), posted AS (
		INSERT INTO flowcraft_outbox (run_id, node_id, generation, recovers, blueprint_id, traceparent, due_at)
		SELECT f.run_id, f.node_id, f.generation, f.recovers, f.blueprint_id, f.traceparent, f.emitted_at FROM freed f
	), history AS (
		INSERT INTO flowcraft_attempts (run_id, node_id, generation, recovers, attempt, outcome, worker_id, claimed_at, error)
		SELECT f.run_id, f.node_id, f.generation, f.recovers, f.attempt, 'crashed', f.worker_id, f.claimed_at,
			'{"name":"WorkerDied","message":"The worker that ran this attempt died"}'
		FROM freed f
	)
	SELECT count(*) INTO recovered FROM freed;
END $$;

-- Emits again what can run but whose message is lost: a ready node, a timer, or a parent of an ended child that has no
-- row in the outbox although its grace has passed. The grace begins when the message was due or last emitted, and
-- doubles with each emission, up to 64 times.
-- p_backlog: messages wait in the broker. Then ours may be among them, and only a node that was passed by (one emitted
-- a whole grace later runs already) counts as lost.
CREATE OR REPLACE FUNCTION flowcraft_sweep_lost(p_stalled_ms bigint, p_backlog boolean, p_limit int) RETURNS int
LANGUAGE plpgsql VOLATILE
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
	v_passed timestamptz;
	v_ready int;
	v_timers int;
	v_children int;
BEGIN
	IF p_backlog THEN
		SELECT max(n.emitted_at) INTO v_passed FROM flowcraft_nodes n WHERE n.state = 'running';
		v_passed := coalesce(v_passed, '-infinity');
	ELSE
		v_passed := 'infinity';
	END IF;

	WITH lost AS (
		SELECT n.ctid AS place, s.blueprint_id, s.traceparent
		FROM flowcraft_nodes n
		CROSS JOIN LATERAL (
			SELECT s.status, s.blueprint_id, s.traceparent FROM flowcraft_statuses s WHERE s.run_id = n.run_id OFFSET 0
		) AS s
		WHERE s.status IN ('running', 'awaiting') AND n.state = 'ready' AND n.emitted_at < v_now - v_grace
			AND n.emitted_at < v_now - v_grace * (2 ^ least(n.reemits, 6))
			AND n.emitted_at < v_passed - v_grace
			AND NOT EXISTS (
				SELECT FROM flowcraft_outbox o
				WHERE o.run_id = n.run_id AND o.node_id = n.node_id AND o.generation = n.generation AND o.recovers = n.recovers
					AND o.kind = 'job'
				OFFSET 0
			)
		ORDER BY n.emitted_at
		LIMIT p_limit
		FOR NO KEY UPDATE OF n SKIP LOCKED
	), emitted AS (
		UPDATE flowcraft_nodes n SET emitted_at = v_now, reemits = least(n.reemits + 1, 32000)
		FROM lost l
		WHERE n.ctid = l.place AND n.state || '' = 'ready'
		RETURNING n.run_id, n.node_id, n.generation, n.recovers, l.blueprint_id, l.traceparent
	), posted AS (
		INSERT INTO flowcraft_outbox (run_id, node_id, generation, recovers, blueprint_id, traceparent, due_at)
		SELECT e.run_id, e.node_id, e.generation, e.recovers, e.blueprint_id, e.traceparent, v_now FROM emitted e
	)
	SELECT count(*) INTO v_ready FROM emitted;

	WITH lost AS (
		SELECT n.ctid AS place, s.blueprint_id, s.traceparent
		FROM flowcraft_nodes n
		CROSS JOIN LATERAL (
			SELECT s.status, s.blueprint_id, s.traceparent FROM flowcraft_statuses s WHERE s.run_id = n.run_id OFFSET 0
		) AS s
		WHERE s.status IN ('running', 'awaiting') AND n.state = 'waiting' AND n.due_at IS NOT NULL AND n.due_at < v_now - v_grace
			AND greatest(n.due_at, n.emitted_at) < v_now - v_grace * (2 ^ least(n.reemits, 6))
			AND greatest(n.due_at, n.emitted_at) < v_passed - v_grace
			AND NOT EXISTS (
				SELECT FROM flowcraft_outbox o
				WHERE o.run_id = n.run_id AND o.node_id = n.node_id AND o.generation = n.generation AND o.recovers = n.recovers
					AND o.kind = 'job'
				OFFSET 0
			)
		ORDER BY n.due_at
		LIMIT p_limit
		FOR NO KEY UPDATE OF n SKIP LOCKED
	), emitted AS (
		UPDATE flowcraft_nodes n SET emitted_at = v_now, reemits = least(n.reemits + 1, 32000)
		FROM lost l
		WHERE n.ctid = l.place AND n.state || '' = 'waiting'
		RETURNING n.run_id, n.node_id, n.generation, n.recovers, l.blueprint_id, l.traceparent
	), posted AS (
		INSERT INTO flowcraft_outbox (run_id, node_id, generation, recovers, blueprint_id, traceparent, due_at)
		SELECT e.run_id, e.node_id, e.generation, e.recovers, e.blueprint_id, e.traceparent, v_now FROM emitted e
	)
	SELECT count(*) INTO v_timers FROM emitted;

	WITH lost AS (
		SELECT n.ctid AS place, s.blueprint_id, s.traceparent
		FROM flowcraft_nodes n
		CROSS JOIN LATERAL (
			SELECT s.status, s.blueprint_id, s.traceparent FROM flowcraft_statuses s WHERE s.run_id = n.run_id OFFSET 0
		) AS s
		CROSS JOIN LATERAL (
			SELECT c.finished_at FROM flowcraft_statuses c WHERE c.run_id = n.child_run_id OFFSET 0
		) AS child
		WHERE s.status IN ('running', 'awaiting') AND n.state = 'child' AND n.child_run_id IS NOT NULL AND child.finished_at IS NOT NULL
			AND greatest(child.finished_at, n.emitted_at) < v_now - v_grace * (2 ^ least(n.reemits, 6))
			AND greatest(child.finished_at, n.emitted_at) < v_passed - v_grace
			AND NOT EXISTS (
				SELECT FROM flowcraft_outbox o
				WHERE o.run_id = n.run_id AND o.node_id = n.node_id AND o.generation = n.generation AND o.recovers = n.recovers
					AND o.kind = 'job'
				OFFSET 0
			)
		LIMIT p_limit
		FOR NO KEY UPDATE OF n SKIP LOCKED
	), emitted AS (
		UPDATE flowcraft_nodes n SET emitted_at = v_now, reemits = least(n.reemits + 1, 32000)
		FROM lost l
		WHERE n.ctid = l.place AND n.state || '' = 'child'
		RETURNING n.run_id, n.node_id, n.generation, n.recovers, l.blueprint_id, l.traceparent
	), posted AS (
		INSERT INTO flowcraft_outbox (run_id, node_id, generation, recovers, blueprint_id, traceparent, due_at)
		SELECT e.run_id, e.node_id, e.generation, e.recovers, e.blueprint_id, e.traceparent, v_now FROM emitted e
	)
	SELECT count(*) INTO v_children FROM emitted;

	RETURN v_ready + v_timers + v_children;
END $$;

-- Invariant 7, checked: looks at up to p_limit live runs after the run p_after, oldest first, counts the live nodes of
-- those that nobody has changed for p_quiet_ms, and sets right what does not agree. A repair is a defect of this
-- software: the caller logs it. `next` is where to go on, null at the end. However many runs have ended costs nothing.
CREATE OR REPLACE FUNCTION flowcraft_sweep_runs(
	p_after text, p_limit int, p_quiet_ms bigint, OUT repaired text[], OUT next text
)
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
	v_after timestamptz := '-infinity';
	v_quiet timestamptz := clock_timestamp() - p_quiet_ms * interval '1 millisecond';
	v_page record;
	v_run record;
	v_counts record;
BEGIN
	repaired := '{}';
	-- A run that is gone by now begins the round again.
	SELECT s.created_at INTO v_after FROM flowcraft_statuses s WHERE s.run_id = p_after;
	v_after := coalesce(v_after, '-infinity');
	FOR v_page IN
		SELECT page.run_id, page.updated_at
		FROM unnest(ARRAY['running', 'awaiting', 'paused']) AS live(status)
		CROSS JOIN LATERAL (
			SELECT s.run_id, s.created_at, s.updated_at FROM flowcraft_statuses s
			WHERE s.status = live.status AND s.finished_at IS NULL AND (s.created_at, s.run_id) > (v_after, p_after)
			ORDER BY s.created_at, s.run_id LIMIT p_limit
		) AS page
		ORDER BY page.created_at, page.run_id
		LIMIT p_limit
	LOOP
		next := v_page.run_id;
		CONTINUE WHEN v_page.updated_at >= v_quiet;
		-- Somebody who is changing it right now is no stall, nor who has just changed it.
		SELECT s.run_id, s.finished_at, s.updated_at INTO v_run
		FROM flowcraft_statuses s WHERE s.run_id = v_page.run_id FOR NO KEY UPDATE SKIP LOCKED;
		CONTINUE WHEN NOT FOUND OR v_run.finished_at IS NOT NULL OR v_run.updated_at >= v_quiet;
		SELECT
			count(*) FILTER (WHERE n.state IN ('ready', 'running', 'waiting', 'child'))::int - s.live_count AS live,
			count(*) FILTER (WHERE n.state = 'waiting' OR (n.state = 'child' AND n.child_status = 'awaiting'))::int - s.waiting_count AS waiting,
			count(*) FILTER (WHERE n.state = 'failed')::int - s.failed_count AS failed,
			s.live_count
		INTO v_counts
		FROM flowcraft_statuses s LEFT JOIN flowcraft_nodes n ON n.run_id = s.run_id
		WHERE s.run_id = v_run.run_id
		GROUP BY s.run_id;
		IF v_counts.live <> 0 OR v_counts.waiting <> 0 OR v_counts.failed <> 0 OR v_counts.live_count = 0 THEN
			PERFORM flowcraft_settle_runs(ARRAY[v_run.run_id], ARRAY[v_counts.live], ARRAY[v_counts.waiting],
				ARRAY[v_counts.failed], ARRAY[NULL::text]);
			repaired := repaired || v_run.run_id;
		END IF;
	END LOOP;
END $$;

-- Deletes what has been kept for its time: idempotency keys, events, webhooks, emitted data, rows of workers that are gone. A webhook
-- is remembered for a week longer than it is good for, so that late requests are told that it has expired.
CREATE OR REPLACE FUNCTION flowcraft_sweep_expired(p_worker_ms bigint) RETURNS int
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
	v_now timestamptz := clock_timestamp();
	v_total int := 0;
	v_rows int;
BEGIN
	-- Starts take over expired keys, several in one statement and in an order of their own: what they hold is left for the next time.
	DELETE FROM flowcraft_idempotency_keys k WHERE k.ctid = ANY (ARRAY(
		SELECT e.ctid FROM flowcraft_idempotency_keys e WHERE e.expires_at < v_now FOR UPDATE SKIP LOCKED
	));
	GET DIAGNOSTICS v_rows = ROW_COUNT; v_total := v_total + v_rows;
	DELETE FROM flowcraft_kept_events e WHERE e.expires_at < v_now;
	GET DIAGNOSTICS v_rows = ROW_COUNT; v_total := v_total + v_rows;
	DELETE FROM flowcraft_webhooks h WHERE h.expires_at < v_now - interval '7 days';
	GET DIAGNOSTICS v_rows = ROW_COUNT; v_total := v_total + v_rows;
	-- What nodes have emitted is kept for an hour: live readers have had it by then.
	DELETE FROM flowcraft_stream_events e WHERE e.what = 'emit' AND e.at < v_now - interval '1 hour';
	GET DIAGNOSTICS v_rows = ROW_COUNT; v_total := v_total + v_rows;
	-- Only once nothing claimed by it is left: a node whose worker is unknown counts as a dead worker's anyway.
	DELETE FROM flowcraft_workers w
	WHERE coalesce(w.stopped_at, w.dead_at) < v_now - p_worker_ms * interval '1 millisecond'
		AND NOT EXISTS (SELECT FROM flowcraft_nodes n WHERE n.worker_id = w.worker_id AND n.state = 'running');
	GET DIAGNOSTICS v_rows = ROW_COUNT; v_total := v_total + v_rows;
	RETURN v_total;
END $$;

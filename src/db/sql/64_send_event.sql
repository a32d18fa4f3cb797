-- Who sends an event and who begins to wait for it exclude each other until their transaction ends: either the wait is
-- there when the event looks for waits, or the event is kept when the wait looks for kept ones. Taken before any run's
-- lock, in one order everywhere.
--
-- Waits and events with different correlation keys never meet, so they do not exclude each other: each takes the lock
-- of its name, shared, and that of its name and key. Only a wait without a key, which takes every event of that name,
-- has the name's lock for itself.
CREATE OR REPLACE FUNCTION flowcraft_lock_events(p_names text[], p_keys text[], p_waits boolean) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
	v_lock record;
BEGIN
	FOR v_lock IN
		SELECT l.id, bool_or(l.is_exclusive) AS is_exclusive FROM (
			SELECT hashtextextended('flowcraft event ' || e.name, 0) AS id, p_waits AND e.key IS NULL AS is_exclusive
			FROM unnest(p_names, p_keys) AS e(name, key)
			UNION ALL
			SELECT hashtextextended('flowcraft event ' || e.name || ' ' || e.key, 1), true
			FROM unnest(p_names, p_keys) AS e(name, key) WHERE e.key IS NOT NULL
		) AS l
		GROUP BY l.id ORDER BY l.id
	LOOP
		IF v_lock.is_exclusive THEN
			PERFORM pg_advisory_xact_lock(v_lock.id);
		ELSE
			PERFORM pg_advisory_xact_lock_shared(v_lock.id);
		END IF;
	END LOOP;
END $$;

-- Sends an event: every wait for it ends with p_resume (JSON, as `nodes.resume`), and a worker continues from there. A
-- wait that names a correlation key takes only events with the same one, a wait without a key takes them all.
--
-- If nobody waits, the event is kept until p_keep_until (not at all if that is null), for one later wait; `kept` tells.
-- `woken_runs` and `woken_nodes` belong together.
CREATE OR REPLACE FUNCTION flowcraft_send_event(
	p_name text, p_key text, p_resume text, p_keep_until timestamptz,
	OUT woken_runs text[], OUT woken_nodes text[], OUT kept boolean
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
	v_now timestamptz;
	v_locked text[];
BEGIN
	woken_runs := '{}'; woken_nodes := '{}'; kept := false;
	PERFORM flowcraft_lock_events(ARRAY[p_name], ARRAY[p_key], false);

	-- The runs first, parents before children; what else ends their waits is over now, or comes after us.
	SELECT array_agg(waiting.run_id) INTO v_locked FROM (
		SELECT n.run_id FROM flowcraft_nodes n
		WHERE n.state = 'waiting' AND n.wait_event = p_name AND n.wait_key = p_key
		UNION
		SELECT n.run_id FROM flowcraft_nodes n
		WHERE n.state = 'waiting' AND n.wait_event = p_name AND n.wait_key IS NULL
	) AS waiting;
	SELECT coalesce(array_agg(locked.run_id) FILTER (WHERE locked.finished_at IS NULL), '{}') INTO v_locked FROM (
		SELECT s.run_id, s.finished_at FROM flowcraft_statuses s
		WHERE s.run_id = ANY (v_locked) ORDER BY s.depth, s.run_id FOR NO KEY UPDATE
	) AS locked;
	v_now := clock_timestamp();

	IF cardinality(v_locked) > 0 THEN
		WITH woken AS (
			UPDATE flowcraft_nodes n SET state = 'ready', wake = 'resume', resume = p_resume, due_at = NULL,
				emitted_at = v_now, reemits = 0
			WHERE n.run_id = ANY (v_locked) AND n.state = 'waiting' AND n.wait_event = p_name
				AND (n.wait_key IS NULL OR n.wait_key = p_key)
			RETURNING n.run_id, n.node_id, n.generation, n.recovers
		), timers AS (
			-- A row that a relay publishes right now stays: its message finds the node ready, or done.
			SELECT o.id FROM woken w JOIN flowcraft_outbox o
				ON o.run_id = w.run_id AND o.node_id = w.node_id AND o.generation = w.generation AND o.recovers = w.recovers
			WHERE o.kind = 'job'
			FOR UPDATE OF o SKIP LOCKED
		), removed AS (
			DELETE FROM flowcraft_outbox o USING timers t WHERE o.id = t.id
		), posted AS (
			INSERT INTO flowcraft_outbox (run_id, node_id, generation, recovers, blueprint_id, traceparent, due_at)
			SELECT w.run_id, w.node_id, w.generation, w.recovers, s.blueprint_id, s.traceparent, v_now
			FROM woken w JOIN flowcraft_statuses s ON s.run_id = w.run_id
		)
		SELECT coalesce(array_agg(w.run_id ORDER BY w.run_id, w.node_id), '{}'),
			coalesce(array_agg(w.node_id ORDER BY w.run_id, w.node_id), '{}')
		INTO woken_runs, woken_nodes FROM woken w;
	END IF;

	IF cardinality(woken_runs) > 0 THEN
		PERFORM flowcraft_settle_runs(woken_runs, array_fill(0, ARRAY[cardinality(woken_runs)]),
			array_fill(-1, ARRAY[cardinality(woken_runs)]), array_fill(0, ARRAY[cardinality(woken_runs)]),
			array_fill(NULL::text, ARRAY[cardinality(woken_runs)]));
		PERFORM flowcraft_ring();
	ELSIF p_keep_until > v_now THEN
		INSERT INTO flowcraft_kept_events (name, key, payload, received_at, expires_at)
		VALUES (p_name, p_key, p_resume, v_now, p_keep_until);
		kept := true;
	END IF;
END $$;

-- Whether somebody waits for an event that a run has handed out, or may come to: it has not ended, or a run above it, which
-- has got its outputs, has not.
CREATE OR REPLACE FUNCTION flowcraft_may_wait(p_run text, p_event text) RETURNS boolean
LANGUAGE plpgsql STABLE
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
	v_run text := p_run;
	v_status record;
BEGIN
	WHILE v_run IS NOT NULL LOOP
		SELECT s.finished_at, s.parent_run_id INTO v_status FROM flowcraft_statuses s WHERE s.run_id = v_run;
		-- A run that is not there may still be started.
		IF NOT FOUND OR v_status.finished_at IS NULL THEN
			RETURN true;
		END IF;
		v_run := v_status.parent_run_id;
	END LOOP;
	RETURN EXISTS (SELECT FROM flowcraft_nodes n WHERE n.state = 'waiting' AND n.wait_event = p_event);
END $$;

-- A request to a webhook, given by the hash of its token: uses it up and sends its event, which is kept for a wait that
-- is not there yet until the webhook expires.
-- Outcomes: `received`; `unknown`; `used`; `expired`; `ended`, the run that gave it out has ended with all above it, and
-- nobody else waits for it. In all but the first nothing changes.
CREATE OR REPLACE FUNCTION flowcraft_receive_webhook(
	p_hash text, p_resume text, OUT outcome text, OUT woken_runs text[], OUT woken_nodes text[]
)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
	v_now timestamptz;
	v_hook record;
BEGIN
	woken_runs := '{}'; woken_nodes := '{}';
	SELECT h.expires_at, h.used_at, h.run_id INTO v_hook FROM flowcraft_webhooks h WHERE h.hash = p_hash FOR UPDATE;
	IF NOT FOUND THEN
		outcome := 'unknown';
		RETURN;
	END IF;
	v_now := clock_timestamp();
	IF v_hook.used_at IS NOT NULL THEN
		outcome := 'used';
		RETURN;
	ELSIF v_hook.expires_at <= v_now THEN
		outcome := 'expired';
		RETURN;
	ELSIF NOT flowcraft_may_wait(v_hook.run_id, 'webhook:' || p_hash) THEN
		outcome := 'ended';
		RETURN;
	END IF;
	UPDATE flowcraft_webhooks h SET used_at = v_now WHERE h.hash = p_hash;
	SELECT e.woken_runs, e.woken_nodes INTO woken_runs, woken_nodes
	FROM flowcraft_send_event('webhook:' || p_hash, NULL, p_resume, v_hook.expires_at) e;
	outcome := 'received';
END $$;

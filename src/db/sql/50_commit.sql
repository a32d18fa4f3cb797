-- The commit: what finished nodes have done becomes true, all of it or nothing, for any number of nodes of any runs.
-- Workers plan, this function locks, checks and applies; a node whose claim was lost in the meantime contributes
-- nothing, the others are applied all the same.
--
-- p_runs … p_child_blueprints have one element per node, element 1 being "node 1". p_outcomes:
--   completed  with p_outputs, p_actions
--   failed     with p_errors, p_reasons (the run's reason if it fails by this), p_dead_letters
--   retry      another attempt after p_delays ms; p_errors tells why
--   waiting    for p_waits (JSON), until p_delays ms from now if not null. p_wait_events names the event that ends it,
--              p_wait_keys, if not null, the only correlation key that counts; one that was kept ends it at once
--   child      until the run p_child_runs ends, which this commit starts from p_child_blueprints
--   pending    a gather that has added nodes and waits for them to arrive, as a join does
-- The other groups refer to those nodes by number in their first array:
--   p_next_…   nodes that become ready, once per generation however many ask for it; p_next_dynamic for nodes that the
--              blueprint does not have
--   p_raise_…  joins that wait for p_raise_by more sources, beside the p_raise_expected ones of the blueprint
--   p_arr_…    arrivals at `all` joins, at most one per source and join; p_arr_holds, if not null, is what the later
--              generations begin with for which it holds too
--   p_held_…   arrivals from outside a loop that hold for the generation of an arrival: its number, then whose and of
--              which generation
--   p_rec_…    failed nodes that this one, their fallback, recovers
--   p_ctx_…    what the node wrote to the context; a null value deletes the key
--   p_in_…     the context that a child run starts with
--   p_hook_…   webhooks that a node has given out: hash of the token, and for how many ms it is good
--   p_event_…  business events for exchanges of the user's
--
-- p_worker, if not null, goes on with what becomes ready where p_next_tokens and p_arr_tokens offer a token: such a node
-- is `running` from the start, claimed under that token, and needs no message. It is a claim like any other: fenced,
-- covered by the worker's lease, and refused when that has passed or the run is paused. What was emitted for its
-- predecessor counts as emitted for it, so that the sweep does not take it for one that overtook the queue.
--
-- Numbers of nodes come back: `committed`; `repeated`, this very claim has finished the node before (the answer to the
-- first commit was lost); `refused`, for the reasons in `refusals`, nothing of this node was applied. All others were
-- lost. `ended` are the runs that ended, `emitted` counts the outbox rows written. `continued` are the tokens under
-- which p_worker has nodes now; of those that are joins `joined` tells the input, as a claim does.
CREATE OR REPLACE FUNCTION flowcraft_commit(
	p_worker uuid,
	p_runs text[], p_nodes text[], p_generations text[], p_recovers text[], p_tokens uuid[], p_outcomes text[],
	p_outputs text[], p_actions text[], p_errors text[], p_reasons text[], p_dead_letters text[], p_delays bigint[],
	p_waits text[], p_wait_events text[], p_wait_keys text[], p_child_runs text[], p_child_blueprints text[],
	p_next_of int[], p_next_nodes text[], p_next_generations text[], p_next_recovers text[], p_next_edges int[],
	p_next_input_nodes text[], p_next_input_generations text[], p_next_input_recovers text[], p_next_inputs text[],
	p_next_dynamic text[],
	p_raise_of int[], p_raise_nodes text[], p_raise_generations text[], p_raise_expected int[], p_raise_by int[],
	p_arr_of int[], p_arr_nodes text[], p_arr_generations text[], p_arr_sources text[], p_arr_taken int[],
	p_arr_expected int[], p_arr_edges int[],
	p_arr_input_nodes text[], p_arr_input_generations text[], p_arr_input_recovers text[], p_arr_inputs text[],
	p_arr_holds text[],
	p_held_of int[], p_held_sources text[], p_held_generations text[],
	p_rec_of int[], p_rec_nodes text[], p_rec_generations text[], p_rec_recovers text[],
	p_ctx_of int[], p_ctx_keys text[], p_ctx_values text[],
	p_in_of int[], p_in_keys text[], p_in_values text[],
	p_hook_of int[], p_hook_hashes text[], p_hook_lives bigint[],
	p_event_of int[], p_event_ids uuid[], p_event_exchanges text[], p_event_keys text[], p_event_bodies text[],
	p_event_headers text[], p_event_priorities int[],
	p_next_tokens uuid[], p_arr_tokens uuid[],
	OUT committed int[], OUT repeated int[], OUT refused int[], OUT refusals text[], OUT ended text[], OUT emitted int,
	OUT continued uuid[], OUT joined json
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
	-- What happened to the runs' counters, collected from each step and applied once at the end.
	v_runs text[];
	v_live int[];
	v_waiting int[];
	v_failed int[];
	v_reasons text[];
	v_more_runs text[];
	v_more_counts int[];
	v_wait record;
	v_kept text;
	v_emitted int;
	-- Rows of the outbox that are not due yet, or events, for which nobody is woken.
	v_later int;
	-- Whether p_worker may claim, and when the committed nodes' own messages were emitted.
	v_claims boolean := false;
	v_sent timestamptz[];
BEGIN
	committed := '{}'; repeated := '{}'; refused := '{}'; refusals := '{}'; ended := '{}'; emitted := 0;
	continued := '{}'; joined := '[]';

	-- 0. Waits for events exclude those who send them (`64_send_event.sql`), before any run is locked.
	IF EXISTS (SELECT FROM unnest(p_wait_events) AS e WHERE e IS NOT NULL) THEN
		PERFORM flowcraft_lock_events(
			(SELECT array_agg(w.event) FROM unnest(p_wait_events) AS w(event) WHERE w.event IS NOT NULL),
			(SELECT array_agg(w.key) FROM unnest(p_wait_events, p_wait_keys) AS w(event, key) WHERE w.event IS NOT NULL),
			true);
	END IF;

	-- 1. The runs, parents before children, as a cancel locks them: whoever else changes one of them waits, and
	--    everything below sees what is true now (each statement of a VOLATILE function has a fresh snapshot).
	PERFORM FROM flowcraft_statuses s WHERE s.run_id = ANY (p_runs) ORDER BY s.depth, s.run_id FOR NO KEY UPDATE;
	v_now := clock_timestamp();

	-- 2. What contradicts the run as it is: a child of a blueprint that nobody has registered, a dynamic node under an id
	--    that is taken, nodes added to a gather that has fired. Only of claims that still hold: of a repeated commit
	--    the dynamic nodes exist, as they should.
	IF EXISTS (SELECT FROM unnest(p_child_blueprints) AS b WHERE b IS NOT NULL)
		OR EXISTS (SELECT FROM unnest(p_next_dynamic) AS d WHERE d IS NOT NULL) OR cardinality(p_raise_of) > 0
	THEN
		WITH holding AS (
			SELECT g.ix::int AS ix, g.run_id, g.node_id, g.generation, g.child_blueprint
			FROM unnest(p_runs, p_nodes, p_generations, p_recovers, p_tokens, p_child_blueprints)
				WITH ORDINALITY AS g(run_id, node_id, generation, recovers, token, child_blueprint, ix)
			CROSS JOIN LATERAL (
				SELECT n.state, n.claim_token FROM flowcraft_nodes n
				WHERE n.run_id = g.run_id AND n.node_id = g.node_id AND n.generation = g.generation AND n.recovers = g.recovers
				OFFSET 0
			) AS n
			WHERE n.state = 'running' AND n.claim_token = g.token
		), contradictions AS (
			SELECT h.ix, format('There is no blueprint ''%s'' for this subflow', h.child_blueprint) AS why
			FROM holding h CROSS JOIN LATERAL (SELECT s.pins FROM flowcraft_statuses s WHERE s.run_id = h.run_id OFFSET 0) AS s
			WHERE h.child_blueprint IS NOT NULL AND NOT EXISTS (
				SELECT FROM flowcraft_blueprints b WHERE b.blueprint_id = h.child_blueprint
					AND b.hash = coalesce(s.pins ->> h.child_blueprint, flowcraft_resolve_blueprint(h.child_blueprint, NULL))
			)
			UNION ALL
			SELECT h.ix, format('The dynamic node ''%s'' exists already', x.node_id)
			FROM unnest(p_next_of, p_next_nodes, p_next_generations, p_next_recovers, p_next_dynamic)
				AS x(ix, node_id, generation, recovers, dynamic)
			JOIN holding h ON h.ix = x.ix
			CROSS JOIN LATERAL (
				SELECT n.node_id, n.generation, n.state FROM flowcraft_nodes n
				WHERE n.run_id = h.run_id AND n.node_id = x.node_id AND n.generation = x.generation AND n.recovers = ''
				OFFSET 0
			) AS n
			-- A fallback of a dynamic node is a node of the blueprint.
			WHERE x.dynamic IS NOT NULL AND x.recovers = ''
			UNION ALL
			-- Of several nodes of this batch that add one under the same id, the first is right.
			SELECT added.ix, format('The dynamic node ''%s'' exists already', added.node_id)
			FROM (
				SELECT h.ix, x.node_id,
					first_value(h.ix) OVER (PARTITION BY h.run_id, x.node_id, x.generation ORDER BY h.ix) AS first_ix
				FROM unnest(p_next_of, p_next_nodes, p_next_generations, p_next_recovers, p_next_dynamic)
					AS x(ix, node_id, generation, recovers, dynamic)
				JOIN holding h ON h.ix = x.ix
				WHERE x.dynamic IS NOT NULL AND x.recovers = ''
			) AS added
			WHERE added.ix <> added.first_ix
			UNION ALL
			SELECT h.ix, format('Node ''%s'' has run already: no more nodes can be added to it', x.node_id)
			FROM unnest(p_raise_of, p_raise_nodes, p_raise_generations) AS x(ix, node_id, generation)
			JOIN holding h ON h.ix = x.ix
			CROSS JOIN LATERAL (
				SELECT n.node_id, n.generation, n.state FROM flowcraft_nodes n
				WHERE n.run_id = h.run_id AND n.node_id = x.node_id AND n.generation = x.generation AND n.recovers = ''
				OFFSET 0
			) AS n
			-- A gather may add nodes to itself.
			WHERE n.state <> 'pending' AND (n.node_id <> h.node_id OR n.generation <> h.generation)
		), first_of_each AS (
			SELECT DISTINCT ON (c.ix) c.ix, c.why FROM contradictions c ORDER BY c.ix
		)
		SELECT coalesce(array_agg(f.ix), '{}'), coalesce(array_agg(f.why), '{}') INTO refused, refusals FROM first_of_each f;
	END IF;

	-- 3. The fence: only the holder of the claim finishes a node, and only while its run is live.
	WITH given AS (
		SELECT g.ix::int AS ix, g.run_id, g.node_id, g.generation, g.recovers, g.token, g.outcome, g.output, g.action, g.error,
			g.reason, g.dead_letter, g.delay_ms, g.wait, g.wait_event, g.wait_key, g.child_run_id
		FROM unnest(p_runs, p_nodes, p_generations, p_recovers, p_tokens, p_outcomes, p_outputs, p_actions, p_errors,
			p_reasons, p_dead_letters, p_delays, p_waits, p_wait_events, p_wait_keys, p_child_runs)
			WITH ORDINALITY AS g(run_id, node_id, generation, recovers, token, outcome, output, action, error,
			reason, dead_letter, delay_ms, wait, wait_event, wait_key, child_run_id, ix)
		WHERE g.ix <> ALL (refused)
	), holding AS (
		SELECT g.*, n.place, s.commit_seq, s.blueprint_id, s.traceparent
		FROM given g
		CROSS JOIN LATERAL (
			SELECT n.ctid AS place, n.state, n.claim_token FROM flowcraft_nodes n
			WHERE n.run_id = g.run_id AND n.node_id = g.node_id AND n.generation = g.generation AND n.recovers = g.recovers
			OFFSET 0
		) AS n
		CROSS JOIN LATERAL (
			SELECT s.commit_seq, s.blueprint_id, s.traceparent, s.finished_at FROM flowcraft_statuses s
			WHERE s.run_id = g.run_id OFFSET 0
		) AS s
		WHERE n.state = 'running' AND n.claim_token = g.token AND s.finished_at IS NULL
	), finished AS (
		UPDATE flowcraft_nodes n SET
			state = CASE g.outcome WHEN 'retry' THEN 'ready' ELSE g.outcome END,
			attempt = n.attempt + CASE g.outcome WHEN 'retry' THEN 1 ELSE 0 END,
			output = g.output,
			action = g.action,
			error = g.error,
			dead_letter = g.dead_letter,
			due_at = CASE WHEN g.outcome IN ('retry', 'waiting') THEN v_now + g.delay_ms * interval '1 millisecond' END,
			emitted_at = CASE g.outcome WHEN 'retry' THEN v_now + g.delay_ms * interval '1 millisecond' ELSE n.emitted_at END,
			wait = g.wait,
			wait_event = g.wait_event,
			wait_key = g.wait_key,
			wake = CASE g.outcome WHEN 'completed' THEN n.wake END,
			resume = NULL,
			reemits = CASE WHEN g.outcome IN ('completed', 'failed') THEN n.reemits ELSE 0 END,
			unrunnable_since = NULL,
			child_run_id = CASE g.outcome WHEN 'completed' THEN n.child_run_id WHEN 'failed' THEN n.child_run_id ELSE g.child_run_id END,
			child_status = CASE g.outcome WHEN 'child' THEN 'running' END,
			finished_seq = CASE WHEN g.outcome IN ('completed', 'failed') THEN g.commit_seq + 1 END,
			finished_at = CASE WHEN g.outcome IN ('completed', 'failed') THEN v_now END
		FROM holding g
		-- Once more: a sweep may be taking it away at this moment.
		WHERE n.ctid = g.place AND n.state || '' = 'running' AND n.claim_token = g.token
		RETURNING g.ix, g.run_id, g.outcome, g.reason, g.delay_ms, g.error,
			n.node_id, n.generation, n.recovers, n.attempt, n.worker_id, n.claimed_at, n.due_at, n.emitted_at,
			g.blueprint_id, g.traceparent
	), timers AS (
		-- Retries and the ends of waits come back through the outbox when they are due.
		INSERT INTO flowcraft_outbox (run_id, node_id, generation, recovers, blueprint_id, traceparent, due_at)
		SELECT f.run_id, f.node_id, f.generation, f.recovers, f.blueprint_id, f.traceparent, f.due_at
		FROM finished f WHERE f.due_at IS NOT NULL
		RETURNING due_at
	), superseded AS (
		INSERT INTO flowcraft_attempts (recorded_at, run_id, node_id, generation, recovers, attempt, outcome, worker_id, claimed_at, error)
		SELECT v_now, f.run_id, f.node_id, f.generation, f.recovers, f.attempt - 1, 'failed', f.worker_id, f.claimed_at, f.error
		FROM finished f WHERE f.outcome = 'retry'
	)
	SELECT array_agg(f.ix), array_agg(f.run_id),
		array_agg(CASE WHEN f.outcome IN ('completed', 'failed', 'pending') THEN -1 ELSE 0 END),
		array_agg(CASE WHEN f.outcome = 'waiting' THEN 1 ELSE 0 END),
		array_agg(CASE WHEN f.outcome = 'failed' THEN 1 ELSE 0 END),
		array_agg(f.reason),
		array_agg(f.emitted_at),
		(SELECT count(*) FROM timers), (SELECT count(*) FROM timers t WHERE t.due_at > v_now)
	INTO committed, v_runs, v_live, v_waiting, v_failed, v_reasons, v_sent, emitted, v_later
	FROM finished f;

	IF cardinality(coalesce(committed, '{}')) + cardinality(refused) < cardinality(p_runs) THEN
		SELECT coalesce(array_agg(g.ix::int), '{}') INTO repeated
		FROM unnest(p_runs, p_nodes, p_generations, p_recovers, p_tokens)
			WITH ORDINALITY AS g(run_id, node_id, generation, recovers, token, ix)
		CROSS JOIN LATERAL (
			SELECT n.state, n.claim_token FROM flowcraft_nodes n
			WHERE n.run_id = g.run_id AND n.node_id = g.node_id AND n.generation = g.generation AND n.recovers = g.recovers
			OFFSET 0
		) AS n
		WHERE n.claim_token = g.token AND n.state <> 'running' AND n.state <> 'cancelled'
			AND g.ix <> ALL (coalesce(committed, '{}'));
	END IF;
	IF committed IS NULL THEN
		committed := '{}'; emitted := 0;
		RETURN;
	END IF;

	-- 3a. Waits for events that have come already: each takes the oldest one that matches, which is then used up.
	IF EXISTS (SELECT FROM unnest(p_wait_events) AS e WHERE e IS NOT NULL) THEN
		FOR v_wait IN
			SELECT w.ix::int AS ix, w.run_id, w.node_id, w.generation, w.recovers, w.event, w.key
			FROM unnest(p_runs, p_nodes, p_generations, p_recovers, p_wait_events, p_wait_keys)
				WITH ORDINALITY AS w(run_id, node_id, generation, recovers, event, key, ix)
			WHERE w.event IS NOT NULL AND w.ix = ANY (committed)
			ORDER BY w.ix
		LOOP
			DELETE FROM flowcraft_kept_events k
			WHERE k.id = (
				SELECT e.id FROM flowcraft_kept_events e
				WHERE e.name = v_wait.event AND (v_wait.key IS NULL OR e.key = v_wait.key) AND e.expires_at > v_now
				ORDER BY e.id LIMIT 1
				-- The sweep deletes expired ones meanwhile.
				FOR UPDATE SKIP LOCKED
			)
			RETURNING k.payload INTO v_kept;
			CONTINUE WHEN NOT FOUND;
			UPDATE flowcraft_nodes n SET state = 'ready', wake = 'resume', resume = v_kept, due_at = NULL, emitted_at = v_now
			WHERE n.run_id = v_wait.run_id AND n.node_id = v_wait.node_id AND n.generation = v_wait.generation
				AND n.recovers = v_wait.recovers;
			DELETE FROM flowcraft_outbox o
			WHERE o.run_id = v_wait.run_id AND o.node_id = v_wait.node_id AND o.generation = v_wait.generation
				AND o.recovers = v_wait.recovers AND o.kind = 'job';
			INSERT INTO flowcraft_outbox (run_id, node_id, generation, recovers, blueprint_id, traceparent, due_at)
			SELECT s.run_id, v_wait.node_id, v_wait.generation, v_wait.recovers, s.blueprint_id, s.traceparent, v_now
			FROM flowcraft_statuses s WHERE s.run_id = v_wait.run_id;
			v_runs := v_runs || v_wait.run_id;
			v_live := v_live || 0;
			v_waiting := v_waiting || -1;
			v_failed := v_failed || 0;
			v_reasons := v_reasons || NULL::text;
			emitted := emitted + 1;
		END LOOP;
	END IF;

	IF p_worker IS NOT NULL THEN
		v_claims := EXISTS (
			SELECT FROM flowcraft_workers w
			WHERE w.worker_id = p_worker AND w.dead_at IS NULL AND w.stopped_at IS NULL AND w.lease_until > v_now
		);
	END IF;

	-- 4. Nodes that become ready because of a single predecessor, an `any` join or a fallback: whoever asks first
	--    inserts the row, later ones find it there. Nobody else inserts one meanwhile: the runs are locked.
	IF cardinality(p_next_of) > 0 THEN
		WITH asked AS (
			SELECT x.*, s.run_id, s.blueprint_id, s.traceparent,
				CASE WHEN v_claims AND s.status IN ('running', 'awaiting') THEN x.offered END AS token
			FROM unnest(p_next_of, p_next_nodes, p_next_generations, p_next_recovers, p_next_edges,
				p_next_input_nodes, p_next_input_generations, p_next_input_recovers, p_next_inputs, p_next_dynamic, p_next_tokens)
				WITH ORDINALITY AS x(ix, node_id, generation, recovers, edge, input_node, input_generation, input_recovers, input,
				dynamic, offered, ord)
			CROSS JOIN LATERAL (
				SELECT s.run_id, s.status, s.blueprint_id, s.traceparent FROM flowcraft_statuses s WHERE s.run_id = p_runs[x.ix] OFFSET 0
			) AS s
			WHERE x.ix = ANY (committed)
		), fresh AS (
			SELECT DISTINCT ON (a.run_id, a.node_id, a.generation, a.recovers) a.*
			FROM asked a
			WHERE NOT EXISTS (
				SELECT FROM flowcraft_nodes n
				WHERE n.run_id = a.run_id AND n.node_id = a.node_id AND n.generation = a.generation AND n.recovers = a.recovers
				OFFSET 0
			)
			ORDER BY a.run_id, a.node_id, a.generation, a.recovers, a.ord
		), added AS (
			INSERT INTO flowcraft_nodes (run_id, node_id, generation, recovers, state, created_at, emitted_at, input_edge,
				input_node, input_generation, input_recovers, input, dynamic, worker_id, claim_token, claimed_at, claimed_xid)
			SELECT f.run_id, f.node_id, f.generation, f.recovers, CASE WHEN f.token IS NULL THEN 'ready' ELSE 'running' END, v_now,
				CASE WHEN f.token IS NULL THEN v_now ELSE v_sent[array_position(committed, f.ix)] END, f.edge,
				f.input_node, f.input_generation, f.input_recovers, f.input, f.dynamic,
				CASE WHEN f.token IS NOT NULL THEN p_worker END, f.token, CASE WHEN f.token IS NOT NULL THEN v_now END,
				CASE WHEN f.token IS NOT NULL THEN pg_current_xact_id() END
			FROM fresh f
		), posted AS (
			INSERT INTO flowcraft_outbox (run_id, node_id, generation, recovers, blueprint_id, traceparent, due_at)
			SELECT f.run_id, f.node_id, f.generation, f.recovers, f.blueprint_id, f.traceparent, v_now
			FROM fresh f WHERE f.token IS NULL ORDER BY f.ord
		), counted AS (
			SELECT f.run_id, count(*)::int AS live FROM fresh f GROUP BY f.run_id
		)
		SELECT coalesce(array_agg(c.run_id), '{}'), coalesce(array_agg(c.live), '{}'), coalesce(sum(c.live), 0),
			(SELECT coalesce(array_agg(f.token), '{}') FROM fresh f WHERE f.token IS NOT NULL)
		INTO v_more_runs, v_more_counts, v_emitted, continued FROM counted c;
		v_runs := v_runs || v_more_runs;
		v_live := v_live || v_more_counts;
		emitted := emitted + v_emitted - cardinality(continued);

		-- A fallback that has failed before, and was set aside for a retry of its node (`66_retry_run.sql`), runs again.
		IF EXISTS (SELECT FROM unnest(p_next_recovers) AS r WHERE r <> '') THEN
			SELECT coalesce(array_agg(begun.run_id), '{}') INTO v_more_runs
			FROM (
				SELECT array_agg(p_runs[x.ix]) AS runs, array_agg(x.node_id) AS nodes, array_agg(x.generation) AS generations,
					array_agg(x.recovers) AS recovers
				FROM unnest(p_next_of, p_next_nodes, p_next_generations, p_next_recovers) AS x(ix, node_id, generation, recovers)
				WHERE x.ix = ANY (committed) AND x.recovers <> ''
			) AS wanted
			CROSS JOIN LATERAL flowcraft_begin_attempt(wanted.runs, wanted.nodes, wanted.generations, wanted.recovers, 'cancelled')
				AS begun(run_id);
			v_runs := v_runs || v_more_runs;
			v_live := v_live || array_fill(1, ARRAY[cardinality(v_more_runs)]);
			emitted := emitted + cardinality(v_more_runs);
		END IF;
	END IF;

	-- 5. Joins that wait for more. Before the arrivals, so that none of them completes a join that is still growing.
	IF cardinality(p_raise_of) > 0 THEN
		INSERT INTO flowcraft_nodes AS n (run_id, node_id, generation, state, expected, arrived, taken, created_at, emitted_at)
		SELECT p_runs[x.ix], x.node_id, x.generation, 'pending', max(x.expected) + sum(x.more), 0, 0, v_now, v_now
		FROM unnest(p_raise_of, p_raise_nodes, p_raise_generations, p_raise_expected, p_raise_by)
			AS x(ix, node_id, generation, expected, more)
		WHERE x.ix = ANY (committed)
		GROUP BY p_runs[x.ix], x.node_id, x.generation
		ON CONFLICT (run_id, node_id, generation, recovers) DO UPDATE SET
			expected = n.expected + (
				SELECT sum(x.more) FROM unnest(p_raise_of, p_raise_nodes, p_raise_generations, p_raise_by)
					AS x(ix, node_id, generation, more)
				WHERE x.ix = ANY (committed) AND p_runs[x.ix] = n.run_id AND x.node_id = n.node_id AND x.generation = n.generation
			);
	END IF;

	-- 6. Arrivals at `all` joins. The row of an arrival is the gate: what has arrived before counts for nothing.
	--    Then the counters, folded per join; last, the joins that are complete become ready.
	IF cardinality(p_arr_of) > 0 THEN
		WITH given AS (
			SELECT p_runs[x.ix] AS run_id, x.node_id, x.generation, x.source, x.taken, x.expected, x.edge,
				x.input_node, x.input_generation, x.input_recovers, x.input, x.ord
			FROM unnest(p_arr_of, p_arr_nodes, p_arr_generations, p_arr_sources, p_arr_taken, p_arr_expected, p_arr_edges,
				p_arr_input_nodes, p_arr_input_generations, p_arr_input_recovers, p_arr_inputs)
				WITH ORDINALITY AS x(ix, node_id, generation, source, taken, expected, edge, input_node, input_generation,
				input_recovers, input, ord)
			WHERE x.ix = ANY (committed)
		), fresh AS (
			SELECT DISTINCT ON (g.run_id, g.node_id, g.generation, g.source) g.*
			FROM given g
			WHERE NOT EXISTS (
				SELECT FROM flowcraft_arrivals a
				WHERE a.run_id = g.run_id AND a.node_id = g.node_id AND a.generation = g.generation AND a.source = g.source
				OFFSET 0
			)
			ORDER BY g.run_id, g.node_id, g.generation, g.source, g.ord
		), arrived AS (
			INSERT INTO flowcraft_arrivals (run_id, node_id, generation, source, taken)
			SELECT f.run_id, f.node_id, f.generation, f.source, f.taken FROM fresh f
		), latest AS (
			-- Among taken edges the last one in blueprint order brings the input.
			SELECT DISTINCT ON (f.run_id, f.node_id, f.generation) f.*,
				count(*) OVER a_join AS arrived, sum(f.taken) OVER a_join AS arrived_by_taken
			FROM fresh f
			WINDOW a_join AS (PARTITION BY f.run_id, f.node_id, f.generation)
			ORDER BY f.run_id, f.node_id, f.generation, f.taken DESC, f.edge DESC
		)
		INSERT INTO flowcraft_nodes AS n (run_id, node_id, generation, state, expected, arrived, taken, created_at, emitted_at,
			input_edge, input_node, input_generation, input_recovers, input)
		SELECT l.run_id, l.node_id, l.generation, 'pending', l.expected, l.arrived, l.arrived_by_taken, v_now, v_now,
			CASE l.taken WHEN 1 THEN l.edge END, CASE l.taken WHEN 1 THEN l.input_node END,
			CASE l.taken WHEN 1 THEN l.input_generation END, CASE l.taken WHEN 1 THEN l.input_recovers END,
			CASE l.taken WHEN 1 THEN l.input END
		FROM latest l
		ORDER BY l.run_id, l.node_id, l.generation
		ON CONFLICT (run_id, node_id, generation, recovers) DO UPDATE SET
			arrived = n.arrived + excluded.arrived,
			taken = n.taken + excluded.taken,
			input_edge = greatest(n.input_edge, excluded.input_edge),
			input_node = CASE WHEN excluded.input_edge > coalesce(n.input_edge, -1) THEN excluded.input_node ELSE n.input_node END,
			input_generation = CASE WHEN excluded.input_edge > coalesce(n.input_edge, -1) THEN excluded.input_generation ELSE n.input_generation END,
			input_recovers = CASE WHEN excluded.input_edge > coalesce(n.input_edge, -1) THEN excluded.input_recovers ELSE n.input_recovers END,
			input = CASE WHEN excluded.input_edge > coalesce(n.input_edge, -1) THEN excluded.input ELSE n.input END
		WHERE n.state = 'pending';

		-- What has arrived from outside a loop holds for its later generations: those that somebody arrives at now take
		-- over what has arrived before, those that wait already are told. It counts as arrived, not as taken: a turn
		-- begins, and a join in it runs, by an edge that was taken in that turn.
		IF cardinality(p_held_of) > 0 OR EXISTS (SELECT FROM unnest(p_arr_holds) AS h WHERE h IS NOT NULL) THEN
			WITH given AS (
				SELECT x.ord, p_runs[x.ix] AS run_id, x.node_id, x.generation, x.source, x.taken, x.holds
				FROM unnest(p_arr_of, p_arr_nodes, p_arr_generations, p_arr_sources, p_arr_taken, p_arr_holds)
					WITH ORDINALITY AS x(ix, node_id, generation, source, taken, holds, ord)
				WHERE x.ix = ANY (committed)
			), inherited AS (
				SELECT g.run_id, g.node_id, g.generation, h.source
				FROM given g
				JOIN unnest(p_held_of, p_held_sources, p_held_generations) AS h(arrival, source, generation) ON h.arrival = g.ord
				CROSS JOIN LATERAL (
					SELECT FROM flowcraft_arrivals a
					WHERE a.run_id = g.run_id AND a.node_id = g.node_id AND a.generation = h.generation AND a.source = h.source
					OFFSET 0
				) AS a
				UNION
				SELECT g.run_id, g.node_id, n.generation, g.source
				FROM given g
				CROSS JOIN LATERAL (
					SELECT n.generation, n.state FROM flowcraft_nodes n WHERE n.run_id = g.run_id AND n.node_id = g.node_id OFFSET 0
				) AS n
				WHERE g.holds IS NOT NULL AND n.state = 'pending' AND n.generation <> g.generation
					AND starts_with(n.generation, g.holds)
			), arrived AS (
				INSERT INTO flowcraft_arrivals (run_id, node_id, generation, source, taken)
				SELECT i.run_id, i.node_id, i.generation, i.source, 0 FROM inherited i
				ON CONFLICT DO NOTHING
				RETURNING run_id, node_id, generation
			), counted AS (
				SELECT a.run_id, a.node_id, a.generation, count(*)::int AS arrived
				FROM arrived a GROUP BY a.run_id, a.node_id, a.generation
			)
			UPDATE flowcraft_nodes n SET arrived = n.arrived + c.arrived
			FROM counted c
			CROSS JOIN LATERAL (
				SELECT p.ctid AS place FROM flowcraft_nodes p
				WHERE p.run_id = c.run_id AND p.node_id = c.node_id AND p.generation = c.generation AND p.recovers = ''
				OFFSET 0
			) AS p
			WHERE n.ctid = p.place AND n.state || '' = 'pending';
		END IF;

		WITH touched AS (
			SELECT DISTINCT p_runs[x.ix] AS run_id, x.node_id
			FROM unnest(p_arr_of, p_arr_nodes, p_arr_generations, p_arr_holds) AS x(ix, node_id, generation, holds)
			WHERE x.ix = ANY (committed) AND x.holds IS NOT NULL
		), ripening AS (
			SELECT p_runs[x.ix] AS run_id, x.node_id, x.generation, x.ix, x.token
			FROM unnest(p_arr_of, p_arr_nodes, p_arr_generations, p_arr_tokens) AS x(ix, node_id, generation, token)
			WHERE x.ix = ANY (committed)
			UNION ALL
			SELECT n.run_id, n.node_id, n.generation, NULL, NULL
			FROM touched t CROSS JOIN LATERAL (
				SELECT n.run_id, n.node_id, n.generation, n.state FROM flowcraft_nodes n
				WHERE n.run_id = t.run_id AND n.node_id = t.node_id OFFSET 0
			) AS n
			WHERE n.state = 'pending'
		), candidates AS (
			-- One row per join; among the tokens that are offered for it, one counts.
			SELECT DISTINCT ON (r.run_id, r.node_id, r.generation) r.*
			FROM ripening r ORDER BY r.run_id, r.node_id, r.generation, r.token
		), ripe AS (
			UPDATE flowcraft_nodes n SET
				state = CASE WHEN p.token IS NULL THEN 'ready' ELSE 'running' END,
				emitted_at = CASE WHEN p.token IS NULL THEN v_now ELSE v_sent[array_position(committed, t.ix)] END,
				worker_id = CASE WHEN p.token IS NULL THEN n.worker_id ELSE p_worker END,
				claim_token = coalesce(p.token, n.claim_token),
				claimed_at = CASE WHEN p.token IS NULL THEN n.claimed_at ELSE v_now END,
				claimed_xid = CASE WHEN p.token IS NULL THEN n.claimed_xid ELSE pg_current_xact_id() END
			FROM candidates t
			CROSS JOIN LATERAL (
				SELECT p.ctid AS place, CASE WHEN v_claims AND s.status IN ('running', 'awaiting') THEN t.token END AS token
				FROM flowcraft_nodes p, flowcraft_statuses s
				WHERE p.run_id = t.run_id AND p.node_id = t.node_id AND p.generation = t.generation AND p.recovers = ''
					AND s.run_id = t.run_id
				OFFSET 0
			) AS p
			WHERE n.ctid = p.place AND n.state || '' = 'pending' AND n.arrived >= n.expected AND n.taken > 0
			RETURNING n.run_id, n.node_id, n.generation, p.token, n.input, n.input_node, n.input_generation, n.input_recovers
		), posted AS (
			INSERT INTO flowcraft_outbox (run_id, node_id, generation, blueprint_id, traceparent, due_at)
			SELECT r.run_id, r.node_id, r.generation, s.blueprint_id, s.traceparent, v_now
			FROM ripe r CROSS JOIN LATERAL (
				SELECT s.blueprint_id, s.traceparent FROM flowcraft_statuses s WHERE s.run_id = r.run_id OFFSET 0
			) AS s
			WHERE r.token IS NULL
		), counted AS (
			SELECT r.run_id, count(*)::int AS live, count(r.token)::int AS claimed FROM ripe r GROUP BY r.run_id
		), claimed AS (
			SELECT r.token, r.input IS NOT NULL OR r.input_node IS NOT NULL AS "hasInput",
				r.input IS NOT NULL AS transformed, coalesce(r.input, source.output) AS input
			FROM ripe r LEFT JOIN LATERAL (
				SELECT i.output FROM flowcraft_nodes i
				WHERE i.run_id = r.run_id AND i.node_id = r.input_node AND i.generation = r.input_generation
					AND i.recovers = r.input_recovers
				OFFSET 0
			) AS source ON true
			WHERE r.token IS NOT NULL
		)
		SELECT coalesce(array_agg(c.run_id), '{}'), coalesce(array_agg(c.live), '{}'), coalesce(sum(c.live - c.claimed), 0),
			(SELECT coalesce(json_agg(c), '[]') FROM claimed c)
		INTO v_more_runs, v_more_counts, v_emitted, joined FROM counted c;
		v_runs := v_runs || v_more_runs;
		v_live := v_live || v_more_counts;
		emitted := emitted + v_emitted;
	END IF;
	-- From here on v_runs may be longer than the other counters; what is missing counts as zero.

	-- 7. A fallback that completed stands in for the nodes that failed.
	IF cardinality(p_rec_of) > 0 THEN
		WITH recovered AS (
			UPDATE flowcraft_nodes n SET state = 'recovered', output = 'null', finished_seq = s.commit_seq + 1
			FROM unnest(p_rec_of, p_rec_nodes, p_rec_generations, p_rec_recovers) AS x(ix, node_id, generation, recovers)
			CROSS JOIN LATERAL (
				SELECT p.ctid AS place FROM flowcraft_nodes p
				WHERE p.run_id = p_runs[x.ix] AND p.node_id = x.node_id AND p.generation = x.generation AND p.recovers = x.recovers
				OFFSET 0
			) AS p
			CROSS JOIN LATERAL (SELECT s.commit_seq FROM flowcraft_statuses s WHERE s.run_id = p_runs[x.ix] OFFSET 0) AS s
			WHERE x.ix = ANY (committed) AND n.ctid = p.place AND n.state || '' = 'failed'
			RETURNING n.run_id
		), counted AS (
			SELECT r.run_id, -count(*)::int AS failed FROM recovered r GROUP BY r.run_id
		)
		SELECT coalesce(array_agg(c.run_id), '{}'), coalesce(array_agg(c.failed), '{}') INTO v_more_runs, v_more_counts FROM counted c;
		v_live := v_live || array_fill(0, ARRAY[cardinality(v_more_runs)]);
		v_waiting := v_waiting || array_fill(0, ARRAY[cardinality(v_runs) - cardinality(v_waiting)]);
		v_failed := v_failed || array_fill(0, ARRAY[cardinality(v_runs) - cardinality(v_failed)]) || v_more_counts;
		v_runs := v_runs || v_more_runs;
	END IF;

	-- 8. The context: of two nodes of this batch that wrote the same key, the later one counts.
	IF cardinality(p_ctx_of) > 0 THEN
		INSERT INTO flowcraft_contexts (run_id, key, value, seq)
		SELECT DISTINCT ON (s.run_id, x.key) s.run_id, x.key, x.value, s.commit_seq + 1
		FROM unnest(p_ctx_of, p_ctx_keys, p_ctx_values) WITH ORDINALITY AS x(ix, key, value, ord)
		CROSS JOIN LATERAL (
			SELECT s.run_id, s.commit_seq FROM flowcraft_statuses s WHERE s.run_id = p_runs[x.ix] OFFSET 0
		) AS s
		WHERE x.ix = ANY (committed)
		ORDER BY s.run_id, x.key, x.ord DESC
		ON CONFLICT (run_id, key) DO UPDATE SET value = excluded.value, seq = excluded.seq;
	END IF;

	-- 9. Child runs: their parent's node was fenced above, so each is started once.
	IF EXISTS (SELECT FROM unnest(p_child_blueprints) AS b WHERE b IS NOT NULL) THEN
		emitted := emitted + (
			SELECT cardinality(flowcraft_insert_runs(p_child_runs, p_child_blueprints,
				array_agg(parent.hash ORDER BY g.ix), array_agg(parent.pins ORDER BY g.ix), array_agg(parent.tags ORDER BY g.ix),
				array_agg(parent.traceparent ORDER BY g.ix), array_agg(parent.deadline_at ORDER BY g.ix),
				p_runs, p_nodes, p_generations, p_recovers, array_agg(parent.depth + 1 ORDER BY g.ix),
				p_in_of, p_in_keys, p_in_values))
			FROM unnest(p_runs, p_child_blueprints) WITH ORDINALITY AS g(run_id, child_blueprint, ix)
			LEFT JOIN LATERAL (
				SELECT coalesce(s.pins ->> g.child_blueprint, flowcraft_resolve_blueprint(g.child_blueprint, NULL)) AS hash,
					s.pins, s.tags::text, s.traceparent, s.deadline_at, s.depth
				FROM flowcraft_statuses s WHERE s.run_id = g.run_id OFFSET 0
			) AS parent ON g.child_blueprint IS NOT NULL AND g.ix = ANY (committed)
		);
	END IF;

	-- 9a. Webhooks become usable with the node that gives them out.
	IF cardinality(p_hook_of) > 0 THEN
		INSERT INTO flowcraft_webhooks (hash, run_id, node_id, expires_at)
		SELECT x.hash, p_runs[x.ix], p_nodes[x.ix], v_now + x.life_ms * interval '1 millisecond'
		FROM unnest(p_hook_of, p_hook_hashes, p_hook_lives) AS x(ix, hash, life_ms)
		WHERE x.ix = ANY (committed)
		ON CONFLICT DO NOTHING;
	END IF;

	-- 9b. Business events, in the order in which their nodes published them. Nobody deletes them but the relay that has
	--     published them: what is committed has happened, whatever becomes of the run.
	IF cardinality(p_event_of) > 0 THEN
		INSERT INTO flowcraft_outbox (kind, message_id, run_id, node_id, generation, recovers, blueprint_id, exchange, routing_key,
			payload, headers, priority, traceparent, due_at)
		SELECT 'event', x.id, p_runs[x.ix], p_nodes[x.ix], p_generations[x.ix], p_recovers[x.ix], s.blueprint_id, x.exchange,
			x.key, x.body, x.headers, x.priority, s.traceparent, v_now
		FROM unnest(p_event_of, p_event_ids, p_event_exchanges, p_event_keys, p_event_bodies, p_event_headers, p_event_priorities)
			WITH ORDINALITY AS x(ix, id, exchange, key, body, headers, priority, ord)
		CROSS JOIN LATERAL (
			SELECT s.blueprint_id, s.traceparent FROM flowcraft_statuses s WHERE s.run_id = p_runs[x.ix] OFFSET 0
		) AS s
		WHERE x.ix = ANY (committed)
		ORDER BY x.ord;
		GET DIAGNOSTICS v_emitted = ROW_COUNT;
		emitted := emitted + v_emitted;
		v_later := v_later + v_emitted;
	END IF;

	-- 10. The counters, and with them the end of a run.
	ended := flowcraft_settle_runs(
		v_runs,
		v_live || array_fill(0, ARRAY[cardinality(v_runs) - cardinality(v_live)]),
		v_waiting || array_fill(0, ARRAY[cardinality(v_runs) - cardinality(v_waiting)]),
		v_failed || array_fill(0, ARRAY[cardinality(v_runs) - cardinality(v_failed)]),
		v_reasons || array_fill(NULL::text, ARRAY[cardinality(v_runs) - cardinality(v_reasons)])
	);
	IF emitted > v_later THEN
		PERFORM flowcraft_ring();
	END IF;
END $$;

-- Gives running nodes back unfinished, because their worker drains, or has no implementation for them (p_unrunnable);
-- p_delays, in ms, say when they may be tried again. Counts neither as an attempt nor as a crash. Returns how many
-- were still the caller's.
CREATE OR REPLACE FUNCTION flowcraft_release(
	p_runs text[], p_nodes text[], p_generations text[], p_recovers text[], p_tokens uuid[], p_delays bigint[],
	p_unrunnable boolean
) RETURNS int
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_material = off
SET random_page_cost = 0
SET jit = off
AS $$
DECLARE
	v_now timestamptz := clock_timestamp();
	v_released int;
BEGIN
	PERFORM FROM flowcraft_statuses s WHERE s.run_id = ANY (p_runs) ORDER BY s.depth, s.run_id FOR NO KEY UPDATE;
	WITH released AS (
		UPDATE flowcraft_nodes n SET state = 'ready', claim_token = NULL, reemits = 0,
			due_at = v_now + g.delay_ms * interval '1 millisecond',
			emitted_at = v_now + g.delay_ms * interval '1 millisecond',
			unrunnable_since = CASE WHEN p_unrunnable THEN coalesce(n.unrunnable_since, v_now) END
		FROM unnest(p_runs, p_nodes, p_generations, p_recovers, p_tokens, p_delays)
			AS g(run_id, node_id, generation, recovers, token, delay_ms)
		CROSS JOIN LATERAL (
			SELECT p.ctid AS place FROM flowcraft_nodes p
			WHERE p.run_id = g.run_id AND p.node_id = g.node_id AND p.generation = g.generation AND p.recovers = g.recovers
			OFFSET 0
		) AS p
		CROSS JOIN LATERAL (
			SELECT s.blueprint_id, s.traceparent, s.finished_at FROM flowcraft_statuses s WHERE s.run_id = g.run_id OFFSET 0
		) AS s
		WHERE s.finished_at IS NULL AND n.ctid = p.place AND n.state || '' = 'running' AND n.claim_token = g.token
		RETURNING n.run_id, n.node_id, n.generation, n.recovers, n.due_at, s.blueprint_id, s.traceparent
	), posted AS (
		INSERT INTO flowcraft_outbox (run_id, node_id, generation, recovers, blueprint_id, traceparent, due_at)
		SELECT r.run_id, r.node_id, r.generation, r.recovers, r.blueprint_id, r.traceparent, r.due_at FROM released r
	)
	SELECT count(*) INTO v_released FROM released;
	RETURN v_released;
END $$;

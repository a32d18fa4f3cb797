-- installed from: 00_storage.sql
-- Storage parameters. Rows that are updated right after their insert get room for HOT updates on their own page, and
-- tables that churn are vacuumed early: they are small when healthy, and only stay so if dead rows go quickly.
ALTER TABLE flowcraft_outbox SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500);
ALTER TABLE flowcraft_statuses SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500);
ALTER TABLE flowcraft_nodes SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
ALTER TABLE flowcraft_workers SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);
ALTER TABLE flowcraft_streams SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500);
--> statement-breakpoint
-- installed from: 10_context.sql
-- Reading a run's context. Values stand as the serializer wrote them: what was started with or set by a node in
-- flowcraft_contexts, outputs once with their node. Flowcraft's keys are views of that: `_outputs.x` and `x` are the
-- output of the newest finished generation of node x, `_inputs.x` what its last taken edge brought.
-- Of two writes of one key the later commit wins; within one commit the output wins over what the node set.

-- Text as jsonb where jsonb can hold it. Postgres refuses NUL and lone surrogates in jsonb, not in text: those
-- characters become U+FFFD, in this reading only. What is no JSON at all is shown as a string.
CREATE OR REPLACE FUNCTION flowcraft_jsonb(p_value text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
	RETURN p_value::jsonb;
EXCEPTION WHEN data_exception THEN
	BEGIN
		RETURN regexp_replace(p_value, '\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{2})', '\\ufffd', 'g')::jsonb;
	EXCEPTION WHEN data_exception THEN
		RETURN to_jsonb(p_value);
	END;
END $$;

-- Every key of a run's context with its value; keys whose value is undefined or deleted are left out.
CREATE OR REPLACE FUNCTION flowcraft_context_entries(p_run text) RETURNS TABLE (key text, value text)
LANGUAGE sql STABLE ROWS 50 AS $$
	WITH outputs AS (
		SELECT DISTINCT ON (n.node_id) n.node_id, n.output, n.finished_seq
		FROM flowcraft_nodes n
		WHERE n.run_id = p_run AND n.state IN ('completed', 'recovered')
		ORDER BY n.node_id, n.generation DESC, n.finished_seq DESC
	), inputs AS (
		SELECT DISTINCT ON (n.node_id) n.node_id, coalesce(n.input, source.output) AS input
		FROM flowcraft_nodes n
		LEFT JOIN flowcraft_nodes source
			ON source.run_id = n.run_id AND source.node_id = n.input_node
			AND source.generation = n.input_generation AND source.recovers = n.input_recovers
		WHERE n.run_id = p_run AND (n.input IS NOT NULL OR n.input_node IS NOT NULL)
		ORDER BY n.node_id, n.generation DESC, n.created_at DESC
	), written AS (
		SELECT c.key, c.value, c.seq, 1 AS precedence FROM flowcraft_contexts c WHERE c.run_id = p_run
		UNION ALL SELECT '_outputs.' || o.node_id, o.output, o.finished_seq, 2 FROM outputs o
		UNION ALL SELECT o.node_id, o.output, o.finished_seq, 2 FROM outputs o
		UNION ALL SELECT '_inputs.' || i.node_id, i.input, -1, 0 FROM inputs i
		UNION ALL SELECT '_executionId', to_json(s.run_id)::text, -1, 0 FROM flowcraft_statuses s WHERE s.run_id = p_run
	), newest AS (
		SELECT DISTINCT ON (w.key) w.key, w.value FROM written w ORDER BY w.key, w.seq DESC, w.precedence DESC
	)
	SELECT newest.key, newest.value FROM newest WHERE newest.value IS NOT NULL
$$;

-- The asked keys that exist, with their values; a null value is `undefined` (a node that returned nothing).
-- Costs two index look-ups per key, however large the context is.
CREATE OR REPLACE FUNCTION flowcraft_context_get(p_run text, p_keys text[]) RETURNS TABLE (key text, value text)
LANGUAGE sql STABLE ROWS 5 AS $$
	SELECT asked.key, newest.value
	FROM unnest(p_keys) AS asked(key)
	CROSS JOIN LATERAL (
		SELECT candidate.value, candidate.deleted
		FROM (
			SELECT c.value, c.seq, 1 AS precedence, c.value IS NULL AS deleted
			FROM flowcraft_contexts c
			WHERE c.run_id = p_run AND c.key = asked.key
			UNION ALL
			(
				SELECT n.output, n.finished_seq, 2, false
				FROM flowcraft_nodes n
				WHERE n.run_id = p_run
					AND n.node_id = CASE WHEN starts_with(asked.key, '_outputs.') THEN substr(asked.key, 10) ELSE asked.key END
					AND n.state IN ('completed', 'recovered')
				ORDER BY n.generation DESC, n.finished_seq DESC
				LIMIT 1
			)
			UNION ALL
			(
				SELECT coalesce(n.input, source.output), -1, 0, false
				FROM flowcraft_nodes n
				LEFT JOIN flowcraft_nodes source
					ON source.run_id = n.run_id AND source.node_id = n.input_node
					AND source.generation = n.input_generation AND source.recovers = n.input_recovers
				WHERE starts_with(asked.key, '_inputs.')
					AND n.run_id = p_run AND n.node_id = substr(asked.key, 9)
					AND (n.input IS NOT NULL OR n.input_node IS NOT NULL)
				ORDER BY n.generation DESC, n.created_at DESC
				LIMIT 1
			)
			UNION ALL
			SELECT to_json(s.run_id)::text, -1, 0, false
			FROM flowcraft_statuses s WHERE asked.key = '_executionId' AND s.run_id = p_run
		) AS candidate(value, seq, precedence, deleted)
		ORDER BY candidate.seq DESC, candidate.precedence DESC
		LIMIT 1
	) AS newest
	WHERE NOT newest.deleted
$$;

-- The same for many runs at once: one row per pair of run and key that exists, with the pair's number.
CREATE OR REPLACE FUNCTION flowcraft_context_get_many(p_runs text[], p_keys text[]) RETURNS TABLE (ix int, value text)
LANGUAGE sql STABLE ROWS 50 AS $$
	SELECT asked.ix::int, found.value
	FROM unnest(p_runs, p_keys) WITH ORDINALITY AS asked(run_id, key, ix)
	CROSS JOIN LATERAL flowcraft_context_get(asked.run_id, ARRAY[asked.key]) AS found
$$;

-- A run's whole context as one document.
CREATE OR REPLACE FUNCTION flowcraft_context_document(p_run text) RETURNS jsonb
LANGUAGE sql STABLE AS $$
	SELECT coalesce(jsonb_object_agg(e.key, flowcraft_jsonb(e.value)), '{}') FROM flowcraft_context_entries(p_run) e
$$;

CREATE OR REPLACE VIEW flowcraft_context_documents AS
	SELECT s.run_id, flowcraft_context_document(s.run_id) AS data FROM flowcraft_statuses s;

-- For clients that poll a table for a run's end. The result is assembled when it is read, and only then.
CREATE OR REPLACE VIEW flowcraft_results AS
	SELECT
		s.run_id,
		s.status,
		CASE WHEN s.finished_at IS NOT NULL
			THEN jsonb_build_object('context', flowcraft_context_document(s.run_id), 'status', s.status)
		END AS result,
		s.reason,
		s.updated_at
	FROM flowcraft_statuses s;
--> statement-breakpoint
-- installed from: 15_ring.sql
-- Whether a relay sleeps: then whoever asks has to notify it. A relay that sleeps holds the lock exclusively
-- (`worker/relay/alarm.ts`) until it is woken while it is at work, so under load nobody notifies: NOTIFY makes commits wait for
-- each other. And a relay that gets the lock knows that everything written before can be seen, since whoever was told that none
-- sleeps holds it, shared, until his commit was visible.
CREATE OR REPLACE FUNCTION flowcraft_relay_sleeps() RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	RETURN NOT pg_try_advisory_xact_lock_shared(7305512216841093236);
END $$;

-- The session of the relay that sleeps, for which a start may take its rows: of a transaction the first one only, since a relay
-- that publishes thousands of them one by one is slower than one that looks. Null: there is none, or it has had its start.
CREATE OR REPLACE FUNCTION flowcraft_handover() RETURNS int
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	IF current_setting('flowcraft.handed_over', true) = 'yes' THEN
		RETURN NULL;
	END IF;
	PERFORM set_config('flowcraft.handed_over', 'yes', true);
	RETURN (
		SELECT l.pid FROM pg_locks l
		WHERE l.locktype = 'advisory' AND l.mode = 'ExclusiveLock' AND l.granted AND l.objsubid = 1
			AND l.classid = 7305512216841093236 >> 32 AND l.objid = 7305512216841093236 & 4294967295
			AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
	);
END $$;

-- Wakes the relay that sleeps, once whoever calls this has committed. A hint: where nobody rings, a relay looks by itself
-- after 80 ms at most.
CREATE OR REPLACE FUNCTION flowcraft_ring() RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	IF flowcraft_relay_sleeps() THEN
		NOTIFY flowcraft_outbox;
	END IF;
END $$;
--> statement-breakpoint
-- installed from: 20_settle_runs.sql
-- How the functions here find rows. Their plans are made once per session, perhaps while the tables are small or have
-- never been analysed, and must stay good when they are not. Left to itself the planner then believes that few nodes are
-- `ready` and few runs live, and reads the whole partial index of those for each row that it looks for (measured with
-- 20,000 queued nodes: 580 ms for a commit of 50 nodes, 5 ms as it stands). So
--   a row is looked up by its key in a LATERAL subquery with OFFSET 0, which is planned by itself: nothing but the key is
--   known in there, and nothing but the primary key fits;
--   a row is then updated at the place (`ctid`) where the look-up found it. Its run is locked, or whoever changes it at
--   the same moment has a message for it in the outbox: missing it is as good as coming too late;
--   a state is compared as `state || ''` there, which no partial index has;
--   and no plan is so dear that compiling it would pay (`jit`).

-- The one place that changes a run's counters and derives its status from them. Called at the end of every write
-- that changes which nodes of a run are live, in the same transaction, with the runs' rows locked.
--
-- Each array has one element per run: by how much its live, waiting and failed nodes changed, and the reason to show
-- if it fails (null keeps the one that it has). Returns the runs that ended.
--
-- A run whose status changed and that has a parent leaves a row in the outbox for the parent's node: `job` when it
-- has ended, so that a worker continues the parent, `child` when it began or ceased to wait. The parent's own row is
-- not touched here: it would have to be locked before the child's.
CREATE OR REPLACE FUNCTION flowcraft_settle_runs(
	p_runs text[], p_live int[], p_waiting int[], p_failed int[], p_reasons text[]
) RETURNS text[]
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
	v_ended text[];
	v_told int;
	v_now timestamptz := clock_timestamp();
BEGIN
	WITH delta AS (
		SELECT d.run_id, sum(d.live)::int AS live, sum(d.waiting)::int AS waiting, sum(d.failed)::int AS failed,
			min(d.reason) AS reason
		FROM unnest(p_runs, p_live, p_waiting, p_failed, p_reasons) AS d(run_id, live, waiting, failed, reason)
		GROUP BY d.run_id
	), counted AS (
		SELECT s.place, s.status AS old_status,
			s.live_count + d.live AS live, s.waiting_count + d.waiting AS waiting, s.failed_count + d.failed AS failed,
			coalesce(s.reason, d.reason) AS reason
		FROM delta d CROSS JOIN LATERAL (
			SELECT s.ctid AS place, s.status, s.live_count, s.waiting_count, s.failed_count, s.reason, s.finished_at
			FROM flowcraft_statuses s WHERE s.run_id = d.run_id OFFSET 0
		) AS s
		WHERE s.finished_at IS NULL
	), changed AS (
		UPDATE flowcraft_statuses s SET
			live_count = c.live,
			waiting_count = c.waiting,
			failed_count = c.failed,
			commit_seq = s.commit_seq + 1,
			status = CASE
				WHEN c.live = 0 AND c.failed > 0 THEN 'failed'
				WHEN c.live = 0 THEN 'completed'
				WHEN c.old_status = 'paused' THEN 'paused'
				WHEN c.waiting = c.live THEN 'awaiting'
				ELSE 'running'
			END,
			reason = CASE WHEN c.failed > 0 THEN c.reason END,
			updated_at = v_now,
			finished_at = CASE WHEN c.live = 0 THEN v_now END
		FROM counted c
		WHERE s.ctid = c.place
		RETURNING s.run_id, s.status, c.old_status, s.reason, s.finished_at,
			s.parent_run_id, s.parent_node_id, s.parent_generation, s.parent_recovers
	), history AS (
		INSERT INTO flowcraft_transitions (recorded_at, run_id, status, reason)
		SELECT v_now, c.run_id, c.status, c.reason FROM changed c WHERE c.status <> c.old_status
	), told AS (
		INSERT INTO flowcraft_outbox (kind, run_id, node_id, generation, recovers, blueprint_id, traceparent, due_at)
		SELECT CASE WHEN c.finished_at IS NULL THEN 'child' ELSE 'job' END,
			c.parent_run_id, c.parent_node_id, c.parent_generation, c.parent_recovers, parent.blueprint_id, parent.traceparent,
			v_now
		FROM changed c CROSS JOIN LATERAL (
			SELECT p.blueprint_id, p.traceparent FROM flowcraft_statuses p WHERE p.run_id = c.parent_run_id OFFSET 0
		) AS parent
		WHERE c.status <> c.old_status
		RETURNING 1
	)
	SELECT array_agg(c.run_id) FILTER (WHERE c.finished_at IS NOT NULL), (SELECT count(*) FROM told) INTO v_ended, v_told
	FROM changed c;
	IF v_told > 0 THEN
		PERFORM flowcraft_ring();
	END IF;
	RETURN coalesce(v_ended, '{}');
END $$;
--> statement-breakpoint
-- installed from: 30_start_run.sql
-- Inserts runs with their contexts, start nodes and outbox rows. The caller has decided that they may exist. The arrays up
-- to p_depths have one element per run, p_tags array literals; one without a hash is left out. p_ctx_of says by number whose
-- a key of a context is. Returns the ids of the runs that were inserted: the others are taken, and nothing was written for them.
CREATE OR REPLACE FUNCTION flowcraft_insert_runs(
	p_runs text[], p_blueprints text[], p_hashes text[], p_pins jsonb[], p_tags text[], p_traceparents text[],
	p_deadlines timestamptz[],
	p_parent_runs text[], p_parent_nodes text[], p_parent_generations text[], p_parent_recovers text[], p_depths int[],
	p_ctx_of int[], p_ctx_keys text[], p_ctx_values text[]
) RETURNS text[]
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
	v_inserted text[];
	v_width bigint;
	v_relay_sleeps boolean;
	v_sleeper int;
	v_token uuid;
	v_notice text;
BEGIN
	WITH given AS (
		SELECT g.*, b.version, cardinality(b.start_nodes) AS live_count
		FROM unnest(p_runs, p_blueprints, p_hashes, p_pins, p_tags, p_traceparents, p_deadlines,
			p_parent_runs, p_parent_nodes, p_parent_generations, p_parent_recovers, p_depths)
			AS g(run_id, blueprint_id, hash, pins, tags, traceparent, deadline_at,
			parent_run_id, parent_node_id, parent_generation, parent_recovers, depth)
		CROSS JOIN LATERAL (
			SELECT b.version, b.start_nodes FROM flowcraft_blueprints b
			-- A caller that passes a run's id passes its collation along, and with that one the index would be of no use.
			WHERE b.blueprint_id = g.blueprint_id COLLATE "default" AND b.hash = g.hash COLLATE "default" OFFSET 0
		) AS b
	), inserted AS (
		INSERT INTO flowcraft_statuses (run_id, status, blueprint_id, blueprint_hash, blueprint_version, pins, live_count,
			tags, traceparent, deadline_at, parent_run_id, parent_node_id, parent_generation, parent_recovers, depth,
			created_at, updated_at)
		SELECT g.run_id,
			-- A child that a paused run starts, since its node was running already, begins paused too.
			CASE WHEN g.parent_run_id IS NOT NULL AND EXISTS (
				SELECT FROM flowcraft_statuses s WHERE s.run_id = g.parent_run_id AND s.status || '' = 'paused' OFFSET 0
			) THEN 'paused' ELSE 'running' END,
			g.blueprint_id, g.hash, g.version, g.pins, g.live_count, g.tags::text[], g.traceparent, g.deadline_at,
			g.parent_run_id, g.parent_node_id, g.parent_generation, g.parent_recovers, g.depth, v_now, v_now
		-- In one order, so that of two batches with the same ids neither waits for the other.
		FROM given g ORDER BY g.run_id COLLATE "C"
		ON CONFLICT (run_id) DO NOTHING
		RETURNING run_id, status, live_count
	), history AS (
		INSERT INTO flowcraft_transitions (recorded_at, run_id, status) SELECT v_now, i.run_id, i.status FROM inserted i
	)
	SELECT coalesce(array_agg(i.run_id::text), '{}'), sum(i.live_count) INTO v_inserted, v_width FROM inserted i;
	IF cardinality(v_inserted) = 0 THEN
		RETURN v_inserted;
	END IF;

	INSERT INTO flowcraft_contexts (run_id, key, value, seq)
	SELECT p_runs[entry.ix], entry.key, entry.value, 0 FROM unnest(p_ctx_of, p_ctx_keys, p_ctx_values) AS entry(ix, key, value)
	WHERE p_runs[entry.ix] = ANY (v_inserted);

	-- A relay that sleeps gets the rows with its notification (`src/outbox/notice.ts`), where they are few: taken for it, as
	-- `flowcraft_take_outbox` would, but for a second only, since it may be gone without anybody knowing.
	v_relay_sleeps := flowcraft_relay_sleeps();
	IF v_relay_sleeps AND v_width <= 10 THEN
		v_sleeper := flowcraft_handover();
	END IF;
	IF v_sleeper IS NOT NULL THEN
		v_token := gen_random_uuid();
	END IF;
	WITH started AS (
		SELECT g.run_id, g.blueprint_id, g.traceparent, node_id
		FROM unnest(p_runs, p_blueprints, p_hashes, p_traceparents) AS g(run_id, blueprint_id, hash, traceparent)
		CROSS JOIN LATERAL (
			SELECT b.start_nodes FROM flowcraft_blueprints b
			WHERE b.blueprint_id = g.blueprint_id COLLATE "default" AND b.hash = g.hash COLLATE "default" OFFSET 0
		) AS b
		CROSS JOIN LATERAL unnest(b.start_nodes) AS node_id
		WHERE g.run_id = ANY (v_inserted)
	), nodes AS (
		INSERT INTO flowcraft_nodes (run_id, node_id, state, created_at, emitted_at)
		SELECT s.run_id, s.node_id, 'ready', v_now, v_now FROM started s
	), posted AS (
		INSERT INTO flowcraft_outbox (run_id, node_id, blueprint_id, traceparent, due_at, claim_token, claimed_until)
		SELECT s.run_id, s.node_id, s.blueprint_id, s.traceparent, v_now,
			v_token, CASE WHEN v_token IS NOT NULL THEN v_now + interval '1 second' END
		FROM started s
		RETURNING id, message_id, run_id, node_id, blueprint_id, traceparent
	)
	SELECT CASE WHEN v_token IS NOT NULL THEN json_build_object('for', v_sleeper, 'at', extract(epoch FROM v_now) * 1000, 'token', v_token, 'rows', json_agg(json_build_object('id', p.id::text, 'messageId', p.message_id,
		'runId', p.run_id, 'nodeId', p.node_id, 'blueprintId', p.blueprint_id, 'traceparent', p.traceparent))) END
	INTO v_notice FROM posted p WHERE v_token IS NOT NULL;

	IF v_relay_sleeps THEN
		-- Postgres refuses to notify of 8,000 bytes.
		IF octet_length(v_notice) > 7900 THEN
			UPDATE flowcraft_outbox o SET claim_token = NULL, claimed_until = NULL
			WHERE o.run_id = ANY (v_inserted) AND o.claim_token = v_token;
			v_notice := NULL;
		END IF;
		PERFORM pg_notify('flowcraft_outbox', coalesce(v_notice, ''));
	END IF;
	RETURN v_inserted;
END $$;

-- The hash that a run of p_blueprint gets: of the wanted version, or of the current one. Null if there is none.
-- PL/pgSQL, as everything that a start calls: a function in SQL is planned anew by each call, which cost a start more than
-- all that it writes.
CREATE OR REPLACE FUNCTION flowcraft_resolve_blueprint(p_blueprint text, p_version text) RETURNS text
LANGUAGE plpgsql STABLE
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
	IF p_version IS NULL THEN
		RETURN (SELECT h.hash FROM flowcraft_blueprint_heads h WHERE h.blueprint_id = p_blueprint);
	END IF;
	RETURN (
		SELECT b.hash FROM flowcraft_blueprints b
		WHERE b.blueprint_id = p_blueprint AND (b.version = p_version OR b.hash = p_version)
		ORDER BY b.created_at DESC LIMIT 1
	);
END $$;

-- The current hashes of all blueprints that a run of this one may start as subflows, at any depth. Null: it has none.
CREATE OR REPLACE FUNCTION flowcraft_pin_subflows(p_blueprint text, p_hash text) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
	IF NOT EXISTS (
		SELECT FROM flowcraft_blueprints b WHERE b.blueprint_id = p_blueprint AND b.hash = p_hash AND b.subflows <> '{}'
	) THEN
		RETURN NULL;
	END IF;
	RETURN (
		WITH RECURSIVE reached(blueprint_id, hash) AS (
			SELECT p_blueprint, p_hash
			UNION
			SELECT h.blueprint_id, h.hash
			FROM reached r
			JOIN flowcraft_blueprints b ON b.blueprint_id = r.blueprint_id AND b.hash = r.hash
			CROSS JOIN LATERAL unnest(b.subflows) AS named(blueprint_id)
			-- One that contains itself means this version of itself.
			JOIN flowcraft_blueprint_heads h ON h.blueprint_id = named.blueprint_id AND h.blueprint_id <> p_blueprint
		)
		SELECT jsonb_object_agg(blueprint_id, hash) FROM reached
	);
END $$;

-- Starts runs: status, context, start nodes and outbox rows, in the caller's transaction or its own. One element per run, no
-- run id and no idempotency key twice; p_tags are array literals, p_ctx_of says by number whose a key of a context is.
-- Outcomes, one row per run in any order: `started`; `repeated`, this idempotency key began that run; `conflict`, it began a
-- run with another body; `exists`, the given run id is taken; `unknown_blueprint`; `unknown_version`. Only `started` writes
-- anything. p_patience_ms, if not null: who waits longer than that for another transaction, which holds a key or an id, fails
-- (55P03), all of them, and so may every later statement of the transaction.
CREATE OR REPLACE FUNCTION flowcraft_start_runs(
	p_runs text[], p_blueprints text[], p_versions text[], p_tags text[], p_traceparents text[],
	p_idempotency_scopes text[], p_idempotency_keys text[], p_request_hashes text[], p_idempotency_ttl_ms bigint,
	p_ctx_of int[], p_ctx_keys text[], p_ctx_values text[], p_patience_ms bigint
) RETURNS TABLE (ix int, outcome text, run_id text, status text)
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
	v_keyed boolean := EXISTS (SELECT FROM unnest(p_idempotency_keys) AS k WHERE k IS NOT NULL);
	v_outcomes text[] := array_fill('started'::text, ARRAY[cardinality(p_runs)]);
	v_hashes text[];
	v_pins jsonb[];
	v_inserted text[];
BEGIN
	IF p_patience_ms IS NOT NULL THEN
		PERFORM set_config('lock_timeout', p_patience_ms::text, true);
	END IF;
	IF v_keyed THEN
		-- Of two starts with one key, the second waits here for the first to commit or roll back. In one order, so that of
		-- two batches with the same keys neither waits for the other.
		WITH given AS (
			SELECT g.* FROM unnest(p_runs, p_idempotency_scopes, p_idempotency_keys, p_request_hashes)
				WITH ORDINALITY AS g(run_id, scope, key, request_hash, ix)
			WHERE g.key IS NOT NULL
		), begun AS (
			INSERT INTO flowcraft_idempotency_keys AS k (scope, key, request_hash, run_id, expires_at)
			SELECT g.scope, g.key, g.request_hash, g.run_id, clock_timestamp() + p_idempotency_ttl_ms * interval '1 millisecond'
			FROM given g ORDER BY g.scope, g.key
			ON CONFLICT (scope, key) DO UPDATE
				SET request_hash = excluded.request_hash, run_id = excluded.run_id, expires_at = excluded.expires_at
				WHERE k.expires_at < clock_timestamp()
			RETURNING run_id
		)
		SELECT array_agg(CASE WHEN g.key IS NULL OR b.run_id IS NOT NULL THEN 'started' ELSE 'repeated' END ORDER BY g.ix)
		INTO v_outcomes
		FROM unnest(p_runs, p_idempotency_keys) WITH ORDINALITY AS g(run_id, key, ix)
		LEFT JOIN begun b ON b.run_id = g.run_id;
	END IF;

	SELECT array_agg(blueprint.hash ORDER BY g.ix), array_agg(blueprint.pins ORDER BY g.ix) INTO v_hashes, v_pins
	FROM unnest(p_blueprints, p_versions, v_outcomes) WITH ORDINALITY AS g(blueprint_id, version, outcome, ix)
	LEFT JOIN LATERAL (
		SELECT b.hash, CASE WHEN b.subflows <> '{}' THEN flowcraft_pin_subflows(b.blueprint_id, b.hash) END AS pins
		FROM (
			SELECT CASE WHEN g.version IS NULL
				THEN (SELECT h.hash FROM flowcraft_blueprint_heads h WHERE h.blueprint_id = g.blueprint_id OFFSET 0)
				ELSE flowcraft_resolve_blueprint(g.blueprint_id, g.version)
			END AS hash
		) AS wanted
		CROSS JOIN LATERAL (
			SELECT b.blueprint_id, b.hash, b.subflows FROM flowcraft_blueprints b
			WHERE b.blueprint_id = g.blueprint_id AND b.hash = wanted.hash OFFSET 0
		) AS b
		OFFSET 0
	) AS blueprint ON g.outcome = 'started';

	v_inserted := flowcraft_insert_runs(p_runs, p_blueprints,
		v_hashes, v_pins, p_tags, p_traceparents, NULL, NULL, NULL, NULL, NULL, array_fill(0, ARRAY[cardinality(p_runs)]),
		p_ctx_of, p_ctx_keys, p_ctx_values);
	IF cardinality(v_inserted) = cardinality(p_runs) THEN
		RETURN QUERY SELECT g.ix::int, 'started', g.run_id, 'running' FROM unnest(p_runs) WITH ORDINALITY AS g(run_id, ix);
		RETURN;
	END IF;

	RETURN QUERY
	SELECT g.ix::int,
		CASE
			WHEN g.outcome = 'repeated' THEN CASE WHEN k.request_hash = g.request_hash THEN 'repeated' ELSE 'conflict' END
			WHEN g.run_id = ANY (v_inserted) THEN 'started'
			WHEN g.hash IS NOT NULL THEN 'exists'
			WHEN EXISTS (SELECT FROM flowcraft_blueprint_heads h WHERE h.blueprint_id = g.blueprint_id OFFSET 0)
				THEN 'unknown_version'
			ELSE 'unknown_blueprint'
		END,
		coalesce(k.run_id, g.run_id), coalesce(s.status, 'running')
	FROM unnest(p_runs, p_blueprints, v_hashes, v_outcomes, p_idempotency_scopes, p_idempotency_keys, p_request_hashes)
		WITH ORDINALITY AS g(run_id, blueprint_id, hash, outcome, scope, key, request_hash, ix)
	LEFT JOIN LATERAL (
		SELECT k.run_id::text, k.request_hash FROM flowcraft_idempotency_keys k WHERE k.scope = g.scope AND k.key = g.key OFFSET 0
	) AS k ON g.outcome = 'repeated'
	LEFT JOIN LATERAL (
		SELECT s.status FROM flowcraft_statuses s WHERE s.run_id = k.run_id OFFSET 0
	) AS s ON g.outcome = 'repeated';

	-- A start that failed may be repeated under its key.
	IF v_keyed THEN
		DELETE FROM flowcraft_idempotency_keys k
		USING unnest(p_runs, v_outcomes, p_idempotency_scopes, p_idempotency_keys) AS g(run_id, outcome, scope, key)
		WHERE g.outcome = 'started' AND g.run_id <> ALL (v_inserted)
			AND k.scope = g.scope AND k.key = g.key AND k.run_id = g.run_id;
	END IF;
END $$;
--> statement-breakpoint
-- installed from: 31_register_blueprint.sql
-- Stores a version of a blueprint and makes it current if its content is new.
-- Outcomes: `created`; `known`, nothing was changed; `version_taken`, that version has another content.
-- unknown_uses are those of p_uses that no worker has ever offered.
CREATE OR REPLACE FUNCTION flowcraft_register_blueprint(
	p_blueprint text, p_hash text, p_version text, p_definition text, p_start_nodes text[], p_subflows text[], p_uses text[],
	OUT outcome text, OUT unknown_uses text[]
)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
	-- Many workers start at once: one of them registers, the others find it known.
	PERFORM pg_advisory_xact_lock(hashtextextended('flowcraft_blueprint:' || p_blueprint, 0));
	SELECT coalesce(array_agg(u.uses), '{}') INTO unknown_uses FROM unnest(p_uses) AS u(uses)
	WHERE NOT EXISTS (SELECT FROM flowcraft_implementations i WHERE i.uses = u.uses);

	IF EXISTS (SELECT FROM flowcraft_blueprints b WHERE b.blueprint_id = p_blueprint AND b.hash = p_hash) THEN
		outcome := 'known';
	ELSIF EXISTS (SELECT FROM flowcraft_blueprints b WHERE b.blueprint_id = p_blueprint AND b.version = p_version) THEN
		outcome := 'version_taken';
	ELSE
		INSERT INTO flowcraft_blueprints (blueprint_id, hash, version, definition, start_nodes, subflows, created_at)
		VALUES (p_blueprint, p_hash, p_version, p_definition, p_start_nodes, p_subflows, clock_timestamp());
		INSERT INTO flowcraft_blueprint_heads (blueprint_id, hash) VALUES (p_blueprint, p_hash)
		ON CONFLICT (blueprint_id) DO UPDATE SET hash = excluded.hash, updated_at = clock_timestamp();
		outcome := 'created';
	END IF;
END $$;
--> statement-breakpoint
-- installed from: 40_claim.sql
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
--> statement-breakpoint
-- installed from: 50_commit.sql
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
--> statement-breakpoint
-- installed from: 60_cancel_run.sql
-- The run and its live descendants, locked: parents before children, one generation of runs after the other, each
-- sorted by id. The caller has locked p_run itself.
CREATE OR REPLACE FUNCTION flowcraft_lock_descendants(p_run text) RETURNS text[]
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
	v_runs text[] := '{}';
	v_level text[] := ARRAY[p_run];
BEGIN
	WHILE cardinality(v_level) > 0 LOOP
		v_runs := v_runs || v_level;
		-- Looked up by their parent alone, or the planner might read all live runs.
		SELECT array_agg(child.run_id) INTO v_level
		FROM unnest(v_level) AS parent(run_id)
		CROSS JOIN LATERAL (
			SELECT s.run_id, s.finished_at FROM flowcraft_statuses s WHERE s.parent_run_id = parent.run_id OFFSET 0
		) AS child
		WHERE child.finished_at IS NULL;
		-- One that ends before it is ours is none of them any more.
		SELECT coalesce(array_agg(child.run_id) FILTER (WHERE child.finished_at IS NULL), '{}') INTO v_level FROM (
			SELECT s.run_id, s.finished_at FROM flowcraft_statuses s
			WHERE s.run_id = ANY (v_level) ORDER BY s.run_id FOR NO KEY UPDATE
		) AS child;
	END LOOP;
	RETURN v_runs;
END $$;

-- Cancels a run and all its descendants: what waits or is queued never starts, what runs loses its claim, timers and
-- queued messages go. Outcomes: `cancelled`; `final`, it had ended before, in the returned status and for the returned
-- reason; `unknown`.
-- `cancelled` lists the runs, for the doorbell that makes workers abort what they run.
CREATE OR REPLACE FUNCTION flowcraft_cancel_run(
	p_run text, p_reason text, OUT outcome text, OUT status text, OUT reason text, OUT cancelled text[]
)
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	v_now timestamptz;
	v_parent record;
BEGIN
	cancelled := '{}';
	SELECT s.status, s.reason INTO status, reason FROM flowcraft_statuses s WHERE s.run_id = p_run FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		outcome := 'unknown';
		RETURN;
	ELSIF status IN ('completed', 'failed', 'cancelled') THEN
		outcome := 'final';
		RETURN;
	END IF;

	cancelled := flowcraft_lock_descendants(p_run);
	v_now := clock_timestamp();

	PERFORM FROM flowcraft_nodes n
	WHERE n.run_id = ANY (cancelled) AND n.state IN ('ready', 'running', 'waiting', 'child')
	ORDER BY n.run_id, n.node_id, n.generation, n.recovers FOR NO KEY UPDATE;
	UPDATE flowcraft_nodes n SET state = 'cancelled', finished_at = v_now
	WHERE n.run_id = ANY (cancelled) AND n.state IN ('ready', 'running', 'waiting', 'child');

	DELETE FROM flowcraft_outbox o WHERE o.run_id = ANY (cancelled) AND o.kind <> 'event';

	UPDATE flowcraft_statuses s SET status = 'cancelled', live_count = 0, waiting_count = 0, commit_seq = s.commit_seq + 1,
		reason = CASE WHEN s.run_id = p_run THEN p_reason ELSE 'The parent run was cancelled' END,
		updated_at = v_now, finished_at = v_now
	WHERE s.run_id = ANY (cancelled);
	INSERT INTO flowcraft_transitions (recorded_at, run_id, status, reason)
	SELECT v_now, s.run_id, s.status, s.reason FROM flowcraft_statuses s WHERE s.run_id = ANY (cancelled);

	-- A parent that is not cancelled with it has to hear of it.
	INSERT INTO flowcraft_outbox (run_id, node_id, generation, recovers, blueprint_id, traceparent, due_at)
	SELECT s.parent_run_id, s.parent_node_id, s.parent_generation, s.parent_recovers, parent.blueprint_id, parent.traceparent, v_now
	FROM flowcraft_statuses s JOIN flowcraft_statuses parent ON parent.run_id = s.parent_run_id
	WHERE s.run_id = p_run;

	outcome := 'cancelled';
	status := 'cancelled';
	reason := p_reason;
END $$;
--> statement-breakpoint
-- installed from: 61_resume_node.sql
-- Ends a wait: the node becomes ready with what it was resumed with, and a worker continues from there. Without
-- p_node it is the only node that waits for something from outside (a sleep is not).
-- Outcomes: `resumed`; `unknown`, no such run; `not_waiting`; `ambiguous`, several wait; for these two `waiting` names
-- the nodes that do. `no_edge`, all edges out of the node have actions, and none has that of p_resume: the run would go on
-- nowhere; `actions` names those that there are.
CREATE OR REPLACE FUNCTION flowcraft_resume_node(
	p_run text, p_node text, p_resume text, OUT outcome text, OUT node_id text, OUT waiting text[], OUT status text,
	OUT actions text[]
)
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	v_now timestamptz;
	v_run record;
	v_node record;
BEGIN
	waiting := '{}'; actions := '{}';
	SELECT s.status, s.blueprint_id, s.blueprint_hash, s.traceparent INTO v_run FROM flowcraft_statuses s WHERE s.run_id = p_run FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		outcome := 'unknown';
		RETURN;
	END IF;
	status := v_run.status;
	v_now := clock_timestamp();

	SELECT coalesce(array_agg(n.node_id ORDER BY n.node_id), '{}') INTO waiting
	FROM flowcraft_nodes n WHERE n.run_id = p_run AND n.state = 'waiting';
	IF p_node IS NULL THEN
		IF (SELECT count(*) FROM flowcraft_nodes n
			WHERE n.run_id = p_run AND n.state = 'waiting' AND flowcraft_jsonb(n.wait) ->> 'reason' IS DISTINCT FROM 'timer') > 1
		THEN
			outcome := 'ambiguous';
			RETURN;
		END IF;
		SELECT n.node_id, n.generation, n.recovers INTO v_node FROM flowcraft_nodes n
		WHERE n.run_id = p_run AND n.state = 'waiting' AND flowcraft_jsonb(n.wait) ->> 'reason' IS DISTINCT FROM 'timer';
	ELSE
		SELECT n.node_id, n.generation, n.recovers INTO v_node FROM flowcraft_nodes n
		WHERE n.run_id = p_run AND n.state = 'waiting' AND n.node_id = p_node
		ORDER BY n.generation DESC LIMIT 1;
	END IF;
	IF v_node.node_id IS NULL THEN
		outcome := 'not_waiting';
		RETURN;
	END IF;
	node_id := v_node.node_id;

	SELECT array_agg(DISTINCT edge.action ORDER BY edge.action) INTO actions
	FROM flowcraft_blueprints b
	CROSS JOIN LATERAL (
		SELECT coalesce(e ->> 'action', '') AS action FROM jsonb_array_elements(flowcraft_jsonb(b.definition) -> 'edges') AS e
		WHERE e ->> 'source' = v_node.node_id
	) AS edge
	WHERE b.blueprint_id = v_run.blueprint_id AND b.hash = v_run.blueprint_hash;
	IF actions IS NOT NULL AND '' <> ALL (actions)
		AND coalesce(flowcraft_jsonb(p_resume) ->> 'action', '') <> ALL (actions)
	THEN
		outcome := 'no_edge';
		RETURN;
	END IF;

	UPDATE flowcraft_nodes n SET state = 'ready', wake = 'resume', resume = p_resume, due_at = NULL, emitted_at = v_now, reemits = 0
	WHERE n.run_id = p_run AND n.node_id = v_node.node_id AND n.generation = v_node.generation AND n.recovers = v_node.recovers
		AND n.state = 'waiting';
	DELETE FROM flowcraft_outbox o
	WHERE o.run_id = p_run AND o.node_id = v_node.node_id AND o.generation = v_node.generation
		AND o.recovers = v_node.recovers AND o.kind = 'job';
	INSERT INTO flowcraft_outbox (run_id, node_id, generation, recovers, blueprint_id, traceparent, due_at)
	VALUES (p_run, v_node.node_id, v_node.generation, v_node.recovers, v_run.blueprint_id, v_run.traceparent, v_now);
	PERFORM flowcraft_settle_runs(ARRAY[p_run], ARRAY[0], ARRAY[-1], ARRAY[0], ARRAY[NULL::text]);
	PERFORM flowcraft_ring();
	outcome := 'resumed';
	SELECT s.status INTO status FROM flowcraft_statuses s WHERE s.run_id = p_run;
END $$;
--> statement-breakpoint
-- installed from: 62_refresh_child.sql
-- A child run began or ceased to wait: its parent's counters follow, and so does the parent's own status, which may
-- send the same message one level up. Level-triggered: it looks at what the child is now, so that repeated and
-- reordered messages do no harm. Parent before child, as everywhere.
CREATE OR REPLACE FUNCTION flowcraft_refresh_child(
	p_run text, p_node text, p_generation text, p_recovers text
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
	v_child record;
	v_delta int;
BEGIN
	-- Of a run that has ended, no node is in state `child` any more.
	PERFORM FROM flowcraft_statuses s WHERE s.run_id = p_run FOR NO KEY UPDATE;
	SELECT n.child_run_id, n.child_status AS known, child.status INTO v_child
	FROM flowcraft_nodes n JOIN flowcraft_statuses child ON child.run_id = n.child_run_id
	WHERE n.run_id = p_run AND n.node_id = p_node AND n.generation = p_generation AND n.recovers = p_recovers
		AND n.state = 'child';
	IF NOT FOUND THEN
		RETURN;
	END IF;
	-- An ended child waits no more; collecting it is a worker's job.
	v_delta := (v_child.status = 'awaiting')::int - (v_child.known = 'awaiting')::int;
	UPDATE flowcraft_nodes n SET child_status = v_child.status
	WHERE n.run_id = p_run AND n.node_id = p_node AND n.generation = p_generation AND n.recovers = p_recovers;
	IF v_delta <> 0 THEN
		PERFORM flowcraft_settle_runs(ARRAY[p_run], ARRAY[0], ARRAY[v_delta], ARRAY[0], ARRAY[NULL::text]);
	END IF;
END $$;
--> statement-breakpoint
-- installed from: 63_write_context.sql
-- Writes to a run's context from outside its nodes; a null value deletes the key. False: there is no such run.
CREATE OR REPLACE FUNCTION flowcraft_write_context(p_run text, p_keys text[], p_values text[]) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off
SET jit = off
AS $$
BEGIN
	UPDATE flowcraft_statuses s SET commit_seq = s.commit_seq + 1, updated_at = clock_timestamp() WHERE s.run_id = p_run;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	INSERT INTO flowcraft_contexts (run_id, key, value, seq)
	SELECT DISTINCT ON (x.key) p_run, x.key, x.value, s.commit_seq
	FROM unnest(p_keys, p_values) WITH ORDINALITY AS x(key, value, ord)
	JOIN flowcraft_statuses s ON s.run_id = p_run
	ORDER BY x.key, x.ord DESC
	ON CONFLICT (run_id, key) DO UPDATE SET value = excluded.value, seq = excluded.seq;
	RETURN true;
END $$;
--> statement-breakpoint
-- installed from: 64_send_event.sql
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
--> statement-breakpoint
-- installed from: 65_pause_run.sql
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
--> statement-breakpoint
-- installed from: 66_retry_run.sql
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
--> statement-breakpoint
-- installed from: 67_save_step.sql
-- Saves what a step inside a running node returned; only the holder of the node's claim may. Of two saves under one key
-- the first one counts. False: the claim is lost.
CREATE OR REPLACE FUNCTION flowcraft_save_step(
	p_run text, p_node text, p_generation text, p_recovers text, p_token uuid, p_key text, p_value text
) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off
SET jit = off
AS $$
BEGIN
	-- Locked, so that nobody takes the claim away between the look and the save.
	PERFORM FROM flowcraft_nodes n
	WHERE n.run_id = p_run AND n.node_id = p_node AND n.generation = p_generation AND n.recovers = p_recovers
		AND n.state = 'running' AND n.claim_token = p_token
	FOR SHARE;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	INSERT INTO flowcraft_steps (run_id, node_id, generation, recovers, key, value)
	VALUES (p_run, p_node, p_generation, p_recovers, p_key, p_value)
	ON CONFLICT DO NOTHING;
	RETURN true;
END $$;
--> statement-breakpoint
-- installed from: 68_dead_letters.sql
-- Takes a dead letter off the list; the node's failure stays. Outcomes: `discarded`, also if it was before; `unknown`;
-- `retried`, since its failure the node has been given another attempt, and is `node_state` now.
CREATE OR REPLACE FUNCTION flowcraft_discard_dead_letter(
	p_run text, p_node text, p_generation text, p_recovers text, OUT outcome text, OUT node_state text
)
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
	PERFORM FROM flowcraft_statuses s WHERE s.run_id = p_run FOR NO KEY UPDATE;
	SELECT n.state INTO node_state FROM flowcraft_nodes n
	WHERE n.run_id = p_run AND n.node_id = p_node AND n.generation = p_generation AND n.recovers = p_recovers;
	outcome := CASE
		WHEN NOT FOUND THEN 'unknown'
		WHEN node_state NOT IN ('failed', 'recovered') THEN 'retried'
		ELSE 'discarded'
	END;
	UPDATE flowcraft_nodes n SET dead_letter = NULL
	WHERE outcome = 'discarded' AND n.dead_letter IS NOT NULL
		AND n.run_id = p_run AND n.node_id = p_node AND n.generation = p_generation AND n.recovers = p_recovers;
END $$;
--> statement-breakpoint
-- installed from: 69_stream.sql
-- Live readers (`GET /runs/:id/stream`) are told a run's events by number: 1, 2, 3 …, whoever asks, and whenever it comes
-- back. Nothing is numbered while events happen, which would cost every run a write per event. The numbers are given when
-- somebody reads, by flowcraft_sequence_run: it looks what has changed since it looked last, and appends that to the run's
-- log. One look at a time, under the lock of the run's row in flowcraft_streams.
--
-- "What has changed" must not miss what commits late. By source:
--   nodes that ended    `finished_seq` above the run's `commit_seq` of the last look: it is given under the run's lock,
--                       so a lower one cannot become visible later
--   changes of status   `id` above the last one: drawn under the run's lock too
--   nodes that began,   claims and crashes lock no run, so no number of theirs is in the order of the commits. Each has
--   attempts            the id of its transaction, and counts if that was not visible to the snapshot of the last look:
--                       it began later, or was still under way
-- Each is one look into an index, however large the run is and however much has ended before. What is found twice is told
-- once: `key` says which event it is.
CREATE OR REPLACE FUNCTION flowcraft_sequence_run(p_run text) RETURNS void
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
	v_log record;
	v_commit_seq bigint;
	v_snapshot pg_snapshot;
	v_since xid8;
	v_under_way xid8[];
	v_added bigint;
	v_transition bigint;
BEGIN
	-- 1. Most looks find nothing, and then write nothing.
	SELECT l.* INTO v_log FROM flowcraft_streams l WHERE l.run_id = p_run;
	IF FOUND THEN
		v_since := pg_snapshot_xmax(v_log.seen);
		v_under_way := ARRAY(SELECT pg_snapshot_xip(v_log.seen));
		PERFORM FROM flowcraft_statuses s
		WHERE s.run_id = p_run AND (
			s.commit_seq > v_log.commit_seq
			OR EXISTS (SELECT FROM flowcraft_transitions t WHERE t.run_id = p_run AND t.id > v_log.transition_id)
			OR EXISTS (
				SELECT FROM flowcraft_nodes n
				WHERE n.run_id = p_run AND n.finished_seq IS NULL AND n.claimed_xid IS NOT NULL AND n.claimed_xid >= v_since
			)
			OR EXISTS (
				SELECT FROM flowcraft_nodes n
				WHERE n.run_id = p_run AND n.finished_seq IS NULL AND n.claimed_xid IS NOT NULL AND n.claimed_xid = ANY (v_under_way)
			)
			OR EXISTS (SELECT FROM flowcraft_attempts a WHERE a.run_id = p_run AND a.xid >= v_since)
			OR EXISTS (SELECT FROM flowcraft_attempts a WHERE a.run_id = p_run AND a.xid = ANY (v_under_way))
		);
		IF NOT FOUND THEN
			RETURN;
		END IF;
	ELSE
		INSERT INTO flowcraft_streams (run_id) VALUES (p_run) ON CONFLICT DO NOTHING;
	END IF;
	SELECT l.* INTO v_log FROM flowcraft_streams l WHERE l.run_id = p_run FOR NO KEY UPDATE;

	-- 2. How far this look reaches, taken before it: what commits in between is found, and found again the next time.
	v_snapshot := pg_current_snapshot();
	SELECT s.commit_seq INTO v_commit_seq FROM flowcraft_statuses s WHERE s.run_id = p_run;
	-- In a database that was restored from a dump, transactions count from the beginning again.
	IF pg_snapshot_xmax(v_log.seen) > pg_snapshot_xmax(v_snapshot) THEN
		v_log.seen := '1:1:';
	END IF;
	v_since := pg_snapshot_xmax(v_log.seen);
	v_under_way := ARRAY(SELECT pg_snapshot_xip(v_log.seen));

	-- 3. What has changed, as events. `rank` puts those of one write into the order of cause and effect: a commit may end one
	--    node and claim the next; `deaths` tells
	--    executions of one attempt apart whose workers died.
	WITH nodes AS MATERIALIZED (
		SELECT n.* FROM flowcraft_nodes n WHERE n.run_id = p_run AND n.finished_seq > v_log.commit_seq
		UNION ALL
		SELECT n.* FROM flowcraft_nodes n
		WHERE n.run_id = p_run AND n.finished_seq IS NULL AND n.claimed_xid IS NOT NULL AND n.claimed_xid >= v_since
		UNION ALL
		SELECT n.* FROM flowcraft_nodes n
		WHERE n.run_id = p_run AND n.finished_seq IS NULL AND n.claimed_xid IS NOT NULL AND n.claimed_xid = ANY (v_under_way)
	), begun AS (
		SELECT n.node_id, n.generation, n.recovers, n.attempt, n.claimed_at, n.created_at,
			CASE WHEN n.crashes = 0 THEN 0 ELSE (
				SELECT count(*) FROM flowcraft_attempts a
				WHERE a.run_id = p_run AND a.node_id = n.node_id AND a.generation = n.generation AND a.recovers = n.recovers
					AND a.attempt = n.attempt AND a.outcome = 'crashed'
			) END AS deaths
		FROM nodes n
		-- Otherwise the claim is that of an attempt which another one follows.
		WHERE n.claimed_at IS NOT NULL
			AND (n.state NOT IN ('pending', 'ready') OR (n.wake IS NOT NULL AND n.claim_token IS NOT NULL))
	), attempts AS MATERIALIZED (
		SELECT a.* FROM flowcraft_attempts a WHERE a.run_id = p_run AND a.xid >= v_since
		UNION ALL
		SELECT a.* FROM flowcraft_attempts a WHERE a.run_id = p_run AND a.xid = ANY (v_under_way)
	), superseded AS (
		SELECT a.*, (
			SELECT count(*) FROM flowcraft_attempts e
			WHERE e.run_id = p_run AND e.node_id = a.node_id AND e.generation = a.generation AND e.recovers = a.recovers
				AND e.attempt = a.attempt AND e.outcome = 'crashed' AND e.id < a.id
		) AS deaths
		FROM attempts a
	), events AS (
		SELECT t.recorded_at AS at, CASE WHEN before.status IS NULL THEN 0 ELSE 8 END AS rank, 'run' AS what, '' AS node_id,
			'' AS generation, '' AS recovers, NULL::int AS attempt, t.id AS serial,
			json_build_object('status', t.status, 'before', before.status)::text AS detail
		FROM flowcraft_transitions t LEFT JOIN LATERAL (
			SELECT b.status FROM flowcraft_transitions b WHERE b.run_id = p_run AND b.id < t.id ORDER BY b.id DESC LIMIT 1
		) AS before ON true
		WHERE t.run_id = p_run AND t.id > v_log.transition_id
		UNION ALL
		SELECT b.claimed_at, 7, 'start', b.node_id, b.generation, b.recovers, b.attempt, b.deaths, NULL FROM begun b
		UNION ALL
		SELECT b.created_at, 6, 'fallback', b.node_id, b.generation, b.recovers, NULL, 0, NULL FROM begun b WHERE b.recovers <> ''
		UNION ALL
		SELECT n.finished_at, 5, CASE n.state WHEN 'completed' THEN 'finish' ELSE 'error' END, n.node_id, n.generation, n.recovers,
			n.attempt, 0, json_build_object('action', n.action, 'error', n.error)::text
		FROM nodes n WHERE n.finished_seq IS NOT NULL
		UNION ALL
		SELECT a.claimed_at, 7, 'start', a.node_id, a.generation, a.recovers, a.attempt, a.deaths, NULL
		FROM superseded a WHERE a.claimed_at IS NOT NULL
		UNION ALL
		SELECT a.claimed_at, 3, 'fallback', a.node_id, a.generation, a.recovers, NULL, 0, NULL
		FROM superseded a WHERE a.claimed_at IS NOT NULL AND a.recovers <> ''
		UNION ALL
		SELECT a.recorded_at, 5, 'retry', a.node_id, a.generation, a.recovers, a.attempt, a.deaths,
			json_build_object('outcome', a.outcome, 'error', a.error)::text
		FROM superseded a
	), keyed AS (
		SELECT e.*, md5(json_build_array(e.what, e.node_id, e.generation, e.recovers, e.attempt, e.serial)::text)::uuid AS key
		FROM events e
	), single AS (
		SELECT DISTINCT ON (k.key) k.* FROM keyed k ORDER BY k.key, k.at
	), fresh AS (
		SELECT s.*, row_number() OVER (ORDER BY s.at, s.rank, s.key) AS position FROM single s
		WHERE NOT EXISTS (SELECT FROM flowcraft_stream_events d WHERE d.run_id = p_run AND d.key = s.key)
	), told AS (
		INSERT INTO flowcraft_stream_events (run_id, seq, key, at, what, node_id, generation, recovers, attempt, detail)
		SELECT p_run, v_log.last_seq + f.position, f.key, f.at, f.what, f.node_id, f.generation, f.recovers, f.attempt, f.detail
		FROM fresh f
		RETURNING 1
	)
	SELECT (SELECT count(*) FROM told), (SELECT max(e.serial) FROM events e WHERE e.what = 'run') INTO v_added, v_transition;

	UPDATE flowcraft_streams l SET last_seq = v_log.last_seq + v_added, commit_seq = v_commit_seq,
		transition_id = coalesce(v_transition, v_log.transition_id), seen = v_snapshot
	WHERE l.run_id = p_run;
END $$;

-- What a live reader has not been told yet: up to p_limit events after number p_after. Always at least one row; `seq` is
-- null where there is no event. `status` was read before the events were: if it is final, the log has the run's end.
-- No row: there is no such run.
CREATE OR REPLACE FUNCTION flowcraft_follow_run(p_run text, p_after bigint, p_limit int) RETURNS TABLE (
	status text, blueprint_id text, last_seq bigint, seq bigint, at timestamptz, what text, node text, generation text,
	recovers text, attempt int, detail text
)
LANGUAGE plpgsql VOLATILE ROWS 100
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	v_run record;
BEGIN
	SELECT s.status, s.blueprint_id INTO v_run FROM flowcraft_statuses s WHERE s.run_id = p_run;
	IF NOT FOUND THEN
		RETURN;
	END IF;
	PERFORM flowcraft_sequence_run(p_run);
	RETURN QUERY
	SELECT v_run.status, v_run.blueprint_id, l.last_seq, e.seq, e.at, e.what, e.node_id::text, e.generation::text,
		e.recovers::text, e.attempt, e.detail
	FROM flowcraft_streams l LEFT JOIN LATERAL (
		SELECT e.* FROM flowcraft_stream_events e WHERE e.run_id = p_run AND e.seq > p_after ORDER BY e.seq LIMIT p_limit
	) AS e ON true
	WHERE l.run_id = p_run
	ORDER BY e.seq;
END $$;

-- What running nodes have emitted, one element per node and batch: p_data is a JSON array of texts, p_firsts the number
-- of its first one within this execution of the node. Only the holder of a claim emits; of others nothing is kept. It is
-- no part of the node's commit. Events that came before, the start of the node included, get their numbers first. May be
-- repeated as it was: what is there already is not added again. Returns how many elements were their claims' holders'.
CREATE OR REPLACE FUNCTION flowcraft_emit(
	p_runs text[], p_nodes text[], p_generations text[], p_recovers text[], p_tokens uuid[], p_firsts int[], p_data text[]
) RETURNS int
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	v_run text;
	v_last bigint;
	v_held int;
	v_total int := 0;
BEGIN
	-- In one order, so that no two workers wait for each other.
	FOR v_run IN SELECT DISTINCT r.run_id COLLATE "C" FROM unnest(p_runs) AS r(run_id) ORDER BY 1 LOOP
		PERFORM flowcraft_sequence_run(v_run);
		SELECT l.last_seq INTO v_last FROM flowcraft_streams l WHERE l.run_id = v_run FOR NO KEY UPDATE;
		WITH given AS (
			SELECT x.ix::int AS ix, x.node_id, x.generation, x.recovers, x.token, x.first, x.data, n.attempt, n.crashes
			FROM unnest(p_runs, p_nodes, p_generations, p_recovers, p_tokens, p_firsts, p_data)
				WITH ORDINALITY AS x(run_id, node_id, generation, recovers, token, first, data, ix)
			CROSS JOIN LATERAL (
				SELECT n.attempt, n.crashes, n.state, n.claim_token FROM flowcraft_nodes n
				WHERE n.run_id = x.run_id AND n.node_id = x.node_id AND n.generation = x.generation AND n.recovers = x.recovers
				OFFSET 0
			) AS n
			WHERE x.run_id = v_run AND n.state = 'running' AND n.claim_token = x.token
		), kept AS (
			INSERT INTO flowcraft_stream_events (run_id, seq, key, at, what, node_id, generation, recovers, attempt, detail)
			SELECT v_run, v_last + row_number() OVER (ORDER BY g.ix), md5(format('%s %s', g.token, g.first))::uuid,
				clock_timestamp(), 'emit', g.node_id, g.generation, g.recovers, g.attempt,
				format('{"crashes":%s,"first":%s,"data":%s}', g.crashes, g.first, g.data)
			FROM given g
			ON CONFLICT (run_id, key) DO NOTHING
		)
		SELECT count(*) INTO v_held FROM given g;
		UPDATE flowcraft_streams l SET last_seq = v_last + v_held WHERE l.run_id = v_run;
		v_total := v_total + v_held;
	END LOOP;
	RETURN v_total;
END $$;
--> statement-breakpoint
-- installed from: 70_relay.sql
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
--> statement-breakpoint
-- installed from: 80_sweep.sql
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
--> statement-breakpoint
-- installed from: 81_reconcile_run.sql
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
--> statement-breakpoint
-- installed from: 82_sweep_generations.sql
-- Loops have a bounded history: of a live run, what its nodes did in older turns than the newest p_keep that each of
-- them finished is deleted, with arrivals, earlier attempts and saved steps. A node that was added in a turn (an item
-- of a batch) goes with the node that added it, whose turns count for it.
--
-- Kept, however old: what is not finished or has failed, and every later turn, since it may still send arrivals there;
-- the first turn of an inner loop that still turns, where what arrived from outside holds for all its turns; and
-- whatever a kept node has as its input. So joins and `any` nodes find all that they may ever ask for.
--
-- Looks at up to p_runs live runs after the run p_after, oldest first, until p_rows nodes are gone; `next` is where to
-- go on, null at the end. A run without loops costs one look into an index that only loops are in.
CREATE OR REPLACE FUNCTION flowcraft_sweep_generations(
	p_after text, p_runs int, p_keep int, p_rows int, OUT deleted int, OUT next text
)
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
	v_after timestamptz;
	v_run text;
	v_nodes text[];
	v_generations text[];
	v_recovers text[];
BEGIN
	deleted := 0;
	-- A run that is gone by now begins the round again.
	SELECT s.created_at INTO v_after FROM flowcraft_statuses s WHERE s.run_id = p_after;
	v_after := coalesce(v_after, '-infinity');
	FOR v_run IN
		SELECT page.run_id
		FROM unnest(ARRAY['running', 'awaiting', 'paused']) AS live(status)
		CROSS JOIN LATERAL (
			SELECT s.run_id, s.created_at FROM flowcraft_statuses s
			WHERE s.status = live.status AND s.finished_at IS NULL AND (s.created_at, s.run_id) > (v_after, p_after)
			ORDER BY s.created_at, s.run_id LIMIT p_runs
		) AS page
		ORDER BY page.created_at, page.run_id
		LIMIT p_runs
	LOOP
		next := v_run;
		CONTINUE WHEN NOT EXISTS (
			SELECT FROM flowcraft_nodes n WHERE n.run_id = v_run AND n.generation <> '' GROUP BY n.node_id HAVING count(*) > p_keep
		);
		-- No commit of the run meanwhile; one that is under way now is not waited for.
		PERFORM FROM flowcraft_statuses s WHERE s.run_id = v_run AND s.finished_at IS NULL FOR NO KEY UPDATE SKIP LOCKED;
		CONTINUE WHEN NOT FOUND;

		WITH turns AS MATERIALIZED (
			SELECT n.node_id, n.generation, n.recovers, n.state IN ('completed', 'recovered', 'cancelled') AS finished,
				coalesce(n.dynamic::json ->> 'place', n.node_id) COLLATE "C" AS place
			FROM flowcraft_nodes n WHERE n.run_id = v_run AND n.generation <> ''
		), unfinished AS MATERIALIZED (
			SELECT DISTINCT t.generation FROM turns t WHERE NOT t.finished
		), ranked AS (
			SELECT d.place, d.generation, row_number() OVER (PARTITION BY d.place ORDER BY d.generation DESC) AS rank
			FROM (SELECT DISTINCT t.place, t.generation FROM turns t WHERE t.finished) AS d
		), old AS (
			SELECT t.node_id, t.generation, t.recovers
			FROM turns t JOIN ranked oldest_kept ON oldest_kept.place = t.place AND oldest_kept.rank = p_keep
			WHERE t.finished AND t.generation < oldest_kept.generation
				AND t.generation < ALL (SELECT u.generation FROM unfinished u)
				AND NOT EXISTS (SELECT FROM unfinished u WHERE starts_with(u.generation, t.generation))
			ORDER BY t.generation LIMIT p_rows
		)
		SELECT array_agg(o.node_id), array_agg(o.generation), array_agg(o.recovers)
		INTO v_nodes, v_generations, v_recovers FROM old o;
		CONTINUE WHEN v_nodes IS NULL;

		WITH old AS MATERIALIZED (
			SELECT o.node_id, o.generation, o.recovers FROM unnest(v_nodes, v_generations, v_recovers) AS o(node_id, generation, recovers)
		), needed AS MATERIALIZED (
			SELECT n.input_node AS node_id, n.input_generation AS generation, n.input_recovers AS recovers
			FROM flowcraft_nodes n
			WHERE n.run_id = v_run AND n.input_generation <> ''
				AND (n.node_id, n.generation, n.recovers) NOT IN (SELECT o.node_id, o.generation, o.recovers FROM old o)
		), gone AS (
			DELETE FROM flowcraft_nodes n USING old o
			WHERE n.run_id = v_run AND n.node_id = o.node_id AND n.generation = o.generation AND n.recovers = o.recovers
				AND (o.node_id, o.generation, o.recovers) NOT IN (SELECT d.node_id, d.generation, d.recovers FROM needed d)
			RETURNING n.node_id, n.generation, n.recovers
		), arrivals AS (
			DELETE FROM flowcraft_arrivals a USING gone g
			WHERE a.run_id = v_run AND a.node_id = g.node_id AND a.generation = g.generation AND g.recovers = ''
		), attempts AS (
			DELETE FROM flowcraft_attempts a USING gone g
			WHERE a.run_id = v_run AND a.node_id = g.node_id AND a.generation = g.generation AND a.recovers = g.recovers
		), steps AS (
			DELETE FROM flowcraft_steps p USING gone g
			WHERE p.run_id = v_run AND p.node_id = g.node_id AND p.generation = g.generation AND p.recovers = g.recovers
		)
		SELECT deleted + count(*) INTO deleted FROM gone;
		-- Their runs are locked until we are done.
		EXIT WHEN deleted >= p_rows;
	END LOOP;
END $$;

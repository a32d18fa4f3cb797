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

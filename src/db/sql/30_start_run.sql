-- Inserts a run with its context, its start nodes and their outbox rows. The caller has decided that it may exist.
CREATE OR REPLACE FUNCTION flowcraft_insert_run(
	p_run text, p_blueprint text, p_hash text, p_pins jsonb,
	p_keys text[], p_values text[], p_tags text[], p_traceparent text, p_deadline timestamptz,
	p_parent_run text, p_parent_node text, p_parent_generation text, p_parent_recovers text, p_depth int
) RETURNS boolean -- false, and nothing written: the run id is taken
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan
SET jit = off
AS $$
DECLARE
	v_now timestamptz := clock_timestamp();
	v_start_nodes text[];
	v_version text;
	-- A child that a paused run starts, since its node was running already, begins paused too.
	v_status text := CASE
		WHEN EXISTS (SELECT FROM flowcraft_statuses s WHERE s.run_id = p_parent_run AND s.status = 'paused') THEN 'paused'
		ELSE 'running'
	END;
BEGIN
	SELECT b.start_nodes, b.version INTO STRICT v_start_nodes, v_version
	-- A caller that passes a run's id passes its collation along, and with that one the index would be of no use.
	FROM flowcraft_blueprints b WHERE b.blueprint_id = p_blueprint COLLATE "default" AND b.hash = p_hash COLLATE "default";

	INSERT INTO flowcraft_statuses (run_id, status, blueprint_id, blueprint_hash, blueprint_version, pins, live_count,
		tags, traceparent, deadline_at, parent_run_id, parent_node_id, parent_generation, parent_recovers, depth,
		created_at, updated_at)
	VALUES (p_run, v_status, p_blueprint, p_hash, v_version, p_pins, cardinality(v_start_nodes),
		p_tags, p_traceparent, p_deadline, p_parent_run, p_parent_node, p_parent_generation, p_parent_recovers, p_depth,
		v_now, v_now)
	ON CONFLICT (run_id) DO NOTHING;
	IF NOT FOUND THEN
		RETURN false;
	END IF;

	INSERT INTO flowcraft_transitions (run_id, status) VALUES (p_run, v_status);

	INSERT INTO flowcraft_contexts (run_id, key, value, seq)
	SELECT p_run, entry.key, entry.value, 0 FROM unnest(p_keys, p_values) AS entry(key, value);

	INSERT INTO flowcraft_nodes (run_id, node_id, state, emitted_at)
	SELECT p_run, node_id, 'ready', v_now FROM unnest(v_start_nodes) AS node_id;

	INSERT INTO flowcraft_outbox (run_id, node_id, blueprint_id, traceparent, due_at)
	SELECT p_run, node_id, p_blueprint, p_traceparent, v_now FROM unnest(v_start_nodes) AS node_id;
	RETURN true;
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

-- Starts a run: status, context, start nodes and outbox rows, in the caller's transaction or its own.
-- Outcomes: `started`; `repeated`, this idempotency key began that run; `conflict`, it began a run with another body;
-- `exists`, the given run id is taken; `unknown_blueprint`; `unknown_version`. Only `started` writes anything.
CREATE OR REPLACE FUNCTION flowcraft_start_run(
	p_run text, p_blueprint text, p_version text, p_keys text[], p_values text[], p_tags text[],
	p_traceparent text, p_deadline_ms bigint,
	p_idempotency_scope text, p_idempotency_key text, p_request_hash text, p_idempotency_ttl_ms bigint,
	OUT outcome text, OUT run_id text, OUT status text, OUT blueprint_hash text
)
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	v_known record;
BEGIN
	run_id := p_run;
	IF p_idempotency_key IS NOT NULL THEN
		-- Of two starts with one key, the second waits here for the first to commit or roll back.
		INSERT INTO flowcraft_idempotency_keys AS k (scope, key, request_hash, run_id, expires_at)
		VALUES (p_idempotency_scope, p_idempotency_key, p_request_hash, p_run,
			clock_timestamp() + p_idempotency_ttl_ms * interval '1 millisecond')
		ON CONFLICT (scope, key) DO UPDATE
			SET request_hash = excluded.request_hash, run_id = excluded.run_id, expires_at = excluded.expires_at
			WHERE k.expires_at < clock_timestamp();
		IF NOT FOUND THEN
			SELECT k.run_id, k.request_hash INTO v_known FROM flowcraft_idempotency_keys k
			WHERE k.scope = p_idempotency_scope AND k.key = p_idempotency_key;
			run_id := v_known.run_id;
			outcome := CASE WHEN v_known.request_hash = p_request_hash THEN 'repeated' ELSE 'conflict' END;
			SELECT s.status, s.blueprint_hash INTO status, blueprint_hash FROM flowcraft_statuses s WHERE s.run_id = v_known.run_id;
			RETURN;
		END IF;
	END IF;

	blueprint_hash := flowcraft_resolve_blueprint(p_blueprint, p_version);
	IF blueprint_hash IS NULL THEN
		outcome := CASE
			WHEN EXISTS (SELECT FROM flowcraft_blueprint_heads h WHERE h.blueprint_id = p_blueprint) THEN 'unknown_version'
			ELSE 'unknown_blueprint'
		END;
	ELSIF flowcraft_insert_run(p_run, p_blueprint, blueprint_hash, flowcraft_pin_subflows(p_blueprint, blueprint_hash),
		p_keys, p_values, p_tags, p_traceparent,
		CASE WHEN p_deadline_ms IS NOT NULL THEN clock_timestamp() + p_deadline_ms * interval '1 millisecond' END,
		NULL, NULL, NULL, NULL, 0)
	THEN
		outcome := 'started';
		status := 'running';
		RETURN;
	ELSE
		outcome := 'exists';
	END IF;

	IF p_idempotency_key IS NOT NULL THEN
		DELETE FROM flowcraft_idempotency_keys k
		WHERE k.scope = p_idempotency_scope AND k.key = p_idempotency_key AND k.run_id = p_run;
	END IF;
END $$;

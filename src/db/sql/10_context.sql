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

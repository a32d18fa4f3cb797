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

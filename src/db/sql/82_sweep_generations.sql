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

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

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

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

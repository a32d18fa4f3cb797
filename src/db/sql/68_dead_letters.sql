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

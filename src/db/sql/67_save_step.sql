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

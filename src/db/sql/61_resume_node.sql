-- Ends a wait: the node becomes ready with what it was resumed with, and a worker continues from there. Without
-- p_node it is the only node that waits for something from outside (a sleep is not).
-- Outcomes: `resumed`; `unknown`, no such run; `not_waiting`; `ambiguous`, several wait; for these two `waiting` names
-- the nodes that do. `no_edge`, all edges out of the node have actions, and none has that of p_resume: the run would go on
-- nowhere; `actions` names those that there are.
CREATE OR REPLACE FUNCTION flowcraft_resume_node(
	p_run text, p_node text, p_resume text, OUT outcome text, OUT node_id text, OUT waiting text[], OUT status text,
	OUT actions text[]
)
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
	v_now timestamptz;
	v_run record;
	v_node record;
BEGIN
	waiting := '{}'; actions := '{}';
	SELECT s.status, s.blueprint_id, s.blueprint_hash, s.traceparent INTO v_run FROM flowcraft_statuses s WHERE s.run_id = p_run FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		outcome := 'unknown';
		RETURN;
	END IF;
	status := v_run.status;
	v_now := clock_timestamp();

	SELECT coalesce(array_agg(n.node_id ORDER BY n.node_id), '{}') INTO waiting
	FROM flowcraft_nodes n WHERE n.run_id = p_run AND n.state = 'waiting';
	IF p_node IS NULL THEN
		IF (SELECT count(*) FROM flowcraft_nodes n
			WHERE n.run_id = p_run AND n.state = 'waiting' AND flowcraft_jsonb(n.wait) ->> 'reason' IS DISTINCT FROM 'timer') > 1
		THEN
			outcome := 'ambiguous';
			RETURN;
		END IF;
		SELECT n.node_id, n.generation, n.recovers INTO v_node FROM flowcraft_nodes n
		WHERE n.run_id = p_run AND n.state = 'waiting' AND flowcraft_jsonb(n.wait) ->> 'reason' IS DISTINCT FROM 'timer';
	ELSE
		SELECT n.node_id, n.generation, n.recovers INTO v_node FROM flowcraft_nodes n
		WHERE n.run_id = p_run AND n.state = 'waiting' AND n.node_id = p_node
		ORDER BY n.generation DESC LIMIT 1;
	END IF;
	IF v_node.node_id IS NULL THEN
		outcome := 'not_waiting';
		RETURN;
	END IF;
	node_id := v_node.node_id;

	SELECT array_agg(DISTINCT edge.action ORDER BY edge.action) INTO actions
	FROM flowcraft_blueprints b
	CROSS JOIN LATERAL (
		SELECT coalesce(e ->> 'action', '') AS action FROM jsonb_array_elements(flowcraft_jsonb(b.definition) -> 'edges') AS e
		WHERE e ->> 'source' = v_node.node_id
	) AS edge
	WHERE b.blueprint_id = v_run.blueprint_id AND b.hash = v_run.blueprint_hash;
	IF actions IS NOT NULL AND '' <> ALL (actions)
		AND coalesce(flowcraft_jsonb(p_resume) ->> 'action', '') <> ALL (actions)
	THEN
		outcome := 'no_edge';
		RETURN;
	END IF;

	UPDATE flowcraft_nodes n SET state = 'ready', wake = 'resume', resume = p_resume, due_at = NULL, emitted_at = v_now, reemits = 0
	WHERE n.run_id = p_run AND n.node_id = v_node.node_id AND n.generation = v_node.generation AND n.recovers = v_node.recovers
		AND n.state = 'waiting';
	DELETE FROM flowcraft_outbox o
	WHERE o.run_id = p_run AND o.node_id = v_node.node_id AND o.generation = v_node.generation
		AND o.recovers = v_node.recovers AND o.kind = 'job';
	INSERT INTO flowcraft_outbox (run_id, node_id, generation, recovers, blueprint_id, traceparent, due_at)
	VALUES (p_run, v_node.node_id, v_node.generation, v_node.recovers, v_run.blueprint_id, v_run.traceparent, v_now);
	PERFORM flowcraft_settle_runs(ARRAY[p_run], ARRAY[0], ARRAY[-1], ARRAY[0], ARRAY[NULL::text]);
	PERFORM flowcraft_ring();
	outcome := 'resumed';
	SELECT s.status INTO status FROM flowcraft_statuses s WHERE s.run_id = p_run;
END $$;

-- Another attempt of failed nodes, by hand: while their siblings run, or after the run has failed, which opens it again.
-- A worker continues from the node as it does from any other; here it only becomes `ready`.
--
-- Without p_node: every failed node that nothing else of its branch can recover. Of a node whose fallback has failed
-- too that is the fallback (of several, one behind the other, the last one): when it completes, it stands in for the
-- node as if it had never failed. With p_node: that node, in each of its generations that failed, or in p_generation,
-- standing in for p_recovers. If its fallbacks have failed, their failures are set aside (`cancelled`): they run again
-- only if the node fails again. A node and its fallback are never tried at once.
--
-- It is one more attempt, whatever `maxRetries` says. Its crashes are forgotten, its mark as a dead letter too, its saved
-- steps are kept. A subflow's attempt has a child run of its own.
--
-- Outcomes: `retried`; `unknown`; `child`, its `parent` decides; `cancelled`; `recovering`, the node's fallback `nodes`
-- is under way; `not_failed`, and these `nodes` have. `nodes` of `retried` are those that are ready now.
CREATE OR REPLACE FUNCTION flowcraft_retry_run(
	p_run text, p_node text, p_generation text, p_recovers text,
	OUT outcome text, OUT status text, OUT nodes text[], OUT parent text
)
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
	v_now timestamptz;
	v_failed int;
	v_run record;
BEGIN
	nodes := '{}';
	SELECT s.status, s.parent_run_id, s.blueprint_id, s.traceparent INTO v_run
	FROM flowcraft_statuses s WHERE s.run_id = p_run FOR NO KEY UPDATE;
	status := v_run.status;
	parent := v_run.parent_run_id;
	outcome := CASE
		WHEN NOT FOUND THEN 'unknown'
		WHEN status = 'cancelled' THEN 'cancelled'
		WHEN parent IS NOT NULL THEN 'child'
	END;
	IF outcome IS NOT NULL THEN
		RETURN;
	END IF;
	v_now := clock_timestamp();

	-- 1. Which ones. `chain` is what a fallback of the node has as `recovers`; behind a comma, those of its own
	--    fallbacks end with it.
	CREATE TEMPORARY TABLE IF NOT EXISTS flowcraft_retried (x int) ON COMMIT DROP;
END $$;

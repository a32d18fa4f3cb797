-- Writes to a run's context from outside its nodes; a null value deletes the key. False: there is no such run.
CREATE OR REPLACE FUNCTION flowcraft_write_context(p_run text, p_keys text[], p_values text[]) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off
SET jit = off
AS $$
BEGIN
	UPDATE flowcraft_statuses s SET commit_seq = s.commit_seq + 1, updated_at = clock_timestamp() WHERE s.run_id = p_run;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	INSERT INTO flowcraft_contexts (run_id, key, value, seq)
	SELECT DISTINCT ON (x.key) p_run, x.key, x.value, s.commit_seq
	FROM unnest(p_keys, p_values) WITH ORDINALITY AS x(key, value, ord)
	JOIN flowcraft_statuses s ON s.run_id = p_run
	ORDER BY x.key, x.ord DESC
	ON CONFLICT (run_id, key) DO UPDATE SET value = excluded.value, seq = excluded.seq;
	RETURN true;
END $$;

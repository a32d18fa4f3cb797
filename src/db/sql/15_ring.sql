-- Wakes the relay that sleeps, once whoever calls this has committed, and tells it which messages p_run has to publish, where
-- there are few (`src/outbox/notice.ts`). A relay that is woken by this holds the lock exclusively (`worker/relay/alarm.ts`)
-- until it is woken while it is at work, so under load nobody notifies: NOTIFY makes commits wait for each other. And a relay
-- that gets the lock knows that everything written before can be seen, since whoever rang before held it until his commit
-- was visible. A hint: where nobody rings, a relay looks by itself after 80 ms at most.
CREATE OR REPLACE FUNCTION flowcraft_ring(p_run text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
	v_notice text := '';
BEGIN
	IF pg_try_advisory_xact_lock_shared(7305512216841093236) THEN
		RETURN;
	END IF;
	IF p_run IS NOT NULL THEN
		SELECT json_agg(json_build_object('id', o.id::text, 'messageId', o.message_id, 'runId', o.run_id, 'nodeId', o.node_id,
			'blueprintId', o.blueprint_id, 'traceparent', o.traceparent))
		INTO v_notice
		FROM (
			SELECT * FROM flowcraft_outbox o WHERE o.run_id = p_run LIMIT 10
		) AS o;
		-- Postgres refuses to notify of 8,000 bytes.
		IF octet_length(v_notice) > 7900 THEN
			v_notice := '';
		END IF;
	END IF;
	PERFORM pg_notify('flowcraft_outbox', v_notice);
END $$;

-- Whether a relay sleeps: then whoever asks has to notify it. A relay that sleeps holds the lock exclusively
-- (`worker/relay/alarm.ts`) until it is woken while it is at work, so under load nobody notifies: NOTIFY makes commits wait for
-- each other. And a relay that gets the lock knows that everything written before can be seen, since whoever was told that none
-- sleeps holds it, shared, until his commit was visible.
CREATE OR REPLACE FUNCTION flowcraft_relay_sleeps() RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	RETURN NOT pg_try_advisory_xact_lock_shared(7305512216841093236);
END $$;

-- Wakes the relay that sleeps, once whoever calls this has committed. A hint: where nobody rings, a relay looks by itself
-- after 80 ms at most.
CREATE OR REPLACE FUNCTION flowcraft_ring() RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	IF flowcraft_relay_sleeps() THEN
		NOTIFY flowcraft_outbox;
	END IF;
END $$;

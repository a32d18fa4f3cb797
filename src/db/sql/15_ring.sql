-- Whether a relay sleeps: then whoever asks has to notify it. A relay that sleeps holds the lock exclusively
-- (`worker/relay/alarm.ts`) until it is woken while it is at work, so under load nobody notifies: NOTIFY makes commits wait for
-- each other. And a relay that gets the lock knows that everything written before can be seen, since whoever was told that none
-- sleeps holds it, shared, until his commit was visible.
CREATE OR REPLACE FUNCTION flowcraft_relay_sleeps() RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	RETURN NOT pg_try_advisory_xact_lock_shared(7305512216841093236);
END $$;

-- The session of the relay that sleeps, for which a start may take its rows: of a transaction the first one only, since a relay
-- that publishes thousands of them one by one is slower than one that looks. Null: there is none, or it has had its start.
CREATE OR REPLACE FUNCTION flowcraft_handover() RETURNS int
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	IF current_setting('flowcraft.handed_over', true) = 'yes' THEN
		RETURN NULL;
	END IF;
	PERFORM set_config('flowcraft.handed_over', 'yes', true);
	RETURN (
		SELECT l.pid FROM pg_locks l
		WHERE l.locktype = 'advisory' AND l.mode = 'ExclusiveLock' AND l.granted AND l.objsubid = 1
			AND l.classid = 7305512216841093236 >> 32 AND l.objid = 7305512216841093236 & 4294967295
			AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
	);
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

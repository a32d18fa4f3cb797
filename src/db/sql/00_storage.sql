-- Storage parameters. Rows that are updated right after their insert get room for HOT updates on their own page, and
-- tables that churn are vacuumed early: they are small when healthy, and only stay so if dead rows go quickly.
ALTER TABLE flowcraft_outbox SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500);
ALTER TABLE flowcraft_statuses SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500);
ALTER TABLE flowcraft_nodes SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
ALTER TABLE flowcraft_workers SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);
ALTER TABLE flowcraft_streams SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500);

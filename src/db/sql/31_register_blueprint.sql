-- Stores a version of a blueprint and makes it current if its content is new.
-- Outcomes: `created`; `known`, nothing was changed; `version_taken`, that version has another content.
-- unknown_uses are those of p_uses that no worker has ever offered.
CREATE OR REPLACE FUNCTION flowcraft_register_blueprint(
	p_blueprint text, p_hash text, p_version text, p_definition text, p_start_nodes text[], p_subflows text[], p_uses text[],
	OUT outcome text, OUT unknown_uses text[]
)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
	-- Many workers start at once: one of them registers, the others find it known.
	PERFORM pg_advisory_xact_lock(hashtextextended('flowcraft_blueprint:' || p_blueprint, 0));
	SELECT coalesce(array_agg(u.uses), '{}') INTO unknown_uses FROM unnest(p_uses) AS u(uses)
	WHERE NOT EXISTS (SELECT FROM flowcraft_implementations i WHERE i.uses = u.uses);

	IF EXISTS (SELECT FROM flowcraft_blueprints b WHERE b.blueprint_id = p_blueprint AND b.hash = p_hash) THEN
		outcome := 'known';
	ELSIF EXISTS (SELECT FROM flowcraft_blueprints b WHERE b.blueprint_id = p_blueprint AND b.version = p_version) THEN
		outcome := 'version_taken';
	ELSE
		INSERT INTO flowcraft_blueprints (blueprint_id, hash, version, definition, start_nodes, subflows, created_at)
		VALUES (p_blueprint, p_hash, p_version, p_definition, p_start_nodes, p_subflows, clock_timestamp());
		INSERT INTO flowcraft_blueprint_heads (blueprint_id, hash) VALUES (p_blueprint, p_hash)
		ON CONFLICT (blueprint_id) DO UPDATE SET hash = excluded.hash, updated_at = clock_timestamp();
		outcome := 'created';
	END IF;
END $$;

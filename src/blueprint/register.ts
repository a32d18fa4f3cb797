/** Blueprints live in Postgres: registered by workers when they start, or over HTTP; read by whoever plans. */
import type { WorkflowBlueprint } from 'flowcraft'
import { type Executor, isoColumn, query, textArray } from '../db/query.js'
import { ConflictError, NotFoundError } from '../errors.js'
import { createGraph } from './graph.js'
import { canonicalJson, contentHash } from './hash.js'
import { validateBlueprint } from './validate.js'

export interface RegisteredBlueprint {
	readonly blueprintId: string
	readonly hash: string
	readonly version: string | null
	/** False: this very content was known, and what is current did not change. */
	readonly created: boolean
	/** `uses` keys that no worker has offered yet. A run waits for a worker that does, within a limit. */
	readonly warnings: readonly string[]
}

/** Provided by every worker, whatever its registry holds. */
export const BUILT_IN_USES: ReadonlySet<string> = new Set([
	'subflow',
	'sleep',
	'wait',
	'webhook',
	'loop-controller',
	'batch-scatter',
	'batch-gather',
])

/**
 * Stores a version of a blueprint, by content, and makes it current if its content is new. A known content changes
 * nothing, so that a worker of the previous release that restarts does not turn the clock back.
 *
 * @throws InvalidInputError with every fault
 * @throws ConflictError if its `metadata.version` is taken by another content
 */
export async function registerBlueprint(db: Executor, input: unknown): Promise<RegisteredBlueprint> {
	const blueprint = validateBlueprint(input)
	const hash = await contentHash(canonicalJson(blueprint))
	const graph = createGraph(blueprint)
	const version = blueprint.metadata?.version ?? null
	const uses = usesOf(blueprint).filter((key) => !BUILT_IN_USES.has(key))
	const [row] = await query<{ outcome: 'created' | 'known' | 'version_taken'; unknown_uses: string }>(
		db,
		`select outcome, to_json(unknown_uses)::text as unknown_uses from flowcraft_register_blueprint(
			$1::text, $2::text, $3::text, $4::text, $5::text::text[], $6::text::text[], $7::text::text[])`,
		[
			blueprint.id,
			hash,
			version,
			JSON.stringify(blueprint),
			textArray(graph.startNodes),
			textArray(graph.subflows),
			textArray(uses),
		],
	)
	if (row === undefined || row.outcome === 'version_taken') {
		throw new ConflictError(
			`Version '${version}' of blueprint '${blueprint.id}' exists with another content. Give the new content a new metadata.version.`,
		)
	}
	return {
		blueprintId: blueprint.id,
		hash,
		version,
		created: row.outcome === 'created',
		warnings: (JSON.parse(row.unknown_uses) as string[]).map(
			(key) => `No worker has offered an implementation of '${key}' yet.`,
		),
	}
}

/** Every key that a run may need an implementation for: of the nodes, and of the items of batches. */
function usesOf(blueprint: WorkflowBlueprint): string[] {
	const workers = blueprint.nodes.map((node) =>
		node.uses === 'batch-scatter' ? (node.params?.['workerUsesKey'] as unknown) : undefined,
	)
	return [
		...new Set([
			...blueprint.nodes.map((node) => node.uses),
			...workers.filter((key) => typeof key === 'string'),
		]),
	]
}

/** Remembers which `uses` keys somebody can run. */
export async function offerImplementations(db: Executor, uses: readonly string[]): Promise<void> {
	await query(
		db,
		`insert into flowcraft_implementations (uses) select distinct uses from unnest($1::text::text[]) as uses order by uses
		on conflict (uses) do update set offered_at = now()`,
		[textArray(uses)],
	)
}

export interface BlueprintSummary {
	readonly blueprintId: string
	readonly hash: string
	readonly version: string | null
	readonly createdAt: string
}

/** The current version of each blueprint, by id. */
export async function listBlueprints(db: Executor): Promise<BlueprintSummary[]> {
	return query<BlueprintSummary & Record<string, unknown>>(
		db,
		`select b.blueprint_id as "blueprintId", b.hash, b.version, ${isoColumn('b.created_at')} as "createdAt"
		from flowcraft_blueprint_heads h join flowcraft_blueprints b on b.blueprint_id = h.blueprint_id and b.hash = h.hash
		order by b.blueprint_id`,
	)
}

export interface StoredBlueprint extends BlueprintSummary {
	readonly definition: WorkflowBlueprint
	readonly current: boolean
	/** All versions, newest first. */
	readonly versions: readonly BlueprintSummary[]
}

/**
 * One blueprint: the version named by `version` (its `metadata.version` or its hash), or the current one.
 * @throws NotFoundError
 */
export async function readBlueprint(
	db: Executor,
	blueprintId: string,
	version?: string,
): Promise<StoredBlueprint> {
	const rows = await query<
		BlueprintSummary & { definition: string; current: boolean; asked: boolean } & Record<string, unknown>
	>(
		db,
		`select b.blueprint_id as "blueprintId", b.hash, b.version, ${isoColumn('b.created_at')} as "createdAt",
			case when b.hash = r.hash then b.definition end as definition,
			b.hash = h.hash as current, b.hash = r.hash as asked
		from flowcraft_blueprints b
		join flowcraft_blueprint_heads h on h.blueprint_id = b.blueprint_id
		cross join (select flowcraft_resolve_blueprint($1::text, $2::text) as hash) r
		where b.blueprint_id = $1::text order by b.created_at desc`,
		[blueprintId, version ?? null],
	)
	const asked = rows.find((row) => row.asked)
	if (asked === undefined) {
		throw new NotFoundError(
			rows.length === 0
				? `There is no blueprint '${blueprintId}'.`
				: `There is no version '${version}' of blueprint '${blueprintId}'.`,
		)
	}
	return {
		...summaryOf(asked),
		definition: JSON.parse(asked.definition) as WorkflowBlueprint,
		current: asked.current,
		versions: rows.map(summaryOf),
	}
}

const summaryOf = ({ blueprintId, hash, version, createdAt }: BlueprintSummary): BlueprintSummary => ({
	blueprintId,
	hash,
	version,
	createdAt,
})

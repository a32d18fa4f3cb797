/** Dead letters: nodes whose workers kept dying, or that nobody could run. Kept with what one needs to understand them. */
import { type Executor, isoColumn, query } from '../db/query.js'
import type { NodeState } from '../db/schema.js'
import { ConflictError, NotFoundError } from '../errors.js'
import { showGeneration } from '../plan/generation.js'
import { type NodeKey, recoveredBy } from '../plan/node-key.js'
import { decodeCursor, encodeCursor, readCursor } from './cursor.js'
import { type ErrorDetails, errorOf } from './node-history.js'
import { type RetriedRun, retryNode } from './retry.js'

export interface DeadLetter {
	/** For `replayDeadLetter` and `discardDeadLetter`. */
	readonly id: string
	readonly runId: string
	readonly nodeId: string
	/** As in the history of nodes. */
	readonly generation: string
	/** Of a fallback: the failed nodes that it stands in for, nearest first. */
	readonly recovers?: readonly string[]
	readonly blueprint: string
	readonly version: string
	/** `recovered`: its fallback has completed in the meantime. */
	readonly state: NodeState
	readonly why: string
	readonly error?: ErrorDetails
	readonly attempts: number
	readonly crashes: number
	readonly since: string
}

export interface DeadLetterPage {
	readonly deadLetters: readonly DeadLetter[]
	readonly nextCursor?: string
}

/**
 * A page of dead letters, newest first.
 * @param input.limit 1 to 200, default 50
 * @throws InvalidInputError for a cursor that this function did not make
 */
export async function listDeadLetters(
	db: Executor,
	input: { readonly limit?: number; readonly cursor?: string } = {},
): Promise<DeadLetterPage> {
	const limit = Math.min(Math.max(Math.trunc(input.limit ?? 50), 1), 200)
	const after =
		input.cursor === undefined
			? []
			: decodeCursor(input.cursor, ['timestamp', 'text', 'text', 'text', 'text'])
	const rows = await query<
		Record<
			| 'keysetAt'
			| 'runId'
			| 'nodeId'
			| 'generation'
			| 'recovers'
			| 'blueprint'
			| 'version'
			| 'why'
			| 'since',
			string
		> & {
			state: NodeState
			error: string | null
			attempts: number
			crashes: number
		}
	>(
		db,
		`select n.finished_at::text as "keysetAt", n.run_id as "runId", n.node_id as "nodeId", n.generation, n.recovers,
			s.blueprint_id as blueprint, coalesce(s.blueprint_version, s.blueprint_hash) as version, n.state, n.dead_letter as why,
			n.error, n.attempt as attempts, n.crashes, ${isoColumn('n.finished_at')} as since
		from flowcraft_nodes n join flowcraft_statuses s on s.run_id = n.run_id
		where n.dead_letter is not null
			${after.length === 0 ? '' : 'and (n.finished_at, n.run_id, n.node_id, n.generation, n.recovers) < ($1::text::timestamptz, $2::text collate "C", $3::text collate "C", $4::text collate "C", $5::text collate "C")'}
		order by n.finished_at desc, n.run_id desc, n.node_id desc, n.generation desc, n.recovers desc limit ${limit + 1}`,
		after,
	)
	const page = rows.slice(0, limit)
	const last = page.at(-1)
	return {
		deadLetters: page.map((row) => ({
			id: encodeCursor([row.runId, row.nodeId, row.generation, row.recovers]),
			runId: row.runId,
			nodeId: row.nodeId,
			generation: showGeneration(row.generation),
			...(row.recovers === '' ? {} : { recovers: recoveredBy(row.recovers) }),
			blueprint: row.blueprint,
			version: row.version,
			state: row.state,
			why: row.why,
			...errorOf(row.error),
			attempts: row.attempts,
			crashes: row.crashes,
			since: row.since,
		})),
		...(rows.length > limit && last !== undefined
			? {
					nextCursor: encodeCursor([
						last.keysetAt,
						last.runId,
						last.nodeId,
						last.generation,
						last.recovers,
					]),
				}
			: {}),
	}
}

/**
 * Another attempt of the node: the same as retrying it.
 * @throws NotFoundError; ConflictError if it is no failed node any more, or cannot be retried
 */
export async function replayDeadLetter(db: Executor, id: string): Promise<RetriedRun> {
	const key = keyOf(id)
	try {
		return await retryNode(db, key)
	} catch (error) {
		throw error instanceof NotFoundError ? notFound(id) : error
	}
}

/**
 * Takes it off the list; the node stays failed. Repeating it changes nothing.
 * @throws NotFoundError; ConflictError if the node has been given another attempt
 */
export async function discardDeadLetter(db: Executor, id: string): Promise<NodeKey> {
	const key = keyOf(id)
	const [row] = await query<{ outcome: string; node_state: string | null }>(
		db,
		'select outcome, node_state from flowcraft_discard_dead_letter($1::text, $2::text, $3::text, $4::text)',
		[key.runId, key.nodeId, key.generation, key.recovers],
	)
	if (row === undefined || row.outcome === 'unknown') throw notFound(id)
	if (row.outcome === 'retried')
		throw new ConflictError(
			`Node '${key.nodeId}' of run '${key.runId}' is no dead letter any more: it is ${row.node_state}.`,
		)
	return key
}

function keyOf(id: string): NodeKey {
	const values = readCursor(id, ['text', 'text', 'text', 'text'])
	if (values === undefined) throw notFound(id)
	const [runId = '', nodeId = '', generation = '', recovers = ''] = values
	return { runId, nodeId, generation, recovers }
}

const notFound = (id: string): NotFoundError => new NotFoundError(`There is no dead letter '${id}'.`)

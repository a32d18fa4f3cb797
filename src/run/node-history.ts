/** The history of a run's nodes: each with its state and all its attempts, a page at a time. */
import { type Executor, isoColumn, query, type Row } from '../db/query.js'
import type { NodeState } from '../db/schema.js'
import { NotFoundError } from '../errors.js'
import { showGeneration } from '../plan/generation.js'
import { recoveredBy } from '../plan/node-key.js'
import { decodeCursor, encodeCursor } from './cursor.js'
import { readStatus } from './read.js'

/** What a node threw. */
export interface ErrorDetails {
	readonly message: string
	readonly name?: string
	readonly stack?: string
	readonly isFatal?: boolean
	readonly cause?: ErrorDetails
}

/** An attempt that was followed by another one. */
export interface SupersededAttempt {
	readonly attempt: number
	/** `crashed`: its worker died; the next one has the same number. */
	readonly outcome: 'failed' | 'crashed'
	readonly error?: ErrorDetails
	readonly workerId?: string
	readonly claimedAt?: string
	readonly recordedAt: string
}

/** A node of a run, in one turn of the loops around it, and for one node that it stands in for as a fallback. */
export interface NodeRun {
	readonly nodeId: string
	/** Which turn of the loops around it, outermost first: `2.5`. `0`: the first, or in no loop. */
	readonly generation: string
	/** Of a fallback: the failed nodes that it stands in for, nearest first. */
	readonly recovers?: readonly string[]
	readonly state: NodeState
	/** The latest attempt, from 1. */
	readonly attempt: number
	/** How often a worker died with it in hand. */
	readonly crashes: number
	readonly workerId?: string
	readonly createdAt: string
	readonly claimedAt?: string
	readonly finishedAt?: string
	/** Not before: of a retry, a timer, the timeout of a wait. */
	readonly dueAt?: string
	readonly action?: string
	readonly error?: ErrorDetails
	/** Why no worker could bring it to an end. */
	readonly deadLetter?: string
	/** What a waiting node waits for: `timer`, `external_event`, or what it gave. */
	readonly waitReason?: string
	readonly childRunId?: string
	/** Of a node that is ready: since when workers have taken it and found that they lack its implementation. */
	readonly unrunnableSince?: string
	/** Superseded ones, oldest first; the latest is the node itself. */
	readonly attempts: readonly SupersededAttempt[]
	/** JSON text as the serializer wrote it, if asked for and there is one. */
	readonly outputJson?: string
}

export interface NodeHistoryInput {
	readonly withOutput?: boolean
	/** 1 to 1000. Default 100. */
	readonly limit?: number
	/** `nextCursor` of the page before. */
	readonly cursor?: string
}

export interface NodePage {
	readonly nodes: readonly NodeRun[]
	readonly nextCursor?: string
}

/** Whether the claim that stands with a node belongs to its latest attempt: not so of one that begins another. */
export const WAS_CLAIMED = `(n.state not in ('pending', 'ready') or (n.wake is not null and n.claim_token is not null))`

/**
 * A page of a run's nodes, by node id and then by generation. Of loops in a run that is still live, old turns are
 * deleted; see ARCHITECTURE.md.
 * @throws NotFoundError; InvalidInputError for a cursor that this function did not make
 */
export async function listNodes(
	db: Executor,
	runId: string,
	input: NodeHistoryInput = {},
): Promise<NodePage> {
	const limit = Math.min(Math.max(Math.trunc(input.limit ?? 100), 1), 1000)
	const after = input.cursor === undefined ? [] : decodeCursor(input.cursor, ['text', 'text', 'text'])
	const rows = await query(
		db,
		`select n.node_id as "nodeId", n.generation, n.recovers, n.state, n.attempt, n.crashes, n.action, n.error,
			n.dead_letter as "deadLetter", n.child_run_id as "childRunId",
			case when n.state = 'waiting' then flowcraft_jsonb(n.wait) ->> 'reason' end as "waitReason",
			${isoColumn('n.created_at')} as "createdAt", ${isoColumn('n.finished_at')} as "finishedAt", ${isoColumn('n.due_at')} as "dueAt",
			case when ${WAS_CLAIMED} then n.worker_id::text end as "workerId",
			case when ${WAS_CLAIMED} then ${isoColumn('n.claimed_at')} end as "claimedAt",
			case when n.state = 'ready' then ${isoColumn('n.unrunnable_since')} end as "unrunnableSince",
			${input.withOutput === true ? 'n.output' : 'null'} as output,
			(select json_agg(json_build_object('attempt', a.attempt, 'outcome', a.outcome, 'error', a.error, 'workerId', a.worker_id,
					'claimedAt', ${isoColumn('a.claimed_at')}, 'recordedAt', ${isoColumn('a.recorded_at')}) order by a.recorded_at, a.id)
				from flowcraft_attempts a where a.run_id = n.run_id and a.node_id = n.node_id
					and a.generation = n.generation and a.recovers = n.recovers)::text as attempts
		from flowcraft_nodes n
		where n.run_id = $1::text
			${after.length === 0 ? '' : 'and (n.node_id, n.generation, n.recovers) > ($2::text collate "C", $3::text collate "C", $4::text collate "C")'}
		order by n.node_id, n.generation, n.recovers limit ${limit + 1}`,
		[runId, ...after],
	)
	if (rows.length === 0 && (await readStatus(db, runId)) === undefined)
		throw new NotFoundError(`There is no run '${runId}'.`)
	const page = rows.slice(0, limit)
	const last = page.at(-1)
	return {
		nodes: page.map(nodeRun),
		...(rows.length > limit && last !== undefined
			? {
					nextCursor: encodeCursor([
						String(last['nodeId']),
						String(last['generation']),
						String(last['recovers']),
					]),
				}
			: {}),
	}
}

interface AttemptRow extends Row {
	readonly attempt: number
	readonly outcome: SupersededAttempt['outcome']
	readonly error: string | null
	readonly recordedAt: string
}

function nodeRun(row: Row): NodeRun {
	const recovers = recoveredBy(String(row['recovers']))
	const attempts = typeof row['attempts'] === 'string' ? (JSON.parse(row['attempts']) as AttemptRow[]) : []
	return {
		nodeId: String(row['nodeId']),
		generation: showGeneration(String(row['generation'])),
		...(recovers.length === 0 ? {} : { recovers }),
		state: row['state'] as NodeState,
		attempt: Number(row['attempt']),
		crashes: Number(row['crashes']),
		createdAt: String(row['createdAt']),
		...texts(
			row,
			'workerId',
			'claimedAt',
			'finishedAt',
			'dueAt',
			'action',
			'deadLetter',
			'waitReason',
			'childRunId',
			'unrunnableSince',
		),
		...errorOf(row['error']),
		attempts: attempts.map((attempt) => ({
			attempt: attempt.attempt,
			outcome: attempt.outcome,
			...errorOf(attempt.error),
			...texts(attempt, 'workerId', 'claimedAt'),
			recordedAt: attempt.recordedAt,
		})),
		...(typeof row['output'] === 'string' ? { outputJson: row['output'] } : {}),
	}
}

/** Those of the columns that have a text. */
function texts<K extends string>(row: Row, ...names: readonly K[]): Partial<Record<K, string>> {
	return Object.fromEntries(
		names.flatMap((name) => (typeof row[name] === 'string' ? [[name, row[name]]] : [])),
	) as Partial<Record<K, string>>
}

/** A stored error, if there is one. */
export function errorOf(stored: unknown): { error?: ErrorDetails } {
	return typeof stored === 'string'
		? { error: { message: 'Unknown error', ...(JSON.parse(stored) as Partial<ErrorDetails>) } }
		: {}
}

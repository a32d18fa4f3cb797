/**
 * Claims: how a node becomes `running`, unless the commit that makes it ready has claimed it. `src/db/sql/40_claim.sql`
 * decides.
 */
import { type Executor, query, textArray } from '../db/query.js'
import type { RunStatus } from '../db/schema.js'
import type { NodeKey } from '../plan/node-key.js'

/** What a claimed node's execution needs. Texts of values are as the codec wrote them. */
export interface ClaimedNode {
	readonly key: NodeKey
	/** Only its holder may finish the node. */
	readonly token: string
	/** 1-based. */
	readonly attempt: number
	/** How often a worker died with this node in hand. */
	readonly crashes: number
	/** For how long workers have been giving it back for want of an implementation, in ms; null if none has. */
	readonly unrunnableMs: number | null
	/** Why it goes on instead of beginning: its timer fired, it was resumed, its child ended. */
	readonly wake: 'timer' | 'resume' | 'child' | null
	/** What it waited for, JSON object. */
	readonly wait: string | null
	/** What it was resumed with, JSON object. */
	readonly resume: string | null
	/** Whether an edge brought an input, and whether the edge transformed it. */
	readonly hasInput: boolean
	readonly transformed: boolean
	readonly input: string | null
	/** What the run's context holds as the input of a node of its first turn that no edge brought one; undefined: ask. */
	readonly given?: string | null
	readonly child: {
		readonly runId: string
		readonly status: RunStatus
		readonly reason: string | null
	} | null
	readonly blueprintId: string
	readonly blueprintHash: string
	/** How deep the run is nested in parents. */
	readonly depth: number
	readonly traceparent: string | null
	/** Of a node that the blueprint does not have, JSON object. */
	readonly dynamic: string | null
}

/**
 * - `claimed`: this worker's, until it finishes it, gives it back or dies.
 * - `held`: another worker's. `early`: not due yet. `paused`: its run is. `done`: nothing left to do.
 * In each of these cases the message has served its purpose.
 * - `no_lease`: this worker may claim nothing now; the message must go back to the broker.
 */
export type ClaimOutcome =
	| { readonly status: 'claimed'; readonly node: ClaimedNode }
	| { readonly status: 'held' | 'early' | 'paused' | 'done' | 'no_lease' }

interface ClaimRow extends Record<string, unknown> {
	ix: number
	outcome: ClaimOutcome['status']
	attempt: number
	crashes: number
	unrunnable_ms: string | null
	wake: ClaimedNode['wake']
	wait: string | null
	resume: string | null
	has_input: boolean
	transformed: boolean
	input: string | null
	child_run_id: string | null
	child_status: RunStatus | null
	child_reason: string | null
	blueprint_id: string
	blueprint_hash: string
	depth: number
	traceparent: string | null
	dynamic: string | null
	given: string | null
}

/**
 * Claims any number of jobs in one statement. Outcomes come in the order of `keys`.
 * @param tokens a new one for each claim; the same again where the answer to it was lost
 */
export async function claimNodes(
	db: Executor,
	workerId: string,
	keys: readonly NodeKey[],
	tokens: readonly string[] = keys.map(() => crypto.randomUUID()),
): Promise<ClaimOutcome[]> {
	const rows = await query<ClaimRow>(
		db,
		`select * from flowcraft_claim($1::text::uuid, $2::text::text[], $3::text::text[], $4::text::text[], $5::text::text[],
			$6::text::uuid[])`,
		[
			workerId,
			textArray(keys.map((key) => key.runId)),
			textArray(keys.map((key) => key.nodeId)),
			textArray(keys.map((key) => key.generation)),
			textArray(keys.map((key) => key.recovers)),
			textArray(tokens),
		],
	)
	if (rows.length !== keys.length)
		throw new Error(`A claim of ${keys.length} nodes was answered for ${rows.length}`)
	const outcomes: ClaimOutcome[] = []
	for (const row of rows) {
		const position = row.ix - 1
		outcomes[position] =
			row.outcome === 'claimed'
				? {
						status: 'claimed',
						node: claimedNode(keys[position] as NodeKey, tokens[position] as string, row),
					}
				: { status: row.outcome }
	}
	return outcomes
}

function claimedNode(key: NodeKey, token: string, row: ClaimRow): ClaimedNode {
	return {
		key,
		token,
		attempt: row.attempt,
		crashes: row.crashes,
		unrunnableMs: row.unrunnable_ms === null ? null : Number(row.unrunnable_ms),
		wake: row.wake,
		wait: row.wait,
		resume: row.resume,
		hasInput: row.has_input,
		transformed: row.transformed,
		input: row.input,
		// Elsewhere an earlier turn, or the node in another role, may have had one.
		...(row.has_input || key.generation !== '' || key.recovers !== '' ? {} : { given: row.given }),
		child:
			row.child_run_id !== null && row.child_status !== null
				? { runId: row.child_run_id, status: row.child_status, reason: row.child_reason }
				: null,
		blueprintId: row.blueprint_id,
		blueprintHash: row.blueprint_hash,
		depth: row.depth,
		traceparent: row.traceparent,
		dynamic: row.dynamic,
	}
}

/**
 * What has become of a claim.
 * - `held`: its holder may finish the node.
 * - `repeated`: it has finished the node already.
 * - `lost`: it is somebody else's by now, or the run has ended.
 */
export interface ClaimLook {
	readonly status: 'held' | 'repeated' | 'lost'
	/** The transaction that looked, and the server's process that it runs in. */
	readonly transaction: string
	readonly backend: number
}

/** Looks without a lock: only the commit itself is a fence. */
export async function lookAtClaim(db: Executor, key: NodeKey, token: string): Promise<ClaimLook> {
	const [look] = await query<{ status: ClaimLook['status']; transaction: string; backend: number }>(
		db,
		`select pg_current_xact_id()::text as transaction, pg_backend_pid() as backend, coalesce((
			select case
				when n.claim_token is distinct from $5::text::uuid then 'lost'
				when n.state = 'running' and s.finished_at is null then 'held'
				when n.state in ('running', 'cancelled') then 'lost'
				else 'repeated'
			end
			from flowcraft_nodes n join flowcraft_statuses s on s.run_id = n.run_id
			where n.run_id = $1::text and n.node_id = $2::text and n.generation = $3::text and n.recovers = $4::text
		), 'lost') as status`,
		[key.runId, key.nodeId, key.generation, key.recovers, token],
	)
	if (look === undefined) throw new Error('The look at a claim answered nothing')
	return look
}

/** A claim that is given back, to be tried again after `delayMs`, by whoever can. */
export interface ReleasedClaim {
	readonly key: NodeKey
	readonly token: string
	readonly delayMs: number
}

/**
 * Gives claims back, unfinished: neither an attempt nor a crash. Returns how many were still held.
 * @param unrunnable this worker has no implementation for them
 */
export async function releaseNodes(
	db: Executor,
	claims: readonly ReleasedClaim[],
	unrunnable = false,
): Promise<number> {
	const [row] = await query<{ released: number }>(
		db,
		`select flowcraft_release($1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[], $5::text::uuid[],
			$6::text::bigint[], $7::boolean) as released`,
		[
			textArray(claims.map(({ key }) => key.runId)),
			textArray(claims.map(({ key }) => key.nodeId)),
			textArray(claims.map(({ key }) => key.generation)),
			textArray(claims.map(({ key }) => key.recovers)),
			textArray(claims.map(({ token }) => token)),
			textArray(claims.map(({ delayMs }) => Math.round(delayMs))),
			unrunnable,
		],
	)
	return row?.released ?? 0
}

/**
 * What stands in this worker's name, claimed longer than `olderThanMs` ago. Whoever does not have it in hand has to give
 * it back: the answer to a claim may be lost for good, a release may fail, and while the worker lives no sweep takes it away.
 */
export async function heldNodes(
	db: Executor,
	workerId: string,
	olderThanMs: number,
): Promise<{ key: NodeKey; token: string }[]> {
	const rows = await query<{
		run_id: string
		node_id: string
		generation: string
		recovers: string
		claim_token: string
	}>(
		db,
		`select run_id, node_id, generation, recovers, claim_token::text as claim_token from flowcraft_nodes
		where worker_id = $1::text::uuid and state = 'running'
			and claimed_at < clock_timestamp() - $2::bigint * interval '1 millisecond'`,
		[workerId, Math.round(olderThanMs)],
	)
	return rows.map((row) => ({
		key: { runId: row.run_id, nodeId: row.node_id, generation: row.generation, recovers: row.recovers },
		token: row.claim_token,
	}))
}

/** Of these runs, those that have ended, by cancel or otherwise: their nodes should stop. */
export async function endedRuns(db: Executor, runIds: readonly string[]): Promise<string[]> {
	const rows = await query<{ run_id: string }>(
		db,
		`select s.run_id from unnest($1::text::text[]) as asked(run_id) cross join lateral (
			select s.run_id, s.finished_at from flowcraft_statuses s where s.run_id = asked.run_id offset 0
		) as s
		where s.finished_at is not null`,
		[textArray(runIds)],
	)
	return rows.map((row) => row.run_id)
}

/** The outbox as a relay sees it: take due rows for a while, then say what became of them. */
import { type Executor, query, textArray } from '../db/query.js'
import type { NodeState } from '../db/schema.js'
import type { NodeKey } from '../plan/node-key.js'

export interface OutboxRow {
	readonly id: string
	/** Stable over republication. */
	readonly messageId: string
	readonly kind: 'job' | 'event' | 'child'
	readonly key: NodeKey
	readonly blueprintId: string
	/** Null: the deployment's default queue. */
	readonly queue: string | null
	readonly priority: number | null
	readonly exchange: string | null
	readonly routingKey: string | null
	readonly payload: string | null
	/** JSON object of texts. */
	readonly headers: string | null
	readonly traceparent: string | null
	/** Publications of this row that failed. */
	readonly failures: number
	/** A relay took it before and never said what became of it; then `nodeState` is its node's. */
	readonly reclaimed: boolean
	readonly nodeState: NodeState | null
}

interface OutboxRecord extends Record<string, unknown> {
	id: string
	message_id: string
	kind: OutboxRow['kind']
	run_id: string
	node_id: string
	generation: string
	recovers: string
	blueprint_id: string
	queue: string | null
	priority: number | null
	exchange: string | null
	routing_key: string | null
	payload: string | null
	headers: string | null
	traceparent: string | null
	failures: number
	reclaimed: boolean
	node_state: NodeState | null
}

/** Business events, or everything else: the two never wait for each other. */
export type OutboxLane = 'jobs' | 'events'

/** Takes up to `limit` due rows, oldest first, for `claimMs`; rows that other relays hold are skipped. */
export async function takeOutbox(
	db: Executor,
	token: string,
	limit: number,
	claimMs: number,
	lane: OutboxLane = 'jobs',
): Promise<OutboxRow[]> {
	const rows = await query<OutboxRecord>(
		db,
		'select * from flowcraft_take_outbox($1::text::uuid, $2::int, $3::bigint, $4::boolean)',
		[token, limit, claimMs, lane === 'events'],
	)
	return rows.map((row) => ({
		id: row.id,
		messageId: row.message_id,
		kind: row.kind,
		key: { runId: row.run_id, nodeId: row.node_id, generation: row.generation, recovers: row.recovers },
		blueprintId: row.blueprint_id,
		queue: row.queue,
		priority: row.priority,
		exchange: row.exchange,
		routingKey: row.routing_key,
		payload: row.payload,
		headers: row.headers,
		traceparent: row.traceparent,
		failures: row.failures,
		reclaimed: row.reclaimed,
		nodeState: row.node_state,
	}))
}

export interface FailedPublication {
	readonly id: string
	readonly delayMs: number
	readonly error: string
}

/** Deletes what is done and lets the rest come back later. Rows that another relay has taken since are left alone. */
export async function settleOutbox(
	db: Executor,
	token: string,
	done: readonly string[],
	failed: readonly FailedPublication[],
): Promise<void> {
	await query(
		db,
		`select flowcraft_settle_outbox($1::text::uuid, $2::text::bigint[], $3::text::bigint[], $4::text::bigint[], $5::text::text[])`,
		[
			token,
			textArray(done),
			textArray(failed.map(({ id }) => id)),
			textArray(failed.map(({ delayMs }) => Math.round(delayMs))),
			textArray(failed.map(({ error }) => error.replaceAll('\u0000', '').slice(0, 1000))),
		],
	)
}

/** Brings a parent's counters in line with what its child is now. */
export async function refreshChild(db: Executor, key: NodeKey): Promise<void> {
	await query(db, 'select flowcraft_refresh_child($1::text, $2::text, $3::text, $4::text)', [
		key.runId,
		key.nodeId,
		key.generation,
		key.recovers,
	])
}

/**
 * What becomes of outbox rows: messages for the broker, or a parent that is brought in line with its child; and then,
 * by what the broker said, no row any more, or one that comes back later.
 */
import { withDeadline } from '../../src/db/errors.js'
import type { Executor } from '../../src/db/query.js'
import { withJitter } from '../../src/loop.js'
import { writeJob } from '../../src/outbox/message.js'
import {
	type FailedPublication,
	type OutboxLane,
	type OutboxRow,
	refreshChild,
	settleOutbox,
} from '../../src/outbox/outbox.js'
import type { Broker, OutboundMessage, PublishOutcome } from '../../src/ports/broker.js'
import type { Logger } from '../../src/ports/logger.js'

/** Rows that are this relay's for a while. */
export interface Batch {
	readonly lane: OutboxLane
	readonly token: string
	readonly rows: readonly OutboxRow[]
	/** There may be more. */
	readonly isFull: boolean
}

export interface PublicationCounts {
	published: number
	failed: number
	unroutable: number
	/** Of these, business events. */
	eventsPublished: number
	/** Times that a business event was not published: its exchange is missing, nobody has bound a queue, … */
	eventsFailed: number
	/** Rows whose relay died, but whose message a worker had all the same. */
	alreadyDelivered: number
}

export interface PublicationOptions {
	readonly db: Executor
	readonly broker: Broker
	readonly logger: Logger
	/** Where jobs go that name no queue of their own. */
	readonly queue: string
	/** Counted in here. */
	readonly counts: PublicationCounts
}

/** What has become of the rows of a batch, so far. */
interface Verdicts {
	readonly done: string[]
	readonly failed: FailedPublication[]
}

const SETTLE_DEADLINE_MS = 15_000
const REFRESH_DEADLINE_MS = 15_000
/** Parents that are brought in line with their children at once, and how many of them are settled together. */
const REFRESHES_AT_ONCE = 3
const REFRESHES_PER_SETTLE = 20
/** Before a message that failed is published again, doubled with each failure, in ms. */
const MIN_BACKOFF_MS = 250
const MAX_BACKOFF_MS = 60_000
/** States in which a node's message has something to do; in any other it is old news. */
const WANTS_MESSAGE: ReadonlySet<string> = new Set(['ready', 'waiting', 'child'])

/** Returns what does a batch, and resolves when the outbox knows what has become of each row. */
export function createPublication(options: PublicationOptions): (batch: Batch) => Promise<void> {
	const { db, broker, logger, queue, counts } = options

	/** Messages do not wait for parents, nor these for them. */
	async function deliver(batch: Batch): Promise<void> {
		const children = batch.rows.filter(({ kind }) => kind === 'child')
		await Promise.all([
			publish(
				batch,
				batch.rows.filter(({ kind }) => kind !== 'child'),
			),
			...Array.from({ length: Math.min(REFRESHES_AT_ONCE, children.length) }, (_, first) =>
				refreshEach(
					batch,
					children.filter((_row, position) => position % REFRESHES_AT_ONCE === first),
				),
			),
		])
	}

	async function publish(batch: Batch, rows: readonly OutboxRow[]): Promise<void> {
		if (rows.length === 0) return
		const verdicts: Verdicts = { done: [], failed: [] }
		const toPublish: OutboxRow[] = []
		for (const row of rows) {
			if (row.kind === 'job' && row.reclaimed && !WANTS_MESSAGE.has(row.nodeState ?? '')) {
				counts.alreadyDelivered += 1
				verdicts.done.push(row.id)
			} else {
				toPublish.push(row)
			}
		}
		const outcomes =
			toPublish.length === 0 ? [] : await broker.publish(toPublish.map((row) => messageOf(row, queue)))
		toPublish.forEach((row, position) => judge(row, outcomes[position], verdicts))
		if (batch.lane === 'events') warnOfEvents(rows, verdicts.failed)
		await settle(batch, verdicts)
	}

	/** Settles as it goes: what takes longer than the claim is taken again, and done twice. */
	async function refreshEach(batch: Batch, rows: readonly OutboxRow[]): Promise<void> {
		for (let from = 0; from < rows.length; from += REFRESHES_PER_SETTLE) {
			const verdicts: Verdicts = { done: [], failed: [] }
			for (const row of rows.slice(from, from + REFRESHES_PER_SETTLE))
				judge(row, await refresh(row), verdicts)
			await settle(batch, verdicts)
		}
	}

	/** Nothing to publish: the parent's counters follow its child. What fails comes back later, as a message does. */
	async function refresh(row: OutboxRow): Promise<PublishOutcome> {
		try {
			await withDeadline('Refreshing a child', REFRESH_DEADLINE_MS, refreshChild(db, row.key))
			return { status: 'confirmed' }
		} catch (error) {
			return { status: 'failed', reason: error instanceof Error ? error.message : String(error) }
		}
	}

	function judge(row: OutboxRow, outcome: PublishOutcome | undefined, { done, failed }: Verdicts): void {
		if (outcome?.status === 'confirmed') {
			if (row.kind !== 'child') counts.published += 1
			if (row.kind === 'event') counts.eventsPublished += 1
			done.push(row.id)
			return
		}
		const reason = outcome?.reason ?? 'the broker gave no answer'
		counts[outcome?.status === 'unroutable' ? 'unroutable' : 'failed'] += 1
		const delayMs = withJitter(Math.min(MIN_BACKOFF_MS * 2 ** Math.min(row.failures, 20), MAX_BACKOFF_MS))
		failed.push({ id: row.id, delayMs, error: `${outcome?.status ?? 'failed'}: ${reason}` })
		if (row.kind === 'event') {
			counts.eventsFailed += 1
			return
		}
		logger.warn('A message was not published', {
			...row.key,
			messageId: row.messageId,
			failures: row.failures + 1,
			reason,
		})
	}

	const settle = ({ token }: Batch, { done, failed }: Verdicts): Promise<void> =>
		withDeadline('Settling outbox rows', SETTLE_DEADLINE_MS, settleOutbox(db, token, done, failed))

	/** One line per exchange: a missing one may hold up thousands. */
	function warnOfEvents(rows: readonly OutboxRow[], failed: readonly FailedPublication[]): void {
		const errors = new Map(failed.map(({ id, error }) => [id, error]))
		const exchanges = new Map<string, OutboxRow[]>()
		for (const row of rows.filter(({ id }) => errors.has(id))) {
			const exchange = row.exchange ?? ''
			exchanges.set(exchange, [...(exchanges.get(exchange) ?? []), row])
		}
		for (const [exchange, [first, ...others]] of exchanges) {
			if (first === undefined) continue
			logger.warn('Business events were not published; they wait in the outbox', {
				exchange,
				routingKey: first.routingKey,
				events: others.length + 1,
				messageId: first.messageId,
				...first.key,
				failures: first.failures + 1,
				reason: errors.get(first.id),
			})
		}
	}

	return deliver
}

function messageOf(row: OutboxRow, defaultQueue: string): OutboundMessage {
	const { messageId } = row
	const headers = headersOf(row)
	const priority = row.priority ?? undefined
	return row.kind === 'event'
		? {
				messageId,
				exchange: row.exchange ?? '',
				routingKey: row.routingKey ?? '',
				body: row.payload ?? '',
				headers,
				priority,
			}
		: { messageId, routingKey: row.queue ?? defaultQueue, body: writeJob(row), headers, priority }
}

function headersOf({ headers, traceparent }: OutboxRow): Record<string, string> | undefined {
	if (headers === null) return traceparent === null ? undefined : { traceparent }
	const own = JSON.parse(headers) as Record<string, string>
	if (traceparent !== null) return { ...own, traceparent }
	return Object.keys(own).length === 0 ? undefined : own
}

/**
 * The relay: drains the outbox to the broker, and sweeps up after whoever died. Any number of relays may run; they
 * share the work row by row.
 *
 * Publication is at least once, under a stable message id: a row is deleted only after the broker has confirmed its
 * message, so a relay that dies in between publishes it again, and the second message dies at the claim.
 */
import { withDeadline } from '../../src/db/errors.js'
import type { Executor } from '../../src/db/query.js'
import { type Loop, runLoop, withJitter } from '../../src/loop.js'
import { readNotice } from '../../src/outbox/notice.js'
import { writeJob } from '../../src/outbox/message.js'
import {
	type FailedPublication,
	type OutboxLane,
	type OutboxRow,
	refreshChild,
	settleOutbox,
	takeOutbox,
} from '../../src/outbox/outbox.js'
import type { Broker, OutboundMessage, PublishOutcome } from '../../src/ports/broker.js'
import type { Doorbell } from '../../src/ports/doorbell.js'
import type { Logger } from '../../src/ports/logger.js'
import { createAlarm } from './alarm.js'
import { createSweep, type SweepReport } from './sweep.js'

export interface RelayOptions {
	/** postgres.js or Drizzle; the relay needs at most four connections at once. */
	readonly db: Executor
	readonly broker: Broker
	readonly doorbell: Doorbell
	readonly logger: Logger
	/** Of the database, for a connection of its own by which an idle relay is woken. Default: it only looks by itself. */
	readonly databaseUrl?: string
	/** Where jobs go that name no queue of their own. Default `flowcraft-jobs`. */
	readonly queue?: string
	/** Grace before a message counts as lost, in ms. Default 30000. */
	readonly stalledMs?: number
	/** How often to sweep, in ms. Default 1000. */
	readonly sweepEveryMs?: number
	/** Rows per tick at most. Default 1000. */
	readonly batchSize?: number
	/** How long a row is this relay's; after that another one takes it. In ms, default 10000. */
	readonly claimMs?: number
	/**
	 * Pause between looks at an idle outbox, in ms: begins at the first, doubles up to the second. Default 20 and 80, for
	 * business events 200.
	 */
	readonly minPollMs?: number
	readonly maxPollMs?: number
}

export interface Relay {
	/** One round of each lane: takes what is due, publishes it, settles it. Returns how many rows it took. */
	tick(): Promise<number>
	/** One round of the sweep. */
	sweep(): Promise<SweepReport>
	/** Runs both until stopped. */
	start(): void
	/** Lets the running rounds end. Idempotent. */
	stop(): Promise<void>
	counts(): Readonly<RelayCounts>
}

export interface RelayCounts {
	published: number
	failed: number
	unroutable: number
	/** Of these, business events. */
	eventsPublished: number
	/** Times that a business event was not published: its exchange is missing, nobody has bound a queue, … */
	eventsFailed: number
	/** Rows whose relay died, but whose message a worker had all the same. */
	alreadyDelivered: number
	recovered: number
	reemitted: number
	repaired: number
}

/** Rows that are this relay's for a while. */
interface Batch {
	readonly lane: OutboxLane
	/** Null: nobody's, since a start has told of them. Another relay may take them too, and publish them once more. */
	readonly token: string | null
	readonly rows: readonly OutboxRow[]
	/** There may be more. */
	readonly isFull: boolean
}

const QUERY_DEADLINE_MS = 15_000
/** Parents that are brought in line with their children at once, and how many of them are settled together. */
const REFRESHES_AT_ONCE = 3
const REFRESHES_PER_SETTLE = 20
/** Full batches of a lane on their way to the broker at once. */
const MAX_BATCHES_UNDER_WAY = 3
/** Pauses between looks at an idle outbox grow to these, in ms. */
const MAX_JOBS_POLL_MS = 80
const MAX_EVENTS_POLL_MS = 200
/** Business events at once: their bodies are not ours, and may be large. */
const MAX_EVENT_BATCH = 50
/** While Postgres is away rounds fail; when it is back, its nodes and messages have waited long enough. */
const MAX_ERROR_PAUSE_MS = 1_000
const MIN_BACKOFF_MS = 250
const MAX_BACKOFF_MS = 60_000
/** States in which a node's message has something to do; in any other it is old news. */
const WANTS_MESSAGE: ReadonlySet<string> = new Set(['ready', 'waiting', 'child'])

export function createRelay(options: RelayOptions): Relay {
	const { db, broker, doorbell, logger } = options
	const queue = options.queue ?? 'flowcraft-jobs'
	const batchSize = options.batchSize ?? 1_000
	const claimMs = options.claimMs ?? 10_000
	const counts: RelayCounts = {
		published: 0,
		failed: 0,
		unroutable: 0,
		eventsPublished: 0,
		eventsFailed: 0,
		alreadyDelivered: 0,
		recovered: 0,
		reemitted: 0,
		repaired: 0,
	}
	const sweep = createSweep({ db, broker, logger, queue, stalledMs: options.stalledMs ?? 30_000 })
	let wakeJobs = (): void => {}
	const alarm =
		options.databaseUrl === undefined
			? undefined
			: createAlarm({
					databaseUrl: options.databaseUrl,
					onWake: (notice) => {
						if (isAtWork) disarm()
						// A look that is under way may have found them.
						else if (!isLooking) noticed.push(...readNotice(notice))
						wakeJobs()
					},
					onLost: () => (isArmed = false),
					logger,
				})
	let isArmed = false
	let isLooking = false
	/** The last look found something, which is being done. */
	let isAtWork = false
	/** Of starts that have woken this relay. */
	let noticed: OutboxRow[] = []
	/** Not waited for: it may take seconds to find that there is none. */
	let arming: Promise<void> | undefined
	let loops: Loop[] = []
	let stopListening: (() => void) | undefined

	/**
	 * Jobs and business events go separate ways: a round waits for all its verdicts, and those of the user's exchanges may
	 * be long in coming.
	 */
	async function tick(lane: OutboxLane): Promise<number> {
		const batch = await take(lane)
		await deliver(batch)
		return batch.rows.length
	}

	async function take(lane: OutboxLane): Promise<Batch> {
		const token = crypto.randomUUID()
		// Without a broker nothing is taken: rows would only wait with us instead of in the outbox.
		if (!broker.isConnected()) return { lane, token, rows: [], isFull: false }
		const rows = await withDeadline(
			'Taking outbox rows',
			QUERY_DEADLINE_MS,
			takeOutbox(db, token, batchSizeOf(lane), claimMs, lane),
		)
		return { lane, token, rows, isFull: rows.length >= batchSizeOf(lane) }
	}

	const batchSizeOf = (lane: OutboxLane): number =>
		lane === 'events' ? Math.min(batchSize, MAX_EVENT_BATCH) : batchSize

	/** Does what was taken and says what became of it. Messages do not wait for parents, nor these for them. */
	async function deliver({ lane, token, rows }: Batch): Promise<void> {
		const children = rows.filter(({ kind }) => kind === 'child')
		await Promise.all([
			publish(
				lane,
				token,
				rows.filter(({ kind }) => kind !== 'child'),
			),
			...Array.from({ length: Math.min(REFRESHES_AT_ONCE, children.length) }, (_, first) =>
				refreshEach(
					token,
					children.filter((_row, position) => position % REFRESHES_AT_ONCE === first),
				),
			),
		])
	}

	async function publish(
		lane: OutboxLane,
		token: string | null,
		rows: readonly OutboxRow[],
	): Promise<void> {
		if (rows.length === 0) return
		const done: string[] = []
		const failed: FailedPublication[] = []
		const toPublish: OutboxRow[] = []
		for (const row of rows) {
			if (row.kind === 'job' && row.reclaimed && !WANTS_MESSAGE.has(row.nodeState ?? '')) {
				counts.alreadyDelivered += 1
				done.push(row.id)
			} else {
				toPublish.push(row)
			}
		}
		const outcomes =
			toPublish.length === 0 ? [] : await broker.publish(toPublish.map((row) => messageOf(row, queue)))
		toPublish.forEach((row, position) => settle(row, outcomes[position], done, failed))
		if (lane === 'events') warnOfEvents(rows, failed)
		await withDeadline('Settling outbox rows', QUERY_DEADLINE_MS, settleOutbox(db, token, done, failed))
	}

	/** Settles as it goes: what takes longer than the claim is taken again, and done twice. */
	async function refreshEach(token: string | null, rows: readonly OutboxRow[]): Promise<void> {
		for (let from = 0; from < rows.length; from += REFRESHES_PER_SETTLE) {
			const done: string[] = []
			const failed: FailedPublication[] = []
			for (const row of rows.slice(from, from + REFRESHES_PER_SETTLE))
				settle(row, await refresh(row), done, failed)
			await withDeadline(
				'Settling outbox rows',
				QUERY_DEADLINE_MS,
				settleOutbox(db, token, done, failed),
			)
		}
	}

	/**
	 * Like `tick`, but while there are full batches the next one is taken before the last is published: Postgres, this
	 * process and RabbitMQ work at the same time.
	 */
	function pipelined(takeNext: () => Promise<Batch>): {
		tick: () => Promise<number>
		idle: () => Promise<unknown>
	} {
		const underWay = new Set<Promise<void>>()
		let taking: Promise<Batch> | undefined
		let failure: { readonly error: unknown } | undefined
		return {
			async tick() {
				while (underWay.size >= MAX_BATCHES_UNDER_WAY) await Promise.race(underWay)
				if (failure !== undefined) {
					const { error } = failure
					failure = undefined
					throw error
				}
				const next = taking ?? takeNext()
				taking = undefined
				const batch = await next
				if (!batch.isFull) {
					await deliver(batch)
				} else {
					taking = takeNext()
					// A failure is the next round's.
					taking.catch(() => {})
					// It is asked for at the end of the turn; publishing takes many milliseconds of this one.
					await new Promise(setImmediate)
					const settled = deliver(batch)
						.catch((error: unknown) => void (failure = { error }))
						.finally(() => underWay.delete(settled))
					underWay.add(settled)
				}
				return batch.rows.length
			},
			async idle() {
				// What has been taken is not left to wait for the end of its claim.
				const last = await taking?.catch(() => undefined)
				if (last !== undefined) await deliver(last).catch(() => {})
				await Promise.all(underWay)
			},
		}
	}

	/** What a start has told of, without looking. */
	function takeNoticed(): Batch | undefined {
		const rows = noticed
		noticed = []
		if (rows.length === 0 || !broker.isConnected()) return undefined
		return { lane: 'jobs', token: null, rows, isFull: false }
	}

	async function lookForJobs(): Promise<Batch> {
		isLooking = true
		try {
			return await take('jobs')
		} finally {
			isLooking = false
		}
	}

	/** With nothing to do the relay sleeps under its alarm, if it may have it. What wakes it at work takes that away. */
	async function takeOrArm(): Promise<Batch> {
		const batch = takeNoticed() ?? (await lookForJobs())
		isAtWork = batch.rows.length > 0
		if (alarm === undefined) return batch
		if (isArmed) {
			// Without a broker nothing could be done about what wakes it.
			if (!broker.isConnected()) disarm()
			return batch
		}
		if (batch.rows.length > 0 || !broker.isConnected()) return batch
		arming ??= alarm
			.arm()
			.then((armed) => {
				isArmed = armed
				// What came before the alarm was armed.
				if (armed) wakeJobs()
			})
			.finally(() => (arming = undefined))
		return batch
	}

	/** Not waited for: what is done with the alarm is done in order. */
	function disarm(): void {
		if (!isArmed) return
		isArmed = false
		void alarm?.disarm()
	}

	/** Nothing to publish: the parent's counters follow its child. What fails comes back later, as a message does. */
	async function refresh(row: OutboxRow): Promise<PublishOutcome> {
		try {
			await withDeadline('Refreshing a child', QUERY_DEADLINE_MS, refreshChild(db, row.key))
			return { status: 'confirmed' }
		} catch (error) {
			return { status: 'failed', reason: error instanceof Error ? error.message : String(error) }
		}
	}

	function settle(
		row: OutboxRow,
		outcome: PublishOutcome | undefined,
		done: string[],
		failed: FailedPublication[],
	): void {
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

	async function sweepOnce(): Promise<SweepReport> {
		const report = await sweep.tick()
		counts.recovered += report.recovered
		counts.reemitted += report.reemitted
		counts.repaired += report.repaired
		return report
	}

	const drainLane = (lane: OutboxLane, maxPollMs: number, takeNext: () => Promise<Batch>): Loop => {
		const { tick: drain, idle } = pipelined(takeNext)
		const loop = runLoop({
			tick: drain,
			minIdleMs: options.minPollMs ?? 20,
			maxIdleMs: options.maxPollMs ?? maxPollMs,
			maxErrorMs: MAX_ERROR_PAUSE_MS,
			onError: (error, failures) => {
				if (failures === 1 || failures % 20 === 0)
					logger.error('A relay round failed', { lane, error, failures })
			},
		})
		return {
			wake: () => loop.wake(),
			async stop() {
				await loop.stop()
				await idle()
			},
		}
	}

	return {
		async tick() {
			const [jobs, events] = await Promise.all([tick('jobs'), tick('events')])
			return jobs + events
		},
		sweep: sweepOnce,
		start() {
			const drain = drainLane('jobs', MAX_JOBS_POLL_MS, takeOrArm)
			const events = drainLane('events', MAX_EVENTS_POLL_MS, () => take('events'))
			const sweepEveryMs = options.sweepEveryMs ?? 1_000
			const sweeping = runLoop({
				tick: async () => {
					const { recovered, reemitted } = await sweepOnce()
					if (recovered + reemitted > 0) drain.wake()
					return 0
				},
				minIdleMs: sweepEveryMs,
				maxIdleMs: sweepEveryMs,
				maxErrorMs: MAX_ERROR_PAUSE_MS,
				onError: (error, failures) => {
					if (failures === 1 || failures % 20 === 0)
						logger.error('A sweep failed', { error, failures })
				},
			})
			loops = [drain, events, sweeping]
			wakeJobs = () => drain.wake()
			stopListening = doorbell.listen((ring) => {
				if (ring.type !== 'outbox') return
				drain.wake()
				events.wake()
			})
			logger.info('The relay runs', { queue })
		},
		async stop() {
			stopListening?.()
			const running = loops
			loops = []
			await Promise.all(running.map((loop) => loop.stop()))
			await arming
			await alarm?.close()
			if (running.length > 0) logger.info('The relay has stopped', { ...counts })
		},
		counts: () => counts,
	}
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

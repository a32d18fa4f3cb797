/**
 * The relay: drains the outbox to the broker, and sweeps up after whoever died. Any number of relays may run; they
 * share the work row by row.
 *
 * Publication is at least once, under a stable message id: a row is deleted only after the broker has confirmed its
 * message, so a relay that dies in between publishes it again, and the second message dies at the claim.
 */
import { withDeadline } from '../../src/db/errors.js'
import type { Executor } from '../../src/db/query.js'
import { type Loop, runLoop } from '../../src/loop.js'
import { type OutboxLane, takeOutbox } from '../../src/outbox/outbox.js'
import type { Broker } from '../../src/ports/broker.js'
import type { Doorbell } from '../../src/ports/doorbell.js'
import type { Logger } from '../../src/ports/logger.js'
import { createJobLooks, type JobLooks } from './job-looks.js'
import { createPipeline } from './pipeline.js'
import { type Batch, createPublication, type PublicationCounts } from './publication.js'
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

export interface RelayCounts extends PublicationCounts {
	recovered: number
	reemitted: number
	repaired: number
}

const TAKE_DEADLINE_MS = 15_000
/** Pauses between looks at an idle outbox grow to these, in ms. */
const MAX_JOBS_POLL_MS = 80
const MAX_EVENTS_POLL_MS = 200
/** Business events at once: their bodies are not ours, and may be large. */
const MAX_EVENT_BATCH = 50
/** While Postgres is away rounds fail; when it is back, its nodes and messages have waited long enough. */
const MAX_ERROR_PAUSE_MS = 1_000

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
	const deliver = createPublication({ db, broker, logger, queue, counts })
	let loops: Loop[] = []
	let looks: JobLooks | undefined
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
			TAKE_DEADLINE_MS,
			takeOutbox(db, token, batchSizeOf(lane), claimMs, lane),
		)
		return { lane, token, rows, isFull: rows.length >= batchSizeOf(lane) }
	}

	const batchSizeOf = (lane: OutboxLane): number =>
		lane === 'events' ? Math.min(batchSize, MAX_EVENT_BATCH) : batchSize

	async function sweepOnce(): Promise<SweepReport> {
		const report = await sweep.tick()
		counts.recovered += report.recovered
		counts.reemitted += report.reemitted
		counts.repaired += report.repaired
		return report
	}

	/** @param next what there is to do */
	const drainLane = (lane: OutboxLane, maxPollMs: number, next: () => Promise<Batch>): Loop => {
		const pipeline = createPipeline(next, deliver)
		const loop = runLoop({
			tick: pipeline.tick,
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
				await pipeline.idle()
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
			looks = createJobLooks({
				databaseUrl: options.databaseUrl,
				broker,
				logger,
				look: () => take('jobs'),
				deliver,
				wake: () => drain.wake(),
			})
			const drain = drainLane('jobs', MAX_JOBS_POLL_MS, looks.next)
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
			await looks?.close()
			if (running.length > 0) logger.info('The relay has stopped', { ...counts })
		},
		counts: () => counts,
	}
}

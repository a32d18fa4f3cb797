/**
 * The sweep: dead workers, lost messages, counters that do not agree, things kept for their time. Folded into the
 * relay, since both are the same promise: what is due gets done, whoever died meanwhile.
 */
import { withDeadline } from '../../src/db/errors.js'
import type { Executor } from '../../src/db/query.js'
import {
	databaseTime,
	sweepExpired,
	sweepGenerations,
	sweepLost,
	sweepRuns,
	sweepWorkers,
} from '../../src/outbox/sweep.js'
import type { Broker } from '../../src/ports/broker.js'
import type { Logger } from '../../src/ports/logger.js'

export interface SweepOptions {
	readonly db: Executor
	readonly broker: Broker
	readonly logger: Logger
	readonly queue: string
	/** Grace before a message counts as lost, in ms. */
	readonly stalledMs: number
}

export interface SweepReport {
	/** Workers declared dead. */
	readonly buried: number
	/** Nodes taken from dead or stopped workers. */
	readonly recovered: number
	/** Nodes emitted again, since their message was lost. */
	readonly reemitted: number
	/** Runs whose counters were wrong: defects of this software. */
	readonly repaired: number
}

export interface Sweep {
	tick(): Promise<SweepReport>
}

const QUERY_DEADLINE_MS = 30_000
/** A database that does not tell the time within so long takes no heartbeats either; in ms. */
const REACH_DEADLINE_MS = 5_000
/** From the first look that fails to the first that does not again: shorter than that, it was no outage. In ms. */
const MIN_OUTAGE_MS = 1_500
const MAX_ROWS = 500
/** Runs checked per tick: a whole round over 10,000 live runs takes under two minutes. */
const RUNS_PER_TICK = 100
/** A run that was changed more recently is left alone by the check; in ms. */
const QUIET_MS = 60_000
/** Every so many ticks, old turns of loops go: of so many runs, until so many nodes are gone. */
const GENERATIONS_EVERY_TICKS = 10
const GENERATION_RUNS = 500
const GENERATION_ROWS = 20_000
/** Turns of a loop whose history is kept, for each node in it, while the run is live. */
const KEEP_GENERATIONS = 100
/** Every so many ticks, what has been kept for its time goes. */
const EXPIRY_EVERY_TICKS = 60
/** Rows of workers that are gone are shown for so long, in ms. */
const KEEP_WORKERS_MS = 60 * 60_000

export function createSweep({ db, broker, logger, queue, stalledMs }: SweepOptions): Sweep {
	let ticks = 0
	let after = ''
	let afterGenerations = ''
	/** Since when looks have failed, by this process's clock; undefined: the last one has not. */
	let failingSince: number | undefined
	/** When it came within reach again, by its own clock; null: it was never out of it. */
	let reachedAt: string | null = null

	/** Whoever is cut off from the database hears of no heartbeat, and must not take silence for death afterwards. */
	async function reach(): Promise<void> {
		const askedAt = performance.now()
		try {
			const now = await withDeadline('Reaching Postgres', REACH_DEADLINE_MS, databaseTime(db))
			// One look that fails may be a connection that was cut, which keeps no heartbeat from landing.
			if (failingSince !== undefined && performance.now() - failingSince >= MIN_OUTAGE_MS)
				reachedAt = now
			failingSince = undefined
		} catch (error) {
			failingSince ??= askedAt
			throw error
		}
	}

	return {
		async tick() {
			await reach()
			const { buried, recovered } = await withDeadline(
				'Sweeping workers',
				QUERY_DEADLINE_MS,
				sweepWorkers(db, MAX_ROWS, reachedAt),
			)
			if (buried > 0 || recovered > 0)
				logger.warn('Dead workers were found, their nodes are ready again', {
					workers: buried,
					nodes: recovered,
				})

			// Unknown depth counts as a backlog: re-emitting into a broker that cannot be asked helps nobody.
			const depth = await broker.depth(queue)
			const reemitted = await withDeadline(
				'Sweeping lost messages',
				QUERY_DEADLINE_MS,
				sweepLost(db, stalledMs, depth === undefined || depth > 0, MAX_ROWS),
			)
			if (reemitted > 0) logger.warn('Lost messages were emitted again', { messages: reemitted })

			const { repaired, next } = await withDeadline(
				'Checking runs',
				QUERY_DEADLINE_MS,
				sweepRuns(db, after, RUNS_PER_TICK, QUIET_MS),
			)
			after = next ?? ''
			for (const runId of repaired)
				logger.error(
					'Defect: the counters of a run did not agree with its nodes and were set right',
					{ runId },
				)

			if (ticks % GENERATIONS_EVERY_TICKS === 0) {
				const swept = await withDeadline(
					'Deleting old turns of loops',
					QUERY_DEADLINE_MS,
					sweepGenerations(
						db,
						afterGenerations,
						GENERATION_RUNS,
						KEEP_GENERATIONS,
						GENERATION_ROWS,
					),
				)
				afterGenerations = swept.next ?? ''
				if (swept.deleted > 0)
					logger.debug('Old turns of loops were deleted', { nodes: swept.deleted })
			}

			if (ticks++ % EXPIRY_EVERY_TICKS === 0) {
				await withDeadline(
					'Deleting what has expired',
					QUERY_DEADLINE_MS,
					sweepExpired(db, KEEP_WORKERS_MS),
				)
			}
			return { buried, recovered, reemitted, repaired: repaired.length }
		},
	}
}

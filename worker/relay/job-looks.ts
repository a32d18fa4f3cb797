/**
 * A relay's looks for jobs, and how it sleeps between them: with nothing to do it arms its alarm, if it may have it, and
 * what wakes it while it is at work takes that away again, so that nobody notifies a relay that looks anyway. A start that
 * wakes it brings its rows, which are delivered before it looks.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { Notice } from '../../src/outbox/notice.js'
import type { Broker } from '../../src/ports/broker.js'
import type { Logger } from '../../src/ports/logger.js'
import { type Alarm, createAlarm } from './alarm.js'
import type { Batch } from './publication.js'

export interface JobLooksOptions {
	/** Of the database, for the alarm. Undefined: there is none. */
	readonly databaseUrl: string | undefined
	readonly broker: Pick<Broker, 'isConnected'>
	readonly logger: Logger
	readonly look: () => Promise<Batch>
	readonly deliver: (batch: Batch) => Promise<void>
	/** There is something to look for. */
	readonly wake: () => void
}

export interface JobLooks {
	/** What there is to do, perhaps nothing. */
	next(): Promise<Batch>
	/** Sleeps no more, and resolves when what was brought is delivered. */
	close(): Promise<void>
}

/** Starts that bring their rows at once; those of others are found when their claim has ended, after a second. */
const MAX_BROUGHT = 50
/** A start that was told that this relay sleeps takes a few milliseconds more. */
const LAST_NOTICES_MS = 50

export function createJobLooks(options: JobLooksOptions): JobLooks {
	const { databaseUrl, broker, logger, look, deliver, wake } = options
	const alarm: Alarm | undefined =
		databaseUrl === undefined
			? undefined
			: createAlarm({ databaseUrl, onWake, onLost: () => (isArmed = false), logger })
	let isArmed = false
	/** The last look found something, which is being done. */
	let isAtWork = false
	/** What starts have brought, on its way. */
	const brought = new Set<Promise<void>>()
	/** Not waited for: it may take seconds to find that there is none. */
	let arming: Promise<void> | undefined

	function onWake(notice?: Notice): void {
		if (isAtWork || brought.size > 0) disarm()
		if (notice === undefined || brought.size >= MAX_BROUGHT) return wake()
		const delivery = deliver({ lane: 'jobs', ...notice, isFull: false })
			// They come back when their claim has ended.
			.catch((error: unknown) => logger.warn('A start could not be delivered at once', { error }))
			.finally(() => {
				brought.delete(delivery)
				// Not before: on few cores a look would only be in the way.
				wake()
			})
		brought.add(delivery)
	}

	function arm(ours: Alarm): void {
		arming ??= ours
			.arm()
			.then((isDone) => {
				isArmed = isDone
				// What came before the alarm was armed.
				if (isDone) wake()
			})
			.finally(() => (arming = undefined))
	}

	/** Not waited for: what is done with the alarm is done in order. */
	function disarm(): void {
		if (!isArmed) return
		isArmed = false
		void alarm?.disarm()
	}

	return {
		async next() {
			const batch = await look()
			isAtWork = batch.rows.length > 0
			// Without a broker nothing could be done about what wakes it.
			if (!broker.isConnected()) disarm()
			else if (alarm !== undefined && !isArmed && !isAtWork) arm(alarm)
			return batch
		},
		async close() {
			await arming
			if (isArmed) {
				disarm()
				await delay(LAST_NOTICES_MS)
			}
			await alarm?.close()
			await Promise.all(brought)
		},
	}
}

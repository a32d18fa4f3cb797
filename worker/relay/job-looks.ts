/**
 * A relay's looks for jobs, and how it sleeps between them: with nothing to do it arms its alarm, if it may have it, and
 * what wakes it while it is at work takes that away again, so that nobody notifies a relay that looks anyway.
 *
 * The notification of a start brings rows that were taken for whoever sleeps. They are this relay's if it sleeps, or has
 * slept a moment ago: whoever was told that it does may commit a little later.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { readNotice } from '../../src/outbox/notice.js'
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
	/** There is something to look for. */
	readonly wake: () => void
}

export interface JobLooks {
	/** What there is to do, perhaps nothing. */
	next(): Promise<Batch>
	/** Sleeps no more. Returns what has been handed over since the last `next`. */
	close(): Promise<readonly Batch[]>
}

/** Rows are taken for a relay that sleeps for so long, in ms: then others take them. */
const HANDED_OVER_MS = 1_000
/** A start takes a few milliseconds. */
const LAST_NOTICES_MS = 50

export function createJobLooks({ databaseUrl, broker, logger, look, wake }: JobLooksOptions): JobLooks {
	const alarm: Alarm | undefined =
		databaseUrl === undefined
			? undefined
			: createAlarm({ databaseUrl, onWake, onLost: () => (isArmed = false), logger })
	let isArmed = false
	/** By `performance.now()`. */
	let disarmedAt = Number.NEGATIVE_INFINITY
	/** The last look found something, which is being done. */
	let isAtWork = false
	const handedOver: Batch[] = []
	/** Not waited for: it may take seconds to find that there is none. */
	let arming: Promise<void> | undefined

	function onWake(text: string): void {
		const isOurs = isArmed || arming !== undefined || performance.now() - disarmedAt < HANDED_OVER_MS
		if (isAtWork || handedOver.length > 0) disarm()
		const notice = isOurs ? readNotice(text) : undefined
		if (notice !== undefined) handedOver.push({ lane: 'jobs', ...notice, isFull: false })
		wake()
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
		disarmedAt = performance.now()
		void alarm?.disarm()
	}

	return {
		async next() {
			const batch = handedOver.shift() ?? (await look())
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
			return handedOver.splice(0)
		},
	}
}

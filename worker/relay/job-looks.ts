/**
 * A relay's looks for jobs, and how it sleeps between them: with nothing to do it arms its alarm, if it may have it, and
 * what wakes it while it is at work takes that away again, so that nobody notifies a relay that looks anyway. What a start
 * tells with its notification needs no look.
 */
import { readNotice } from '../../src/outbox/notice.js'
import type { OutboxRow } from '../../src/outbox/outbox.js'
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
	close(): Promise<void>
}

export function createJobLooks({ databaseUrl, broker, logger, look, wake }: JobLooksOptions): JobLooks {
	const alarm: Alarm | undefined =
		databaseUrl === undefined
			? undefined
			: createAlarm({ databaseUrl, onWake, onLost: () => (isArmed = false), logger })
	let isArmed = false
	let isLooking = false
	/** The last look found something, which is being done. */
	let isAtWork = false
	/** Rows of starts that have woken this relay. */
	let noticed: OutboxRow[] = []
	/** Not waited for: it may take seconds to find that there is none. */
	let arming: Promise<void> | undefined

	function onWake(notice: string): void {
		if (isAtWork) disarm()
		// A look that is under way may find them.
		else if (!isLooking) noticed.push(...readNotice(notice))
		wake()
	}

	function takeNoticed(): Batch | undefined {
		const rows = noticed
		noticed = []
		if (rows.length === 0 || !broker.isConnected()) return undefined
		return { lane: 'jobs', token: null, rows, isFull: false }
	}

	async function lookForJobs(): Promise<Batch> {
		isLooking = true
		try {
			return await look()
		} finally {
			isLooking = false
		}
	}

	function arm(armed: Alarm): void {
		arming ??= armed
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
			const batch = takeNoticed() ?? (await lookForJobs())
			isAtWork = batch.rows.length > 0
			// Without a broker nothing could be done about what wakes it.
			if (!broker.isConnected()) disarm()
			else if (alarm !== undefined && !isArmed && !isAtWork) arm(alarm)
			return batch
		},
		async close() {
			await arming
			await alarm?.close()
		},
	}
}

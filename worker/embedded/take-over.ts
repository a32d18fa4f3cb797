/**
 * What `npm start` finds in a folder that an earlier process has worked on. That one is gone, and its broker was in its
 * memory: nobody need wait until leases have passed and messages count as lost.
 */
import type { Executor } from '../../src/db/query.js'
import { buryAll, sweepLost, sweepWorkers } from '../../src/outbox/sweep.js'
import type { Logger } from '../../src/ports/logger.js'

const ROWS_AT_ONCE = 500

/** Makes everything that was under way due at once. To be called before a worker or a relay is started. */
export async function takeOver(db: Executor, logger: Logger): Promise<void> {
	await buryAll(db)
	const interrupted = await all(async () => (await sweepWorkers(db, ROWS_AT_ONCE)).recovered)
	const waiting = await all(() => sweepLost(db, 0, false, ROWS_AT_ONCE))
	if (interrupted + waiting > 0)
		logger.info('What an earlier process has left goes on', { interrupted, waiting })
}

async function all(sweepSome: () => Promise<number>): Promise<number> {
	let sum = 0
	for (let swept = await sweepSome(); swept > 0; swept = await sweepSome()) sum += swept
	return sum
}

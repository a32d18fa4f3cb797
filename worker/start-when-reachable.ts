import { classifyDatabaseError } from '../src/db/errors.js'
import { withJitter } from '../src/loop.js'
import type { Logger } from '../src/ports/logger.js'

const MIN_PAUSE_MS = 200
const MAX_PAUSE_MS = 5_000

/**
 * Starts something that needs Postgres, as often as it takes Postgres to answer: processes come up in any order.
 * @throws every other error at once, such as that of `expectSchema`
 */
export async function startWhenReachable(
	what: string,
	logger: Logger,
	start: () => Promise<void>,
): Promise<void> {
	for (let failures = 0; ; failures++) {
		try {
			return await start()
		} catch (error) {
			if (classifyDatabaseError(error) !== 'unavailable') throw error
			logger.warn('Postgres cannot be reached yet', { what, error })
			await new Promise((resolve) =>
				setTimeout(resolve, withJitter(Math.min(MIN_PAUSE_MS * 2 ** failures, MAX_PAUSE_MS))),
			)
		}
	}
}

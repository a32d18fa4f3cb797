/**
 * Asking again while Postgres is away. A node whose own reads fail because Postgres restarts has done nothing wrong: that
 * must neither count as an attempt nor end its run.
 */
import { withJitter } from '../loop.js'
import { classifyDatabaseError, withDeadline } from './errors.js'

/** Postgres did not come back in time. No fault of whoever needed it: the work is to be given back, not to fail. */
class DatabaseUnavailableError extends Error {
	constructor(what: string, ms: number, cause: unknown) {
		super(`${what}: Postgres has not answered for ${ms} ms`, { cause })
		this.name = 'DatabaseUnavailableError'
	}
}

export interface Patience {
	/** Give up after so long, in ms. Default 30000. */
	readonly maxMs?: number
	/** Ask again what was not answered for so long, in ms. Default 15000. */
	readonly deadlineMs?: number
}

const MIN_PAUSE_MS = 50
const MAX_PAUSE_MS = 1_000

/**
 * Asks until Postgres answers.
 * @param what for messages
 * @param ask may be repeated: a read, or a write that does no harm twice
 * @throws DatabaseUnavailableError; what `ask` throws for any other reason, at once
 */
export async function whileUnavailable<T>(
	what: string,
	ask: () => Promise<T>,
	{ maxMs = 30_000, deadlineMs = 15_000 }: Patience = {},
): Promise<T> {
	const begin = performance.now()
	for (let failures = 0; ; failures++) {
		try {
			return await withDeadline(what, deadlineMs, ask())
		} catch (error) {
			if (classifyDatabaseError(error) !== 'unavailable') throw error
			if (performance.now() - begin > maxMs) throw new DatabaseUnavailableError(what, maxMs, error)
			await new Promise((resolve) =>
				setTimeout(resolve, withJitter(Math.min(MIN_PAUSE_MS * 2 ** failures, MAX_PAUSE_MS))),
			)
		}
	}
}

/** Whether an error is a `DatabaseUnavailableError`, or was thrown because of one. */
export function isDatabaseUnavailable(error: unknown): boolean {
	for (
		let current = error, depth = 0;
		current instanceof Error && depth < 10;
		current = current.cause, depth++
	) {
		if (current instanceof DatabaseUnavailableError) return true
	}
	return false
}

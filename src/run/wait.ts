/** Waiting for a run's end, by polling: on Postgres alone, and without holding a connection meanwhile. */
import type { Executor } from '../db/query.js'
import { isTerminal, readRun, readStatus, type Run } from './read.js'

export interface WaitOptions {
	/** Give up after so long, in ms. */
	readonly timeoutMs: number
	/** Pause between looks, in ms: begins at the first and doubles up to the second. Default 25 and 500. */
	readonly minPollMs?: number
	readonly maxPollMs?: number
	readonly signal?: AbortSignal
	/** Calls back when something may have happened, to look earlier (a doorbell). Returns how to stop listening. */
	readonly onHint?: (look: () => void) => () => void
}

/**
 * The run, once it has ended or the time is over, whichever comes first; undefined for an unknown run.
 * @throws the signal's reason, when it is aborted
 */
export async function waitForRun(
	db: Executor,
	runId: string,
	options: WaitOptions,
): Promise<Run | undefined> {
	const { timeoutMs, minPollMs = 25, maxPollMs = 500, signal } = options
	const deadline = performance.now() + timeoutMs
	let pollMs = minPollMs
	let wake: (() => void) | undefined
	const stopListening = options.onHint?.(() => wake?.())
	try {
		for (;;) {
			signal?.throwIfAborted()
			const status = await readStatus(db, runId)
			const remainingMs = deadline - performance.now()
			// Not a number is no time at all.
			if (status === undefined || isTerminal(status) || !(remainingMs > 0)) break
			await new Promise<void>((resolve) => {
				const timer = setTimeout(resolve, Math.min(pollMs, remainingMs))
				wake = () => {
					clearTimeout(timer)
					resolve()
				}
				signal?.addEventListener('abort', wake, { once: true })
			})
			if (wake !== undefined) signal?.removeEventListener('abort', wake)
			pollMs = Math.min(pollMs * 1.5, maxPollMs)
		}
	} finally {
		stopListening?.()
	}
	return readRun(db, runId)
}

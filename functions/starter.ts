/**
 * Starts that come at the same time share a statement and a commit. The bounds are those of every other statement: so many
 * wait at most, and none that has waited too long is begun.
 */
import { createBatcher } from '../src/batcher.js'
import type { ValueCodec } from '../src/context/values.js'
import { isLockTimeout, withDeadline } from '../src/db/errors.js'
import type { Executor } from '../src/db/query.js'
import { startRun, startRuns, type StartedRun, type StartRunInput } from '../src/run/start.js'
import type { RequestDatabases } from './database.js'
import { HttpProblem } from './problem.js'

/** @param db the request's own; starts that share a statement have one of theirs */
export type StartRun = (db: Executor, input: StartRunInput) => Promise<StartedRun>

interface WaitingStart {
	readonly input: StartRunInput
	/** Nobody waits for it any more. */
	isAbandoned: boolean
}

/** Starts per batch at most. */
const MAX_BATCH = 50
/** How long a batch waits for a transaction that holds the key of one of its starts, in ms. */
const BATCH_PATIENCE_MS = 100
/** While one batch commits another one is collected and sent. */
const BATCHES_AT_ONCE = 2

export function createStarter({ shared }: RequestDatabases, codec: ValueCodec, deadlineMs: number): StartRun {
	// Where a connection belongs to one request there is nothing to share.
	if (shared === undefined) return (db, input) => startRun(db, input, codec)
	const { maxUnderWay, executor } = shared

	const batcher = createBatcher<WaitingStart, PromiseSettledResult<StartedRun> | undefined>({
		run: async (starts) => {
			const wanted = starts.filter(({ isAbandoned }) => !isAbandoned)
			const results = await startRuns(
				executor(() => wanted.some(({ isAbandoned }) => !isAbandoned)),
				wanted.map(({ input }) => input),
				codec,
				BATCH_PATIENCE_MS,
			)
			const answers = new Map(wanted.map((start, position) => [start, results[position]]))
			return starts.map((start) => answers.get(start))
		},
		maxSize: MAX_BATCH,
		concurrency: BATCHES_AT_ONCE,
	})
	let underWay = 0

	async function startTogether(start: WaitingStart): Promise<StartedRun> {
		const result = await batcher.add(start)
		if (result?.status === 'fulfilled') return result.value
		if (!isLockTimeout(result?.reason)) throw result?.reason
		// Somebody holds what one of them needs: each for itself, and only that one waits.
		return startRun(
			executor(() => !start.isAbandoned),
			start.input,
			codec,
		)
	}

	return async (_, input) => {
		if (underWay >= maxUnderWay)
			throw new HttpProblem('unavailable', 'Enough starts wait for Postgres here. Try again.')
		const start: WaitingStart = { input, isAbandoned: false }
		underWay += 1
		try {
			return await withDeadline('Starting a run', deadlineMs, startTogether(start))
		} finally {
			start.isAbandoned = true
			underWay -= 1
		}
	}
}

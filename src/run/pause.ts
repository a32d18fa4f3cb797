/** Pausing a run and letting it go on: one write each, its live descendants included. */
import { type Executor, query } from '../db/query.js'
import type { RunStatus } from '../db/schema.js'
import { ConflictError, NotFoundError } from '../errors.js'

export interface PausedRun {
	readonly runId: string
	readonly status: RunStatus
	/** False if it was so before. */
	readonly changed: boolean
}

/**
 * Nothing of the run starts any more until it is unpaused: neither what is queued, nor what comes due or is resumed
 * meanwhile. What runs may finish, and the run with it if nothing is left to do. Repeating it changes nothing.
 *
 * @throws NotFoundError; ConflictError if the run has ended
 */
export async function pauseRun(db: Executor, runId: string): Promise<PausedRun> {
	const [row] = await query<{ outcome: string; status: RunStatus }>(
		db,
		'select outcome, status from flowcraft_pause_run($1::text)',
		[runId],
	)
	if (row === undefined || row.outcome === 'unknown') throw new NotFoundError(`There is no run '${runId}'.`)
	if (row.outcome === 'final')
		throw new ConflictError(`Run '${runId}' is ${row.status}: there is nothing to pause.`)
	return { runId, status: row.status, changed: row.outcome === 'paused' }
}

/**
 * Lets a paused run go on with whatever could run by now. Repeating it changes nothing.
 *
 * @throws NotFoundError; ConflictError if the run has ended, or if the run that started it is paused
 */
export async function unpauseRun(db: Executor, runId: string): Promise<PausedRun> {
	const [row] = await query<{ outcome: string; status: RunStatus; parent: string | null }>(
		db,
		'select outcome, status, parent from flowcraft_unpause_run($1::text)',
		[runId],
	)
	if (row === undefined || row.outcome === 'unknown') throw new NotFoundError(`There is no run '${runId}'.`)
	if (row.outcome === 'final') throw new ConflictError(`Run '${runId}' is ${row.status}: it is not paused.`)
	if (row.outcome === 'parent_paused') {
		throw new ConflictError(`Run '${runId}' is paused with its parent: unpause run '${row.parent}'.`)
	}
	return { runId, status: row.status, changed: row.outcome === 'unpaused' }
}

/** Cancelling a run: one write, effective at once wherever its nodes are. */
import { type Executor, query } from '../db/query.js'
import { ConflictError, NotFoundError } from '../errors.js'
import { canBeRunId } from './ids.js'
import type { RunStatus } from '../db/schema.js'

export interface CancelledRun {
	readonly runId: string
	readonly status: RunStatus
	/** That it was cancelled for: of repeated cancels, by the first. */
	readonly reason: string
	/** The run and its descendants, for the doorbell that makes workers abort; empty for a repeated cancel. */
	readonly cancelled: readonly string[]
}

/**
 * Cancels a run with its children: queued nodes never start, running ones lose their claim and are told to abort.
 * Cancelling a cancelled run again changes nothing, its reason neither.
 *
 * @throws NotFoundError; ConflictError if the run has completed or failed
 */
export async function cancelRun(
	db: Executor,
	runId: string,
	reason = 'Cancelled on request',
): Promise<CancelledRun> {
	if (!canBeRunId(runId)) throw new NotFoundError('There is no such run.')
	const [row] = await query<{
		outcome: string
		status: RunStatus | null
		reason: string | null
		cancelled: string
	}>(
		db,
		'select outcome, status, reason, to_json(cancelled)::text as cancelled from flowcraft_cancel_run($1::text, $2::text)',
		[runId, reason],
	)
	if (row === undefined || row.outcome === 'unknown' || row.status === null)
		throw new NotFoundError(`There is no run '${runId}'.`)
	if (row.outcome === 'final' && row.status !== 'cancelled') {
		throw new ConflictError(`Run '${runId}' is ${row.status}: it cannot be cancelled any more.`)
	}
	return {
		runId,
		status: row.status,
		reason: row.reason ?? reason,
		cancelled: row.outcome === 'final' ? [] : (JSON.parse(row.cancelled) as string[]),
	}
}

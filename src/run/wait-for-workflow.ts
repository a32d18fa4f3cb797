/** The name and the answer that clients of Flowcraft's distributed guide know. */
import type { WorkflowResult } from 'flowcraft'
import type { Executor } from '../db/query.js'
import { isTerminal } from './read.js'
import { waitForRun } from './wait.js'

export interface WorkflowEnd {
	/** `completed`, `failed` or `cancelled`; `failed` too when the time is over, as in Flowcraft's guide. */
	readonly status: 'completed' | 'failed' | 'cancelled'
	readonly payload?: WorkflowResult
	readonly reason?: string
}

/**
 * Waits until a run has ended.
 * @param timeoutMs give up after so long; the run itself goes on
 */
export async function waitForWorkflow(db: Executor, runId: string, timeoutMs: number): Promise<WorkflowEnd> {
	const run = await waitForRun(db, runId, { timeoutMs })
	if (run === undefined) return { status: 'failed', reason: `There is no run '${runId}'.` }
	if (!isTerminal(run.status)) {
		return {
			status: 'failed',
			reason: `Timeout: run '${runId}' has not ended within ${timeoutMs} ms, it is ${run.status}.`,
		}
	}
	const status = run.status as WorkflowEnd['status']
	const serializedContext = run.contextJson ?? '{}'
	return {
		status,
		payload: {
			context: JSON.parse(serializedContext) as Record<string, unknown>,
			serializedContext,
			status,
		},
		...(run.reason === undefined ? {} : { reason: run.reason }),
	}
}

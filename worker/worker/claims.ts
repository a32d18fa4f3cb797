/**
 * Claims in micro-batches. A claim whose answer is lost with its connection may stand, and nobody else can have the node
 * then: it is asked again under the same token, as long as the worker has its lease, and answered the same.
 */
import { createBatcher } from '../../src/batcher.js'
import { claimNodes, type ClaimOutcome } from '../../src/claim/claim.js'
import type { Executor } from '../../src/db/query.js'
import { whileUnavailable } from '../../src/db/retry.js'
import type { NodeKey } from '../../src/plan/node-key.js'
import { WorkerDrainingError } from '../execution/aborts.js'

/** Jobs per claim at most. */
const MAX_BATCH = 100

export interface ClaimerOptions {
	readonly db: Executor
	readonly workerId: () => string
	readonly leaseMs: number
	/** A claim that takes longer is asked again; in ms. */
	readonly deadlineMs: number
	readonly isStopping: () => boolean
}

export interface Claimer {
	/** @throws when there is no answer to be had: the node may be ours without our knowing it */
	claim(key: NodeKey): Promise<ClaimOutcome>
	/** Whether the answer to the claim under this token is still to come. */
	isUnderWay(token: string): boolean
}

export function createClaimer({ db, workerId, leaseMs, deadlineMs, isStopping }: ClaimerOptions): Claimer {
	const underWay = new Set<string>()

	const batcher = createBatcher<{ readonly key: NodeKey; readonly token: string }, ClaimOutcome>({
		run: (batch) => {
			const [keys, tokens] = [batch.map(({ key }) => key), batch.map(({ token }) => token)]
			let isAgain = false
			const ask = async (): Promise<ClaimOutcome[]> => {
				// What a worker that stops has without knowing it, the sweep gives to others.
				if (isAgain && isStopping()) throw new WorkerDrainingError()
				isAgain = true
				return claimNodes(db, workerId(), keys, tokens)
			}
			return whileUnavailable('A claim', ask, { maxMs: leaseMs, deadlineMs })
		},
		maxSize: MAX_BATCH,
		concurrency: 2,
		soon: setImmediate,
	})

	return {
		async claim(key) {
			const token = crypto.randomUUID()
			underWay.add(token)
			try {
				return await batcher.add({ key, token })
			} finally {
				underWay.delete(token)
			}
		},
		isUnderWay: (token) => underWay.has(token),
	}
}

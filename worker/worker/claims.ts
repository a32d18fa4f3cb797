/**
 * Claims in micro-batches. A claim whose answer is lost with its connection may stand, and nobody else can have the node
 * then: it is asked again under the same token, as long as the worker has its lease, and answered the same.
 *
 * Not always: an ask that is late is repeated beside the first one, which may still wait for its turn, and then the repeat
 * is told that the node is held. Such claims are doubtful. Whoever holds one does not know it, so it is given back.
 */
import { createBatcher } from '../../src/batcher.js'
import { claimNodes, type ClaimOutcome, type ReleasedClaim } from '../../src/claim/claim.js'
import type { Executor } from '../../src/db/query.js'
import { whileUnavailable } from '../../src/db/retry.js'
import type { NodeKey } from '../../src/plan/node-key.js'
import { WorkerDrainingError } from '../execution/aborts.js'
import type { Self } from './self.js'

/** Jobs per claim at most. */
const MAX_BATCH = 200
/** A claim is asked again when a third of the lease has passed without an answer, within these bounds; in ms. */
const MIN_DEADLINE_MS = 2_000
const MAX_DEADLINE_MS = 15_000

export interface ClaimerOptions {
	readonly db: Executor
	readonly self: Self
	readonly leaseMs: number
	/** How long a claim stays doubtful, in ms: after that its statement has come to an end. */
	readonly doubtMs: number
}

export interface Claimer {
	/** @throws when there is no answer to be had: the claim is doubtful then */
	claim(key: NodeKey): Promise<ClaimOutcome>
	/** Whether the answer to the claim under this token is still to come. */
	isUnderWay(token: string): boolean
	/** Nobody will learn whether these, which a commit has offered, were taken. */
	doubt(claims: readonly Pick<ReleasedClaim, 'key' | 'token'>[]): void
	/** To be given back, again and again while they are in this list: they may come to stand at any moment. */
	doubtful(): readonly ReleasedClaim[]
}

interface Claim {
	readonly key: NodeKey
	readonly token: string
}

export function createClaimer({ db, self, leaseMs, doubtMs }: ClaimerOptions): Claimer {
	const deadlineMs = Math.min(Math.max(leaseMs / 3, MIN_DEADLINE_MS), MAX_DEADLINE_MS)
	const underWay = new Set<string>()
	/** And until when they are. In the order of that. */
	const inDoubt = new Map<Claim, number>()

	const doubt = (claims: readonly Claim[]): void => {
		for (const claim of claims) inDoubt.set(claim, performance.now() + doubtMs)
	}

	async function ask(batch: readonly Claim[]): Promise<ClaimOutcome[]> {
		const [keys, tokens] = [batch.map(({ key }) => key), batch.map(({ token }) => token)]
		let asks = 0
		const askOnce = async (): Promise<ClaimOutcome[]> => {
			if (asks > 0 && self.isStopping) throw new WorkerDrainingError()
			asks += 1
			return claimNodes(db, self.workerId, keys, tokens)
		}
		try {
			const outcomes = await whileUnavailable('A claim', askOnce, { maxMs: leaseMs, deadlineMs })
			if (asks > 1) doubt(batch.filter((_, position) => outcomes[position]?.status !== 'claimed'))
			return outcomes
		} catch (error) {
			doubt(batch)
			throw error
		}
	}

	const batcher = createBatcher<Claim, ClaimOutcome>({
		run: ask,
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
		doubt,
		doubtful() {
			for (const [claim, until] of inDoubt) {
				if (until > performance.now()) break
				inDoubt.delete(claim)
			}
			return [...inDoubt.keys()].map((claim) => ({ ...claim, delayMs: 0 }))
		},
	}
}

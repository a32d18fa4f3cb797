/**
 * What stands as this worker's in Postgres, beyond the nodes that it has in hand: claims that it gives back, claims of
 * which it never heard, and runs that are cancelled while it works for them.
 */
import { endedRuns, heldNodes, type ReleasedClaim, releaseNodes } from '../../src/claim/claim.js'
import { withDeadline } from '../../src/db/errors.js'
import type { Executor } from '../../src/db/query.js'
import { whileUnavailable } from '../../src/db/retry.js'
import type { Doorbell } from '../../src/ports/doorbell.js'
import type { Logger } from '../../src/ports/logger.js'
import { RunCancelledError } from '../execution/aborts.js'
import type { Claimer } from './claims.js'
import type { RunningNodes } from './running-nodes.js'
import type { Self } from './self.js'

export interface OwnClaimsOptions {
	readonly db: Executor
	readonly doorbell: Doorbell
	readonly claimer: Claimer
	readonly running: RunningNodes
	/** A node that stands as this worker's for so long without being in hand is given back, in ms. */
	readonly forgottenAfterMs: number
	readonly self: Self
	readonly logger: Logger
}

export interface OwnClaims {
	/** Gives back as long as Postgres cannot be reached. Does nothing to claims that are not ours. Never rejects. */
	giveBack(claims: readonly ReleasedClaim[], unrunnable?: boolean): Promise<void>
	/** What stands as ours without our knowing it, since the answer to its claim was lost, or came from beside it. */
	giveBackDoubtful(): Promise<void>
	/** Whatever else stands as ours, and nobody works on it: a release may have failed. */
	giveBackForgotten(): Promise<void>
	/** Asks which runs have ended that nodes in hand belong to. */
	abortCancelled(): Promise<void>
	abortRuns(runIds: readonly string[]): void
}

/** Of each statement, in ms. */
const QUERY_DEADLINE_MS = 15_000

export function createOwnClaims(options: OwnClaimsOptions): OwnClaims {
	const { db, doorbell, claimer, running, forgottenAfterMs, self, logger } = options

	/** Returns how many were ours. */
	async function giveBackAll(claims: readonly ReleasedClaim[]): Promise<number> {
		if (claims.length === 0) return 0
		const released = await withDeadline('A release', QUERY_DEADLINE_MS, releaseNodes(db, claims))
		if (released > 0) doorbell.ring({ type: 'outbox' })
		return released
	}

	async function giveBackDoubtful(): Promise<void> {
		const released = await giveBackAll(claimer.doubtful())
		if (released > 0)
			logger.warn('Nodes whose claim was in doubt are given back', {
				workerId: self.workerId,
				nodes: released,
			})
	}

	const abortRuns = (runIds: readonly string[]): void =>
		running.abort((runId) => new RunCancelledError(runId), new Set(runIds))

	return {
		async giveBack(claims, unrunnable = false) {
			const [first] = claims
			if (first === undefined) return
			try {
				await whileUnavailable('A release', () => releaseNodes(db, claims, unrunnable))
				doorbell.ring({ type: 'outbox' })
			} catch (error) {
				// They stay ours until the look for forgotten nodes, the end of this process or the sweep.
				logger.error('Nodes could not be given back', {
					...first.key,
					nodes: claims.length,
					workerId: self.workerId,
					error,
				})
			}
		},
		giveBackDoubtful,
		async giveBackForgotten() {
			await giveBackDoubtful()
			const held = await withDeadline(
				'The look for forgotten nodes',
				QUERY_DEADLINE_MS,
				heldNodes(db, self.workerId, forgottenAfterMs),
			)
			const inHand = new Set(running.all().map(({ claimed }) => claimed.token))
			const forgotten = held.filter(({ token }) => !inHand.has(token) && !claimer.isUnderWay(token))
			const released = await giveBackAll(forgotten.map((claim) => ({ ...claim, delayMs: 0 })))
			if (released > 0)
				logger.warn('Forgotten nodes are given back', { workerId: self.workerId, nodes: released })
		},
		async abortCancelled() {
			const runIds = running.runIds()
			if (runIds.length > 0)
				abortRuns(
					await withDeadline(
						'The look for cancelled runs',
						QUERY_DEADLINE_MS,
						endedRuns(db, runIds),
					),
				)
		},
		abortRuns,
	}
}

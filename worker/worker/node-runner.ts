/**
 * Brings claimed nodes to an end: execute, commit, and go on with what the commit has claimed, in the same slot or in free
 * ones. A node that cannot be brought to an end here is given back.
 */
import type { ClaimedNode } from '../../src/claim/claim.js'
import type { NodeCommit } from '../../src/commit/commit.js'
import type { Logger } from '../../src/ports/logger.js'
import {
	ClaimLostError,
	NodeTimeoutError,
	RunCancelledError,
	WorkerDrainingError,
} from '../execution/aborts.js'
import { toError } from '../execution/attempt.js'
import type { ExecutionEngine } from '../execution/engine.js'
import { failNode, type OnCommit, runNode, successorsIn } from '../execution/run-node.js'
import { OnCommitError, type TransactionalCommitter } from '../transaction/commit.js'
import type { Claimer } from './claims.js'
import type { Committed, Committer } from './commits.js'
import { continuedNodes, offerClaims, offeredClaims, shareOf } from './continuation.js'
import type { OwnClaims } from './own-claims.js'
import type { RunningNodes } from './running-nodes.js'
import type { Self } from './self.js'
import type { Slots } from './slots.js'

/** Nodes that were executed, by what became of them. */
export interface NodeCounts {
	completed: number
	failed: number
	/** Of these, dead letters: nobody could bring them to an end. */
	deadLetters: number
	retry: number
	waiting: number
	child: number
	pending: number
	/** Aborted, or committed too late. */
	lost: number
	/** Given back. */
	released: number
	/** Gone on with, without a message. */
	continued: number
}

export interface NodeRunnerOptions {
	readonly engine: ExecutionEngine
	readonly committer: Committer
	readonly transactions: TransactionalCommitter
	readonly claimer: Claimer
	readonly ownClaims: OwnClaims
	readonly slots: Slots
	/** What is in hand, and can be aborted. */
	readonly running: RunningNodes
	/** Nodes that a slot runs in a row while others wait for it; 1: always. */
	readonly maxInARow: number
	/** Counted in here. */
	readonly counts: NodeCounts
	readonly self: Self
	readonly logger: Logger
}

export interface NodeRunner {
	/**
	 * Runs a node, and then what its slot may go on with.
	 *
	 * @param turn when it may begin; it is in hand before
	 */
	runInARow(first: ClaimedNode, turn?: Promise<void>): Promise<void>
}

/** Nodes that begin in one turn of the event loop: what they finish is committed while the next ones begin. */
const STARTS_PER_TURN = 50
/** Before a node is tried again that this worker cannot run: grows by half each time, in ms. */
const MIN_UNRUNNABLE_MS = 250
const MAX_UNRUNNABLE_MS = 30_000
/** Before a node is tried again for which our own reads have failed, in ms. */
const AFTER_ERROR_MS = 1_000

const nextTurn = async (after?: Promise<void>): Promise<void> => {
	await after
	await new Promise(setImmediate)
}

export function createNodeRunner(options: NodeRunnerOptions): NodeRunner {
	const { engine, committer, transactions, claimer, ownClaims, slots, running, counts, self, logger } =
		options

	async function runInARow(first: ClaimedNode, turn?: Promise<void>): Promise<void> {
		let node: ClaimedNode | undefined = first
		for (let inARow = 1; node !== undefined; inARow++)
			node = await run(node, () => mayGoOn(inARow), inARow === 1 ? turn : undefined)
	}

	/** Whether a slot may take the next node of its run: others may wait for it as well. */
	const mayGoOn = (inARow: number): boolean =>
		!self.isStopping && options.maxInARow > 1 && (inARow < options.maxInARow || !slots.isWanted)

	/** For nodes that are claimed already, with a slot taken for each. */
	function fillSlots(nodes: readonly ClaimedNode[]): void {
		let turn: Promise<void> | undefined
		for (const [position, node] of nodes.entries()) {
			if (position % STARTS_PER_TURN === 0) turn = nextTurn(turn)
			const begin = turn
			void slots.run(node.key, () => runInARow(node, begin))
		}
	}

	/** Returns the node that the same slot goes on with. */
	async function run(
		claimed: ClaimedNode,
		goesOn: () => boolean,
		turn?: Promise<void>,
	): Promise<ClaimedNode | undefined> {
		const node = running.add(claimed)
		try {
			if (turn !== undefined) await turn
			const end = await runNode(engine, claimed, node.abort.signal)
			switch (end.type) {
				case 'commit':
					if (end.onCommit === undefined)
						return await commit(claimed, end.commit, node.abort.signal, goesOn)
					return await commitWith(claimed, end.commit, end.onCommit, node.abort.signal, goesOn)
				case 'unrunnable':
					logger.warn('This worker cannot run a node', {
						...fieldsOf(claimed),
						missing: end.missing,
					})
					await release(claimed, restOfUnrunnable(claimed), true)
					break
				case 'abandoned':
					logger.info('A node was aborted', { ...fieldsOf(claimed), reason: end.because.name })
					counts.lost += 1
					if (end.because instanceof WorkerDrainingError) await release(claimed, 0)
			}
		} catch (error) {
			if (error instanceof RunCancelledError || error instanceof ClaimLostError) {
				counts.lost += 1
				return undefined
			}
			// Nothing that the node did, since its errors end in a commit: our own reads failed. Elsewhere, or later, they may not.
			logger.error('A node could not be brought to an end', { ...fieldsOf(claimed), error })
			await release(claimed, AFTER_ERROR_MS)
		} finally {
			running.remove(node)
		}
		return undefined
	}

	/** @param submit how it is committed; in a batch with others by default */
	async function commit(
		claimed: ClaimedNode,
		planned: NodeCommit,
		signal: AbortSignal,
		goesOn: () => boolean,
		submit = (nodeCommit: NodeCommit): Promise<Committed> => committer.commit(nodeCommit, signal),
	): Promise<ClaimedNode | undefined> {
		// What follows may not be known any more, and cannot be looked up: that is no reason not to commit.
		const canRun = goesOn() ? await successorsIn(engine, claimed).catch(() => undefined) : undefined
		let nodeCommit = planned
		/** Slots that are kept for what it claims, beside the one of the finished node. */
		let spare = 0
		const failWith = async (error: Error): Promise<ClaimedNode | undefined> =>
			commit(claimed, await failNode(engine, claimed, error), signal, goesOn)
		try {
			if (canRun !== undefined) {
				spare = slots.take(shareOf(planned.next?.length ?? 0, self.workers) - 1)
				nodeCommit = offerClaims(planned, canRun, 1 + spare)
			}
			const { outcome, refusal, continued } = await submit(nodeCommit)
			if (outcome === 'refused' && nodeCommit.outcome === 'failed')
				throw new Error(`A failure was refused: ${refusal}`)
			if (outcome === 'refused') return await failWith(new Error(refusal))
			if (outcome === 'lost') {
				counts.lost += 1
				logger.info('A commit came too late: the claim was lost', fieldsOf(claimed))
				return undefined
			}
			counts[nodeCommit.outcome] += 1
			tell(claimed, nodeCommit)
			// The answer that named the claims was lost; or what aborted this node did not know of them yet.
			if (outcome === 'repeated' || signal.aborted || self.isStopping) {
				await ownClaims.giveBack(offeredClaims(nodeCommit))
				return undefined
			}
			const [next, ...others] = continuedNodes(claimed, nodeCommit, continued)
			if (next !== undefined) counts.continued += 1 + others.length
			spare -= others.length
			fillSlots(others)
			return next
		} catch (error) {
			if (signal.aborted) {
				// The commit may be applied all the same, even yet.
				claimer.doubt(offeredClaims(nodeCommit))
				throw signal.reason
			}
			if (error instanceof OnCommitError) throw error
			// Postgres will never take this: the node fails, permanently, and nobody else with it.
			logger.error('A commit was refused', { ...fieldsOf(claimed), error })
			if (nodeCommit.outcome === 'failed') throw error
			return await failWith(toError(error))
		} finally {
			for (; spare > 0; spare--) slots.free()
		}
	}

	/** With statements of the user's, in a transaction of its own, which goes on with nothing. */
	async function commitWith(
		claimed: ClaimedNode,
		planned: NodeCommit,
		{ callbacks, limit, failed, committed }: OnCommit,
		signal: AbortSignal,
		goesOn: () => boolean,
	): Promise<ClaimedNode | undefined> {
		const submit = async (nodeCommit: NodeCommit): Promise<Committed> => {
			try {
				const done = await transactions.commit(nodeCommit, callbacks, signal, limit.signal)
				if (done.outcome === 'committed' || done.outcome === 'repeated') committed()
				return { ...done, continued: new Map() }
			} catch (error) {
				if (error instanceof NodeTimeoutError) throw new OnCommitError(error)
				throw error
			}
		}
		try {
			return await commit(claimed, planned, signal, () => false, submit)
		} catch (error) {
			if (!(error instanceof OnCommitError)) throw error
			return await commit(claimed, failed(error.cause), signal, goesOn)
		} finally {
			limit.stop()
		}
	}

	/** Failures are seen in the log too, and not by those alone who read the run. */
	function tell(claimed: ClaimedNode, { outcome, error, deadLetter, delayMs }: NodeCommit): void {
		if (error === undefined) return
		const fields = { ...fieldsOf(claimed), blueprintId: claimed.blueprintId, error: headline(error) }
		if (deadLetter !== undefined) {
			counts.deadLetters += 1
			logger.error('A node is a dead letter', fields)
		} else if (outcome === 'failed') {
			logger.warn('A node failed', fields)
		} else {
			logger.info('An attempt failed and will be repeated', { ...fields, delayMs })
		}
	}

	async function release(claimed: ClaimedNode, delayMs: number, unrunnable = false): Promise<void> {
		counts.released += 1
		await ownClaims.giveBack([{ key: claimed.key, token: claimed.token, delayMs }], unrunnable)
	}

	/** For logs. */
	const fieldsOf = ({ key, attempt }: ClaimedNode): Record<string, unknown> => ({
		runId: key.runId,
		nodeId: key.nodeId,
		attempt,
		workerId: self.workerId,
	})

	return { runInARow }
}

/** Of an error as it is stored. */
function headline(stored: string): string {
	const { name, message } = JSON.parse(stored) as { name: string; message: string }
	return `${name}: ${message}`
}

const restOfUnrunnable = ({ unrunnableMs }: ClaimedNode): number =>
	Math.min(Math.max((unrunnableMs ?? 0) / 2, MIN_UNRUNNABLE_MS), MAX_UNRUNNABLE_MS)

/**
 * From a claim to its commit: go on or begin, execute, plan. Returns what has to become true; changes nothing itself.
 */
import type { NodeDefinition } from 'flowcraft'
import type { ClaimedNode } from '../../src/claim/claim.js'
import type { NodeCommit } from '../../src/commit/commit.js'
import { isDatabaseUnavailable } from '../../src/db/retry.js'
import { type DynamicNode, readDynamic } from '../../src/plan/dynamic.js'
import type { CommitCallback } from '../transaction/commit.js'
import { ClaimLostError, RunCancelledError, WorkerDrainingError } from './aborts.js'
import { AttemptLimit, toError } from './attempt.js'
import { emit, eventPayload, type ExecutionEngine } from './engine.js'
import { execute } from './execute.js'
import { deadLetter, failed, failureCommit } from './failure.js'
import { planCommit } from './plan-commit.js'
import { canRun } from './workflows.js'

/** A node whose workers died this many times is not given to another one. */
const MAX_CRASHES = 5

/**
 * - `commit`: what has to become true.
 * - `unrunnable`: this worker has no implementation; somebody else may have.
 * - `abandoned`: aborted from outside; the claim is gone, or is to be given back.
 */
export type NodeEnd =
	| { readonly type: 'commit'; readonly commit: NodeCommit; readonly onCommit?: OnCommit }
	| { readonly type: 'unrunnable'; readonly missing: string }
	| { readonly type: 'abandoned'; readonly because: Error }

/** Callbacks of the node that belong to its commit, and still to its attempt. */
export interface OnCommit {
	readonly callbacks: readonly CommitCallback[]
	readonly limit: AttemptLimit
	/** What a failure of theirs comes to: another attempt, or the end of the node. */
	failed(error: Error): NodeCommit
	/** The node's result stands. */
	committed(): void
}

export async function runNode(
	engine: ExecutionEngine,
	claimed: ClaimedNode,
	signal: AbortSignal,
): Promise<NodeEnd> {
	const graph = await engine.blueprints.graph(claimed.blueprintId, claimed.blueprintHash)
	const node = readDynamic(claimed.dynamic)?.definition ?? graph?.nodes.get(claimed.key.nodeId)
	const missing = missingFor(engine, claimed, node)
	const burial = (message: string): NodeEnd => ({
		type: 'commit',
		commit: deadLetter(claimed, graph, message),
	})
	if (graph === undefined || node === undefined || missing !== undefined) {
		const what = missing ?? `node '${claimed.key.nodeId}' of blueprint '${claimed.blueprintId}'`
		if ((claimed.unrunnableMs ?? 0) < engine.unrunnableLimitMs)
			return { type: 'unrunnable', missing: what }
		return burial(`No worker could run this node for ${claimed.unrunnableMs} ms: ${what} is missing`)
	}
	if (claimed.crashes > MAX_CRASHES)
		return burial(`Workers died ${claimed.crashes} times while they ran this node`)

	emit(engine, { type: 'node:start', payload: { ...eventPayload(claimed), input: undefined } })
	const limit = new AttemptLimit(signal)
	let onCommit: OnCommit | undefined
	try {
		const execution = await execute(engine, graph, node, claimed, limit)
		if (signal.aborted) return { type: 'abandoned', because: toError(signal.reason) }
		const commit = await planCommit(engine, graph, claimed, execution)
		const committed = (): void => {
			if (execution.type === 'completed')
				emit(engine, {
					type: 'node:finish',
					payload: { ...eventPayload(claimed), result: execution.result },
				})
		}
		const callbacks = 'callbacks' in execution ? (execution.callbacks ?? []) : []
		if (callbacks.length === 0) {
			committed()
			return { type: 'commit', commit }
		}
		const failedBy = (error: Error): NodeCommit => failed(engine, graph, node, claimed, error)
		onCommit = { callbacks, limit, failed: failedBy, committed }
		return { type: 'commit', commit, onCommit }
	} catch (thrown) {
		const error = toError(thrown)
		// Not the node's fault: the worker gives it back, as the same attempt.
		if (isDatabaseUnavailable(error)) throw error
		if (
			error instanceof RunCancelledError ||
			error instanceof ClaimLostError ||
			error instanceof WorkerDrainingError
		) {
			return { type: 'abandoned', because: error }
		}
		return { type: 'commit', commit: failed(engine, graph, node, claimed, error) }
	} finally {
		// The callbacks have what is left of the attempt's time.
		if (onCommit === undefined) limit.stop()
	}
}

/** A failure that was found after the attempt: when its commit was refused. */
export async function failNode(
	engine: ExecutionEngine,
	claimed: ClaimedNode,
	error: Error,
): Promise<NodeCommit> {
	const graph = await engine.blueprints.graph(claimed.blueprintId, claimed.blueprintHash)
	return failureCommit(graph, claimed, error)
}

/** What follows a node, as its commit names it. */
export interface Successor {
	readonly nodeId: string
	readonly dynamic?: DynamicNode | undefined
}

/** Whether this worker can run what follows in the run of a node that it has claimed. */
export async function successorsIn(
	engine: ExecutionEngine,
	claimed: ClaimedNode,
): Promise<(successor: Successor) => boolean> {
	const graph = await engine.blueprints.graph(claimed.blueprintId, claimed.blueprintHash)
	return ({ nodeId, dynamic }) => {
		const node = dynamic?.definition ?? graph?.nodes.get(nodeId)
		return node !== undefined && missingFor(engine, claimed, node) === undefined
	}
}

function missingFor(
	engine: ExecutionEngine,
	claimed: ClaimedNode,
	node: NodeDefinition | undefined,
): string | undefined {
	if (node === undefined) return undefined
	if (!canRun(engine.workflows, node.uses)) return `an implementation of '${node.uses}'`
	const version = `${claimed.blueprintId}@${claimed.blueprintHash}`
	if (engine.workflows.derivedUses.has(node.uses) && !engine.offers.has(version))
		return `a worker that brings blueprint ${version}`
	return undefined
}

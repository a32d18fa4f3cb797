/**
 * Going on with what a node's commit makes ready, without the way over outbox and broker: the commit claims one successor
 * for the worker that commits. The claim is like any other, fenced by its token and covered by the worker's lease; what
 * is not taken (the run is paused, somebody was first, the join waits for others) goes the usual way.
 */
import type { ClaimedNode, ReleasedClaim } from '../../src/claim/claim.js'
import type { Continued, NodeCommit } from '../../src/commit/commit.js'
import { type DynamicNode, writeDynamic } from '../../src/plan/dynamic.js'
import type { NodeKey } from '../../src/plan/node-key.js'

/** A successor, as a commit names it. */
export interface Successor {
	readonly nodeId: string
	readonly dynamic?: DynamicNode | undefined
}

/**
 * The commit with a claim offered for the first successor that this worker can run; a join only where there is no other.
 * One is enough: the slot of the finished node is what is free for certain, and the others may run elsewhere.
 */
export function offerClaim(commit: NodeCommit, canRun: (successor: Successor) => boolean): NodeCommit {
	const { next = [], arrivals = [] } = commit
	const claim = crypto.randomUUID()
	const chosen = next.findIndex(canRun)
	if (chosen >= 0) {
		return {
			...commit,
			next: next.map((item, position) => (position === chosen ? { ...item, claim } : item)),
		}
	}
	const join = arrivals.findIndex(canRun)
	if (join < 0) return commit
	return {
		...commit,
		arrivals: arrivals.map((item, position) => (position === join ? { ...item, claim } : item)),
	}
}

/** The claim that this commit offers, to be given back: whether it was taken is not known. */
export function offeredClaim(commit: NodeCommit): ReleasedClaim | undefined {
	const { runId } = commit.key
	for (const { nodeId, generation, recovers, claim } of commit.next ?? []) {
		if (claim !== undefined)
			return { key: { runId, nodeId, generation, recovers }, token: claim, delayMs: 0 }
	}
	for (const { nodeId, generation, claim } of commit.arrivals ?? []) {
		if (claim !== undefined)
			return { key: { runId, nodeId, generation, recovers: '' }, token: claim, delayMs: 0 }
	}
	return undefined
}

/** The node that a worker goes on with after `claimed` was committed. */
export function continuedNode(
	claimed: ClaimedNode,
	commit: NodeCommit,
	continued: ReadonlyMap<string, Continued>,
): ClaimedNode | undefined {
	for (const { claim, input, dynamic, ...key } of commit.next ?? []) {
		if (claim === undefined || !continued.has(claim)) continue
		const transformed = input.type === 'value' && input.text !== null
		return successorOf(claimed, key, claim, {
			hasInput: input.type === 'output' || transformed,
			transformed,
			input:
				input.type === 'output'
					? (commit.output ?? null)
					: input.type === 'value'
						? input.text
						: null,
			dynamic: writeDynamic(dynamic) ?? null,
		})
	}
	for (const { claim, nodeId, generation } of commit.arrivals ?? []) {
		const join = claim === undefined ? undefined : continued.get(claim)?.join
		if (claim !== undefined && join !== undefined)
			return successorOf(claimed, { nodeId, generation, recovers: '' }, claim, {
				...join,
				dynamic: null,
			})
	}
	return undefined
}

function successorOf(
	{ key, blueprintId, blueprintHash, depth, traceparent }: ClaimedNode,
	{ nodeId, generation, recovers }: Omit<NodeKey, 'runId'>,
	token: string,
	more: Pick<ClaimedNode, 'hasInput' | 'transformed' | 'input' | 'dynamic'>,
): ClaimedNode {
	return {
		key: { runId: key.runId, nodeId, generation, recovers },
		token,
		attempt: 1,
		crashes: 0,
		unrunnableMs: null,
		wake: null,
		wait: null,
		resume: null,
		child: null,
		blueprintId,
		blueprintHash,
		depth,
		traceparent,
		...more,
	}
}

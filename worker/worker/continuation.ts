/**
 * Going on with what a node's commit makes ready, without the way over outbox and broker: the commit claims one successor
 * for the worker that commits. The claim is like any other, fenced by its token and covered by the worker's lease; what
 * is not taken (the run is paused, somebody was first, the join waits for others) goes the usual way.
 */
import type { ClaimedNode, ReleasedClaim } from '../../src/claim/claim.js'
import type { Continued, NodeCommit } from '../../src/commit/commit.js'
import { writeDynamic } from '../../src/plan/dynamic.js'
import type { NodeKey } from '../../src/plan/node-key.js'
import type { Successor } from '../execution/run-node.js'

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
	const offer = offerOf(commit)
	return offer === undefined ? undefined : { key: offer.key, token: offer.claim, delayMs: 0 }
}

/** The node that a worker goes on with after `claimed` was committed. */
export function continuedNode(
	claimed: ClaimedNode,
	commit: NodeCommit,
	continued: ReadonlyMap<string, Continued>,
): ClaimedNode | undefined {
	const offer = offerOf(commit)
	const taken = offer === undefined ? undefined : continued.get(offer.claim)
	if (offer === undefined || taken === undefined) return undefined
	if (offer.next === undefined)
		return taken.join && successorOf(claimed, offer, { ...taken.join, dynamic: null })
	const { input, dynamic } = offer.next
	const transformed = input.type === 'value' && input.text !== null
	return successorOf(claimed, offer, {
		hasInput: input.type === 'output' || transformed,
		transformed,
		input: input.type === 'output' ? (commit.output ?? null) : input.type === 'value' ? input.text : null,
		dynamic: writeDynamic(dynamic) ?? null,
	})
}

interface Offer {
	readonly claim: string
	readonly key: NodeKey
	/** Undefined: it is a join. */
	readonly next?: NonNullable<NodeCommit['next']>[number]
}

function offerOf({ key: { runId }, next = [], arrivals = [] }: NodeCommit): Offer | undefined {
	for (const item of next) {
		const { claim, nodeId, generation, recovers } = item
		if (claim !== undefined) return { claim, key: { runId, nodeId, generation, recovers }, next: item }
	}
	for (const { claim, nodeId, generation } of arrivals) {
		if (claim !== undefined) return { claim, key: { runId, nodeId, generation, recovers: '' } }
	}
	return undefined
}

function successorOf(
	{ blueprintId, blueprintHash, depth, traceparent }: ClaimedNode,
	{ key, claim }: Offer,
	more: Pick<ClaimedNode, 'hasInput' | 'transformed' | 'input' | 'dynamic'>,
): ClaimedNode {
	return {
		key,
		token: claim,
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

/**
 * Going on with what a node's commit makes ready, without the way over outbox and broker: the commit claims successors for
 * the worker that commits. Such a claim is like any other, fenced by its token and covered by the worker's lease; what
 * is not taken (the run is paused, somebody was first, the join waits for others) goes the usual way.
 */
import type { ClaimedNode, ReleasedClaim } from '../../src/claim/claim.js'
import type { Continued, NodeCommit } from '../../src/commit/commit.js'
import { writeDynamic } from '../../src/plan/dynamic.js'
import type { NodeKey } from '../../src/plan/node-key.js'
import type { Successor } from '../execution/run-node.js'

/**
 * How many of so many successors a worker goes on with itself, if it has the room: all of them while it is alone, and one
 * beside others, in the slot of the finished node. The broker deals the rest out evenly, which what the worker kept for
 * itself would be on top of: where nodes compute, it would still be at it when the others have nothing to do.
 */
export const shareOf = (successors: number, workers: number): number => (workers === 1 ? successors : 1)

/**
 * The commit with claims offered for its first successors that this worker can run, `most` of them; for a join only
 * where there is no other.
 */
export function offerClaims(
	commit: NodeCommit,
	canRun: (successor: Successor) => boolean,
	most: number,
): NodeCommit {
	const { next = [], arrivals = [] } = commit
	let offered = 0
	const withClaims = next.map((item) => {
		if (offered === most || !canRun(item)) return item
		offered += 1
		return { ...item, claim: crypto.randomUUID() }
	})
	if (offered > 0) return { ...commit, next: withClaims }
	const join = arrivals.findIndex(canRun)
	if (join < 0) return commit
	const claim = crypto.randomUUID()
	return {
		...commit,
		arrivals: arrivals.map((item, position) => (position === join ? { ...item, claim } : item)),
	}
}

/** The claims that this commit offers, to be given back: whether they were taken is not known. */
export const offeredClaims = (commit: NodeCommit): ReleasedClaim[] =>
	offersOf(commit).map(({ key, claim }) => ({ key, token: claim, delayMs: 0 }))

/** The nodes that a worker goes on with after `claimed` was committed. */
export function continuedNodes(
	claimed: ClaimedNode,
	commit: NodeCommit,
	continued: ReadonlyMap<string, Continued>,
): ClaimedNode[] {
	return offersOf(commit).flatMap((offer) => {
		const taken = continued.get(offer.claim)
		if (taken === undefined) return []
		if (offer.next === undefined)
			return taken.join === undefined
				? []
				: [successorOf(claimed, offer, { ...taken.join, dynamic: null })]
		const { input, dynamic } = offer.next
		const transformed = input.type === 'value' && input.text !== null
		return [
			successorOf(claimed, offer, {
				hasInput: input.type === 'output' || transformed,
				transformed,
				input:
					input.type === 'output'
						? (commit.output ?? null)
						: input.type === 'value'
							? input.text
							: null,
				dynamic: writeDynamic(dynamic) ?? null,
			}),
		]
	})
}

interface Offer {
	readonly claim: string
	readonly key: NodeKey
	/** Undefined: it is a join. */
	readonly next?: NonNullable<NodeCommit['next']>[number]
}

function offersOf({ key: { runId }, next = [], arrivals = [] }: NodeCommit): Offer[] {
	return [
		...next.flatMap((item) => {
			const { claim, nodeId, generation, recovers } = item
			return claim === undefined
				? []
				: [{ claim, key: { runId, nodeId, generation, recovers }, next: item }]
		}),
		...arrivals.flatMap(({ claim, nodeId, generation }) =>
			claim === undefined ? [] : [{ claim, key: { runId, nodeId, generation, recovers: '' } }],
		),
	]
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

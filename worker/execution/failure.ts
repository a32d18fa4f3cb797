/** What a failed attempt comes to: another one, or the end of the node. */
import type { NodeDefinition } from 'flowcraft'
import type { BlueprintGraph } from '../../src/blueprint/graph.js'
import type { ClaimedNode } from '../../src/claim/claim.js'
import type { NodeCommit } from '../../src/commit/commit.js'
import { UnstorableValueError } from '../../src/context/values.js'
import { withJitter } from '../../src/loop.js'
import { planFailure } from '../../src/plan/plan.js'
import { isFatal } from './attempt.js'
import { emit, eventPayload, type ExecutionEngine, plannedNode } from './engine.js'

/** First delay between attempts where the node gives no `retryDelay`, in ms. */
const DEFAULT_RETRY_DELAY_MS = 500
/** No delay between attempts is longer, in ms. */
const MAX_RETRY_DELAY_MS = 5 * 60_000

/** A condition or transform threw; `message` is that of what it threw. */
export class ExpressionError extends Error {
	constructor(cause: Error) {
		super(cause.message, { cause })
		this.name = cause.name
	}
}

/** `maxRetries` is the total number of attempts; 0 means 1. */
export const maxAttempts = (node: NodeDefinition): number => Math.max(node.config?.maxRetries ?? 1, 1)

export function failed(
	engine: ExecutionEngine,
	graph: BlueprintGraph,
	node: NodeDefinition,
	claimed: ClaimedNode,
	error: Error,
): NodeCommit {
	const final = isFatal(error) || error instanceof UnstorableValueError || error instanceof ExpressionError
	if (!final && claimed.attempt < maxAttempts(node)) {
		emit(engine, { type: 'node:retry', payload: { ...eventPayload(claimed), attempt: claimed.attempt } })
		return {
			key: claimed.key,
			token: claimed.token,
			outcome: 'retry',
			error: describe(error),
			delayMs: retryDelay(node, claimed.attempt),
		}
	}
	emit(engine, { type: 'node:error', payload: { ...eventPayload(claimed), error: error as never } })
	return failureCommit(graph, claimed, error)
}

/** Doubles with each attempt from the node's `retryDelay`, capped and jittered. */
function retryDelay(node: NodeDefinition, attempt: number): number {
	const base = node.config?.retryDelay ?? DEFAULT_RETRY_DELAY_MS
	return withJitter(Math.min(base * 2 ** (attempt - 1), MAX_RETRY_DELAY_MS))
}

export function deadLetter(
	claimed: ClaimedNode,
	graph: BlueprintGraph | undefined,
	message: string,
): NodeCommit {
	return { ...failureCommit(graph, claimed, new Error(message)), deadLetter: message }
}

export function failureCommit(
	graph: BlueprintGraph | undefined,
	claimed: ClaimedNode,
	error: Error,
): NodeCommit {
	const { key, token } = claimed
	const plan =
		graph === undefined
			? undefined
			: planFailure(graph, plannedNode(claimed), { isFatal: isFatal(error) })
	return {
		key,
		token,
		outcome: 'failed',
		error: describe(error),
		reason: storable(`Node '${key.nodeId}' failed: ${error.message}`),
		// A fallback takes no input from the node that failed.
		next: (plan?.next ?? []).map((next) => ({ ...next, input: { type: 'none' } })),
	}
}

export function fatal(message: string): Error {
	return Object.assign(new Error(message), { isFatal: true })
}

/** What people need to understand an error, as a JSON object. */
function describe(error: Error, depth = 0): string {
	return JSON.stringify(describeObject(error, depth))
}

function describeObject(error: Error, depth: number): Record<string, unknown> {
	return {
		name: error.name,
		message: storable(error.message),
		...(error.stack === undefined ? {} : { stack: storable(error.stack) }),
		...(isFatal(error) ? { isFatal: true } : {}),
		...(error.cause instanceof Error && depth < 3
			? { cause: describeObject(error.cause, depth + 1) }
			: {}),
	}
}

/** Text that Postgres takes, of a size that people read. */
function storable(text: string): string {
	return text.slice(0, 8_000).replaceAll('\u0000', '\uFFFD').toWellFormed()
}

/**
 * One attempt of a node: middleware, then the implementation with its phases, under a signal and a timeout.
 *
 * Flowcraft's own executor retries in process, runs fallbacks inline and calls a class node's `fallback` on its first
 * failure. Here an attempt is one attempt: `fallback` runs on the last one only, middleware and `prep` on each.
 */
import {
	isNodeClass,
	type Middleware,
	type NodeContext,
	type NodeDefinition,
	type NodeResult,
} from 'flowcraft'
import type { Implementation } from './workflows.js'
import { NodeTimeoutError } from './aborts.js'

export interface AttemptInput {
	readonly node: NodeDefinition
	readonly implementation: Implementation
	readonly context: Omit<NodeContext, 'signal'>
	readonly middleware: readonly Middleware[]
	readonly isLastAttempt: boolean
	/** Aborts for a timeout, a cancel, a lost claim, a stopping worker. */
	readonly signal: AbortSignal
}

/** How long an attempt may take, what follows its implementation included. */
export class AttemptLimit {
	#signal: AbortSignal
	#timer: NodeJS.Timeout | undefined
	#leaveOuter: (() => void) | undefined

	constructor(signal: AbortSignal) {
		this.#signal = signal
	}

	/** Aborts with a `NodeTimeoutError`, or as the signal that it was made from does. */
	get signal(): AbortSignal {
		return this.#signal
	}

	/** Begins to count; the signal is another one from then on, if there is a timeout. */
	start(timeoutMs: number | undefined): void {
		if (timeoutMs === undefined || timeoutMs <= 0) return
		// Not `AbortSignal.any`: Node 20 keeps such a signal for ever once somebody listens to it, and nodes do.
		const outer = this.#signal
		const timeout = new AbortController()
		this.#timer = setTimeout(() => timeout.abort(new NodeTimeoutError(timeoutMs)), timeoutMs)
		const passOn = (): void => timeout.abort(outer.reason)
		outer.addEventListener('abort', passOn, { once: true })
		if (outer.aborted) passOn()
		this.#leaveOuter = () => outer.removeEventListener('abort', passOn)
		this.#signal = timeout.signal
	}

	stop(): void {
		clearTimeout(this.#timer)
		this.#leaveOuter?.()
	}
}

/**
 * What the implementation returned.
 * @throws what it threw; `NodeTimeoutError`; the signal's reason, as soon as it is aborted, even if the node goes on
 */
export async function runAttempt(input: AttemptInput): Promise<NodeResult> {
	const { signal } = input
	try {
		signal.throwIfAborted()
		// A node that does not listen to its signal loses the race all the same: its slot is free, its result is dropped.
		return await Promise.race([
			withMiddleware(input, { ...input.context, signal }),
			rejectOnAbort(signal),
		])
	} catch (error) {
		// Nodes may wrap or replace the reason that they were aborted with; what counts is that they were.
		if (signal.aborted) throw signal.reason
		throw error
	}
}

function rejectOnAbort(signal: AbortSignal): Promise<never> {
	return new Promise((_, reject) =>
		signal.addEventListener('abort', () => reject(signal.reason), { once: true }),
	)
}

async function withMiddleware(input: AttemptInput, context: NodeContext): Promise<NodeResult> {
	const { node, middleware } = input
	const around = middleware.reduceRight<() => Promise<NodeResult>>(
		(next, { aroundNode }) =>
			aroundNode === undefined ? next : () => aroundNode(context.context, node.id, next),
		async () => {
			let result: NodeResult | undefined
			let failure: Error | undefined
			try {
				for (const { beforeNode } of middleware) await beforeNode?.(context.context, node.id)
				result = await runImplementation(input, context)
				return result
			} catch (error) {
				failure = toError(error)
				throw error
			} finally {
				for (const { afterNode } of middleware)
					await afterNode?.(context.context, node.id, result, failure)
			}
		},
	)
	return (await around()) ?? {}
}

async function runImplementation(input: AttemptInput, context: NodeContext): Promise<NodeResult> {
	const { implementation, node, isLastAttempt } = input
	if (!isNodeClass(implementation))
		return (await (implementation as (context: NodeContext) => Promise<NodeResult>)(context)) ?? {}

	const instance = new implementation(node.params ?? {}, node.id)
	let failure: Error | undefined
	try {
		const prepared: unknown = await instance.prep(context)
		let result: Omit<NodeResult, 'error'>
		try {
			result = await instance.exec(prepared, context)
		} catch (error) {
			failure = toError(error)
			context.signal?.throwIfAborted()
			if (!isLastAttempt || isFatal(error)) throw error
			result = await instance.fallback(failure, context)
		}
		return await instance.post(result, context)
	} catch (error) {
		failure = toError(error)
		throw error
	} finally {
		// As in process: `recover` follows every failure of a phase, also one that `fallback` has made good.
		if (failure !== undefined) await recover(instance, failure, context)
	}
}

async function recover(
	instance: { recover(error: Error, context: NodeContext): Promise<void> },
	failure: Error,
	context: NodeContext,
): Promise<void> {
	try {
		await instance.recover(failure, context)
	} catch {
		// A clean-up that fails hides nothing: the failure that it was called for is the one that counts.
	}
}

/** Whether an error forbids further attempts and fallbacks (`FlowcraftError.isFatal`). */
export function isFatal(error: unknown): boolean {
	return typeof error === 'object' && error !== null && 'isFatal' in error && error.isFatal === true
}

export function toError(thrown: unknown): Error {
	return thrown instanceof Error ? thrown : new Error(String(thrown))
}

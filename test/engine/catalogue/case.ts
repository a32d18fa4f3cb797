/** What a case of the catalogue is. */
import type { WorkflowBlueprint } from 'flowcraft'

/** What the catalogue has to cover, each of it at least once. */
export const CONSTRUCTS = [
	'start',
	'cycle without a start',
	'action',
	'condition',
	'transform',
	'inputs: name',
	'inputs: path',
	'inputs: object',
	'values',
	'context',
	'all join',
	'any join',
	'skipped branch',
	'failure',
	'fatal',
	'retry',
	'retryDelay',
	'timeout',
	'fallback',
	'class node',
	'loop',
	'nested loop',
	'loop: conditional edges',
	'batch',
	'batch: chunks',
	'batch: empty',
	'batch: failing item',
	'dynamic nodes',
	'subflow',
	'subflow: mapped',
	'nested subflow',
	'sleep',
	'wait',
	'several waits',
	'wait timeout',
	'webhook',
	'middleware',
	'dependencies',
	'evaluator',
	'serializer',
	'refused',
] as const

export type Construct = (typeof CONSTRUCTS)[number]

/** How a run has to end. */
export interface Expectation {
	readonly status: 'completed' | 'failed' | 'refused'
	/** Keys of the context; `undefined` for one that must not be there. */
	readonly context?: Readonly<Record<string, unknown>>
	/** The message of each failed node. */
	readonly errors?: Readonly<Record<string, string | RegExp>>
}

export interface Case {
	readonly name: string
	readonly constructs: readonly Construct[]
	readonly blueprint: Omit<WorkflowBlueprint, 'id'>
	readonly input?: Readonly<Record<string, unknown>>
	/** The options that its nodes run with (`setups.ts`). Default `plain`. */
	readonly setup?: 'plain' | 'unsafe' | 'throwing' | 'middleware' | 'serializer'
	/** What the waits are ended with, one after the other. */
	readonly resumes?: readonly { nodeId: string; action?: string; output?: unknown }[]
	/** Written by hand: where the case is among the settled differences, instead of the in-process result. */
	readonly expected?: Expectation
}

export const node = (
	id: string,
	uses: string,
	params?: Record<string, unknown>,
	rest: Partial<WorkflowBlueprint['nodes'][number]> = {},
) => ({
	id,
	uses,
	...(params === undefined ? {} : { params }),
	...rest,
})

export const edge = (
	source: string,
	target: string,
	rest: Partial<WorkflowBlueprint['edges'][number]> = {},
) => ({
	source,
	target,
	...rest,
})

/** Edges from each to the next. */
export const chain = (...ids: string[]) =>
	ids.slice(1).map((target, position) => edge(ids[position] as string, target))

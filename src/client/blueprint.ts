/**
 * What can be known of a blueprint at compile time. A `createFlow<Context>()` builder carries its context's type, and
 * nothing of its id and nodes; a constant (`as const`, or made with `defineBlueprint`) carries its id and node ids, and
 * nothing of its context.
 */

/** A builder of Flowcraft's, by the part of it that is used. */
interface FlowLike {
	toBlueprint(): { readonly id: string }
}

/** A blueprint as data. */
export interface BlueprintLike {
	readonly id: string
	readonly nodes?: readonly { readonly id: string }[]
}

/** What names a blueprint: its id, a builder, or the blueprint itself. It is never sent. */
export type BlueprintRef = string | FlowLike | BlueprintLike

/** The type of a blueprint's context: what was given to `createFlow`, else any object. */
export type ContextOf<B> = B extends { run(...args: never[]): Promise<{ context: infer Context }> }
	? Context extends object
		? Context
		: Record<string, unknown>
	: Record<string, unknown>

/** What a run may start with, as in process: any part of its context. */
export type InputOf<B> = Partial<ContextOf<B>>

/** The ids of its nodes, where they are known. */
export type NodeIdOf<B> = B extends { readonly nodes: readonly { readonly id: infer Id extends string }[] }
	? Id
	: string

export function blueprintId(blueprint: BlueprintRef): string {
	if (typeof blueprint === 'string') return blueprint
	return 'toBlueprint' in blueprint ? blueprint.toBlueprint().id : blueprint.id
}

interface NodeOf<Id extends string> {
	id: Id
	uses: string
	params?: Record<string, unknown>
	inputs?: string | Record<string, string>
	config?: {
		maxRetries?: number
		retryDelay?: number
		timeout?: number
		fallback?: Id
		joinStrategy?: 'all' | 'any'
	}
}
interface EdgeOf<Id extends string> {
	source: Id
	target: Id
	action?: string
	condition?: string
	transform?: string
}

/** A blueprint whose id and node ids are types; Flowcraft takes it like any other. */
export interface DefinedBlueprint<Id extends string, NodeId extends string> {
	id: Id
	nodes: NodeOf<NodeId>[]
	edges: EdgeOf<NodeId>[]
	metadata?: Record<string, unknown>
}

/** The blueprint as it is given, with its ids as types: edges and fallbacks to nowhere do not compile. */
export function defineBlueprint<const Id extends string, const NodeId extends string>(blueprint: {
	id: Id
	nodes: (Omit<NodeOf<NodeId>, 'config'> & { config?: NodeOf<NoInfer<NodeId>>['config'] })[]
	edges: EdgeOf<NoInfer<NodeId>>[]
	metadata?: Record<string, unknown>
}): DefinedBlueprint<Id, NodeId> {
	return blueprint as DefinedBlueprint<Id, NodeId>
}

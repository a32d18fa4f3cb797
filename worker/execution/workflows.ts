/**
 * What a worker can run: the blueprints and implementations of a workflows module, made fit for distribution.
 */
import {
	type BaseNode,
	BatchGatherNode,
	BatchScatterNode,
	type FlowBuilder,
	FlowRuntime,
	type ISerializer,
	type NodeClass,
	type NodeFunction,
	PropertyEvaluator,
	type RuntimeDependencies,
	type RuntimeOptions,
	SleepNode,
	SubflowNode,
	WaitNode,
	WebhookNode,
	type WorkflowBlueprint,
} from 'flowcraft'
import { BUILT_IN_USES } from '../../src/blueprint/register.js'
import { createValueCodec, type ValueCodec } from '../../src/context/values.js'
import type { Logger } from '../../src/ports/logger.js'
import type { DurableDependencies } from './durable-dependencies.js'

/** A builder of whatever context and dependencies: neither of these depends on them. */
type AnyFlow = Pick<FlowBuilder, 'toBlueprint' | 'getFunctionRegistry'>

// `RuntimeDependencies` is Flowcraft's record of anything.
type DurableFunction = NodeFunction<RuntimeDependencies, DurableDependencies>
type DurableClass = NodeClass<RuntimeDependencies, DurableDependencies>

/**
 * The exports of a workflows module (`WORKFLOWS`): Flowcraft's `RuntimeOptions`, where a blueprint may also be the
 * `createFlow` builder that makes it.
 */
export interface WorkflowsModule extends Omit<RuntimeOptions, 'blueprints' | 'dependencies' | 'registry'> {
	readonly registry?: Readonly<Record<string, DurableFunction | DurableClass | typeof BaseNode>>
	readonly blueprints?: Readonly<Record<string, WorkflowBlueprint | AnyFlow>>
	readonly dependencies?: Readonly<Record<string, unknown>>
}

export type Implementation = NodeFunction | NodeClass

export interface Workflows {
	readonly blueprints: readonly WorkflowBlueprint[]
	readonly registry: ReadonlyMap<string, Implementation>
	/**
	 * Keys that were made from `createFlow`'s: they belong to one version of one blueprint, and a worker runs them only
	 * for the versions that it brought itself.
	 */
	readonly derivedUses: ReadonlySet<string>
	/** For nodes that ask for it: the user's options in one object, as in process. */
	readonly runtime: FlowRuntime<Record<string, unknown>, Record<string, unknown>>
	readonly codec: ValueCodec
}

/** Flowcraft's own node classes, which builders take like any other: here they are the engine's. */
const BUILT_IN_CLASSES = new Map<unknown, string>([
	[SubflowNode, 'subflow'],
	[SleepNode, 'sleep'],
	[WaitNode, 'wait'],
	[WebhookNode, 'webhook'],
	[BatchScatterNode, 'batch-scatter'],
	[BatchGatherNode, 'batch-gather'],
])

/** `fn_<hash>` and the like contain a counter of the process that made them. */
const PROCESS_DEPENDENT_USES = /^(fn|class)_(batch_worker_)?[0-9a-f]+$/

/** Options with their defaults, and every blueprint with keys that mean the same in every process. */
export function createWorkflows(module: WorkflowsModule, logger: Logger): Workflows {
	const registry = new Map<string, Implementation>(
		Object.entries(module.registry ?? {}) as [string, Implementation][],
	)
	const derivedUses = new Set<string>()
	const blueprints = Object.entries(module.blueprints ?? {}).map(([name, source]) => {
		const blueprint = structuredClone(isFlow(source) ? source.toBlueprint() : source)
		if (isFlow(source))
			for (const [key, implementation] of source.getFunctionRegistry())
				registry.set(key, implementation as Implementation)
		blueprint.id ??= name
		for (const node of blueprint.nodes ?? []) {
			const implementation = registry.get(node.uses)
			const builtIn = BUILT_IN_CLASSES.get(implementation)
			if (builtIn !== undefined) {
				node.uses = builtIn
				continue
			}
			if (implementation === undefined || !PROCESS_DEPENDENT_USES.test(node.uses)) continue
			node.uses = `${blueprint.id}:${node.id}`
			registry.set(node.uses, implementation)
			derivedUses.add(node.uses)
		}
		return blueprint
	})
	for (const [key, implementation] of registry) {
		if (BUILT_IN_CLASSES.has(implementation)) registry.delete(key)
		if (typeof implementation !== 'function')
			throw new TypeError(`The registry's '${key}' is neither a function nor a class.`)
	}
	const serializer: ISerializer | undefined = module.serializer
	const runtime = new FlowRuntime<Record<string, unknown>, Record<string, unknown>>({
		...module,
		registry: Object.fromEntries(registry),
		blueprints: Object.fromEntries(blueprints.map((blueprint) => [blueprint.id, blueprint])),
		dependencies: { ...module.dependencies },
		evaluator: module.evaluator ?? new PropertyEvaluator(),
		logger: module.logger ?? logger,
	})
	return { blueprints, registry, derivedUses, runtime, codec: createValueCodec(serializer) }
}

/** The ids of a module's blueprints. */
export const blueprintIds = (module: WorkflowsModule): string[] =>
	Object.entries(module.blueprints ?? {}).map(
		([name, source]) => (isFlow(source) ? source.toBlueprint() : source).id ?? name,
	)

function isFlow(source: WorkflowBlueprint | AnyFlow): source is AnyFlow {
	return 'toBlueprint' in source && typeof source.toBlueprint === 'function'
}

/** Whether these workflows hold an implementation for a key; a user's own wins over the built-in one. */
export function canRun(workflows: Workflows, uses: string): boolean {
	return workflows.registry.has(uses) || BUILT_IN_USES.has(uses)
}

/**
 * The planner: what follows when a node has finished. A pure function of the blueprint and of what happened; the
 * commit function applies its answer under the run's lock, and only there are joins counted.
 */
import type { IEvaluator, NodeDefinition, NodeResult } from 'flowcraft'
import { type BlueprintGraph, type GraphEdge, isAllJoin } from '../blueprint/graph.js'
import { checkDynamicNodes, type DynamicNode } from './dynamic.js'
import { transformedKey } from './expressions.js'
import { recoveredBy, recoversOf } from './node-key.js'
import { expectationOf, generationAcross, holdsFor, leavesLoop } from './turns.js'

/** A node within its run. */
export interface PlannedNode {
	readonly nodeId: string
	readonly generation: string
	readonly recovers: string
	/** Of a node that the blueprint does not have, and of its fallback. */
	readonly dynamic?: DynamicNode | undefined
}

/** Where a node's default input comes from: the output of the node that has just finished, or a transformed value. */
export type PlannedInput =
	| { readonly type: 'none' }
	| { readonly type: 'output' }
	| { readonly type: 'value'; readonly value: unknown }

/** A node that becomes ready; once per generation, however many plans say so. */
export interface NextNode extends PlannedNode {
	readonly input: PlannedInput
	/** Blueprint index of the edge that brought the input; -1 for a fallback. */
	readonly edge: number
}

/** Somebody's arrival at an `all` join, by a taken edge or not. */
export interface Arrival {
	readonly nodeId: string
	readonly generation: string
	readonly source: string
	readonly taken: boolean
	/** How many sources have to arrive. */
	readonly expected: number
	/** Arrivals from outside the join's loop that hold for this generation, under the generation of their own. */
	readonly held: readonly { readonly source: string; readonly generation: string }[]
	/** This arrival holds for every generation that begins with this; undefined: for its own only. */
	readonly holdsFor: string | undefined
	/** Blueprint index of the last taken edge, -1 if none was. */
	readonly edge: number
	readonly input: PlannedInput
}

/** A join that waits for more sources than the blueprint's. */
export interface Raise {
	readonly nodeId: string
	readonly generation: string
	/** How many sources it waits for by the blueprint. */
	readonly expected: number
	readonly by: number
}

export interface Plan {
	readonly next: readonly NextNode[]
	readonly raises: readonly Raise[]
	readonly arrivals: readonly Arrival[]
	/** Failed nodes that this one, their fallback, has recovered. */
	readonly recovered: readonly PlannedNode[]
	/** The edges that were taken, for the history. */
	readonly taken: readonly GraphEdge[]
}

/** What the expressions on the edges may see. */
export interface Scope {
	readonly evaluator: IEvaluator
	/** The context after the node's own writes: the keys that `keysNeededBy` named, or all of them. */
	readonly context: Readonly<Record<string, unknown>>
}

/** The edges that may be taken when this node completes: its own, and those of the nodes that it stands in for. */
export function edgesOf(graph: BlueprintGraph, node: PlannedNode): readonly GraphEdge[] {
	const own = graph.outgoing.get(node.nodeId) ?? []
	const inherited = recoveredBy(node.recovers).flatMap((failed) => graph.outgoing.get(failed) ?? [])
	return inherited.length === 0 ? own : [...own, ...inherited]
}

/**
 * A node has completed.
 * @throws what an expression throws; the node then fails, without running again
 */
export function planCompletion(
	graph: BlueprintGraph,
	node: PlannedNode,
	result: Pick<NodeResult, 'output' | 'action' | 'dynamicNodes'>,
	scope: Scope,
): Plan {
	const added = planDynamicNodes(graph, node, result.dynamicNodes ?? [], gatherOf(result.output))
	const edges = edgesOf(graph, node)
	const isController = graph.nodes.get(node.nodeId)?.uses === 'loop-controller'
	const taken = new Set(takenEdges(edges, result, scope, isController))

	const next: NextNode[] = [...added.next]
	const arrivals: Arrival[] = arrivalAtGather(node)
	for (const [target, incoming] of byTarget(edges)) {
		const waitsForAdded = added.raises.some((raise) => raise.nodeId === target)
		if (!isAllJoin(graph, target) && !waitsForAdded) {
			const edge = incoming.findLast((candidate) => taken.has(candidate))
			if (edge !== undefined) {
				const generation = generationAcross(graph, placeOf(node), target)
				next.push({
					nodeId: target,
					generation,
					recovers: '',
					edge: edge.index,
					input: inputBy(graph, edge, result, scope),
				})
			}
			continue
		}
		const generation = generationAcross(graph, placeOf(node), target)
		const expectation = expectationOf(graph, target, generation)
		// One arrival per source, however many edges lead from it to the join.
		for (const source of new Set(incoming.map((edge) => edge.source))) {
			const edge = incoming.findLast((candidate) => candidate.source === source && taken.has(candidate))
			if (edge === undefined && leavesLoop(graph, source, target)) continue
			arrivals.push({
				nodeId: target,
				generation,
				source,
				...expectation,
				holdsFor: holdsFor(graph, source, target, generation),
				taken: edge !== undefined,
				edge: edge?.index ?? -1,
				input: edge === undefined ? { type: 'none' } : inputBy(graph, edge, result, scope),
			})
		}
	}

	const chain = recoveredBy(node.recovers)
	const recovered = chain.map((failed, position) => ({
		nodeId: failed,
		generation: node.generation,
		recovers: recoversOf(chain.slice(position + 1)),
	}))
	return { next, raises: added.raises, arrivals, recovered, taken: [...taken] }
}

/** A gather adds nodes and waits for them in turn, before it completes. */
export function planMore(
	graph: BlueprintGraph,
	node: PlannedNode,
	definitions: readonly NodeDefinition[],
): Plan {
	const { next, raises } = planDynamicNodes(graph, node, definitions, node.nodeId)
	return { ...NOTHING, next, raises }
}

function planDynamicNodes(
	graph: BlueprintGraph,
	node: PlannedNode,
	definitions: readonly NodeDefinition[],
	gatherId: string | undefined,
): Pick<Plan, 'next' | 'raises'> {
	if (definitions.length === 0) return { next: [], raises: [] }
	const place = node.dynamic?.place ?? node.nodeId
	let gather: Raise | undefined
	if (gatherId !== undefined) {
		if (!graph.nodes.has(gatherId))
			throw new Error(
				`Node '${node.nodeId}' adds nodes to '${gatherId}', which is no node of the blueprint`,
			)
		const generation = gatherGeneration(graph, node, gatherId)
		gather = {
			nodeId: gatherId,
			generation,
			expected: expectationOf(graph, gatherId, generation).expected,
			by: definitions.length,
		}
	}
	return {
		next: checkDynamicNodes(graph, node.nodeId, definitions).map((definition) => ({
			nodeId: definition.id,
			generation: node.generation,
			recovers: '',
			edge: -1,
			input: { type: 'none' },
			dynamic: {
				definition,
				place,
				...(gather === undefined
					? {}
					: { gather: { nodeId: gather.nodeId, generation: gather.generation } }),
			},
		})),
		raises: gather === undefined ? [] : [gather],
	}
}

/** The generation in which a gather waits for what this node adds. */
export function gatherGeneration(graph: BlueprintGraph, node: PlannedNode, gatherId: string): string {
	return gatherId === node.nodeId ? node.generation : generationAcross(graph, placeOf(node), gatherId)
}

/** As in process: the output names the gather that waits for the added nodes. */
function gatherOf(output: unknown): string | undefined {
	const gatherId: unknown =
		typeof output === 'object' && output !== null && 'gatherNodeId' in output
			? output.gatherNodeId
			: undefined
	return typeof gatherId === 'string' ? gatherId : undefined
}

/** A node that was added arrives at the gather that waits for it; its fallback arrives in its name. */
function arrivalAtGather({ nodeId, recovers, dynamic }: PlannedNode): Arrival[] {
	if (dynamic?.gather === undefined) return []
	const source = recoveredBy(recovers).at(-1) ?? nodeId
	return [
		{
			...dynamic.gather,
			source,
			taken: true,
			expected: 0,
			held: [],
			holdsFor: undefined,
			edge: -1,
			input: { type: 'none' },
		},
	]
}

/** Where in the blueprint it stands. */
function placeOf(node: PlannedNode): PlannedNode {
	return node.dynamic === undefined
		? node
		: { nodeId: node.dynamic.place, generation: node.generation, recovers: '' }
}

/** A node has failed for good: its branch ends, unless it has a fallback and the error is not fatal. */
export function planFailure(
	graph: BlueprintGraph,
	node: PlannedNode,
	error: { readonly isFatal: boolean },
): Plan {
	const fallback = (node.dynamic?.definition ?? graph.nodes.get(node.nodeId))?.config?.fallback
	if (fallback === undefined || error.isFatal) return NOTHING
	const recovers = recoversOf([node.nodeId, ...recoveredBy(node.recovers)])
	// A fallback is a node of the blueprint; it keeps what it has to do for the one that it stands in for.
	const dynamic = node.dynamic === undefined ? undefined : withoutDefinition(node.dynamic)
	return {
		...NOTHING,
		next: [
			{
				nodeId: fallback,
				generation: node.generation,
				recovers,
				edge: -1,
				input: { type: 'none' },
				dynamic,
			},
		],
	}
}

function withoutDefinition({ place, gather }: DynamicNode): DynamicNode {
	return { place, ...(gather === undefined ? {} : { gather }) }
}

const NOTHING: Plan = { next: [], raises: [], arrivals: [], recovered: [], taken: [] }

/**
 * Edges of the result's action; if none of them is taken, edges without an action. Of a loop's controller, edges whose
 * condition holds come before both.
 */
function takenEdges(
	edges: readonly GraphEdge[],
	result: { readonly output?: unknown; readonly action?: string },
	scope: Scope,
	isController: boolean,
): GraphEdge[] {
	const holds = (edge: GraphEdge): boolean =>
		edge.condition === undefined ||
		edge.condition === '' ||
		Boolean(scope.evaluator.evaluate(edge.condition, { ...scope.context, result }))
	if (isController) {
		const matching = edges.filter((edge) => edge.condition && holds(edge))
		if (matching.length > 0) return matching
	}
	if (result.action) {
		const matching = edges.filter((edge) => edge.action === result.action && holds(edge))
		if (matching.length > 0) return matching
	}
	return edges.filter((edge) => !edge.action && holds(edge))
}

/** In blueprint order within each target. */
function byTarget(edges: readonly GraphEdge[]): Map<string, GraphEdge[]> {
	const targets = new Map<string, GraphEdge[]>()
	for (const edge of [...edges].sort((a, b) => a.index - b.index)) {
		const known = targets.get(edge.target)
		if (known === undefined) targets.set(edge.target, [edge])
		else known.push(edge)
	}
	return targets
}

function inputBy(
	graph: BlueprintGraph,
	edge: GraphEdge,
	result: { readonly output?: unknown },
	scope: Scope,
): PlannedInput {
	if (edge.transform === undefined) return { type: 'output' }
	const key = transformedKey(graph, edge)
	const input = key !== undefined && Object.hasOwn(scope.context, key) ? scope.context[key] : result.output
	return {
		type: 'value',
		value: scope.evaluator.evaluate(edge.transform, { input, context: scope.context }),
	}
}

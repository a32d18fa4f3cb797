/**
 * The planner: what follows when a node has finished. A pure function of the blueprint and of what happened; the
 * commit function applies its answer under the run's lock, and only there are joins counted.
 */
import type { IEvaluator } from 'flowcraft'
import { type BlueprintGraph, type GraphEdge, isAllJoin } from '../blueprint/graph.js'
import { transformedKey } from './expressions.js'
import { recoveredBy, recoversOf } from './node-key.js'

/** A node within its run. */
export interface PlannedNode {
	readonly nodeId: string
	readonly generation: string
	readonly recovers: string
}

/** Where a node's default input comes from: the output of the node that has just finished, or a transformed value. */
export type PlannedInput = { readonly type: 'none' } | { readonly type: 'output' } | { readonly type: 'value'; readonly value: unknown }

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
	/** Blueprint index of the last taken edge, -1 if none was. */
	readonly edge: number
	readonly input: PlannedInput
}

export interface Plan {
	readonly next: readonly NextNode[]
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
	result: { readonly output?: unknown; readonly action?: string },
	scope: Scope,
): Plan {
	const edges = edgesOf(graph, node)
	const taken = new Set(takenEdges(edges, result, scope))

	const next: NextNode[] = []
	const arrivals: Arrival[] = []
	for (const [target, incoming] of byTarget(edges)) {
		if (!isAllJoin(graph, target)) {
			const edge = incoming.findLast((candidate) => taken.has(candidate))
			if (edge !== undefined) {
				next.push({ nodeId: target, generation: node.generation, recovers: '', edge: edge.index, input: inputBy(graph, edge, result, scope) })
			}
			continue
		}
		// One arrival per source, however many edges lead from it to the join.
		const expected = graph.predecessors.get(target)?.size ?? 0
		for (const source of new Set(incoming.map((edge) => edge.source))) {
			const edge = incoming.findLast((candidate) => candidate.source === source && taken.has(candidate))
			arrivals.push({
				nodeId: target,
				generation: node.generation,
				source,
				expected,
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
	return { next, arrivals, recovered, taken: [...taken] }
}

/** A node has failed for good: its branch ends, unless it has a fallback and the error is not fatal. */
export function planFailure(graph: BlueprintGraph, node: PlannedNode, error: { readonly isFatal: boolean }): Plan {
	const fallback = graph.nodes.get(node.nodeId)?.config?.fallback
	if (fallback === undefined || error.isFatal) return { next: [], arrivals: [], recovered: [], taken: [] }
	const recovers = recoversOf([node.nodeId, ...recoveredBy(node.recovers)])
	return {
		next: [{ nodeId: fallback, generation: node.generation, recovers, edge: -1, input: { type: 'none' } }],
		arrivals: [],
		recovered: [],
		taken: [],
	}
}

/** Edges of the result's action; if none of them is taken, edges without an action. */
function takenEdges(
	edges: readonly GraphEdge[],
	result: { readonly output?: unknown; readonly action?: string },
	scope: Scope,
): GraphEdge[] {
	const holds = (edge: GraphEdge): boolean =>
		edge.condition === undefined || edge.condition === '' || Boolean(scope.evaluator.evaluate(edge.condition, { ...scope.context, result }))
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

function inputBy(graph: BlueprintGraph, edge: GraphEdge, result: { readonly output?: unknown }, scope: Scope): PlannedInput {
	if (edge.transform === undefined) return { type: 'output' }
	const key = transformedKey(graph, edge)
	const input = key !== undefined && Object.hasOwn(scope.context, key) ? scope.context[key] : result.output
	return { type: 'value', value: scope.evaluator.evaluate(edge.transform, { input, context: scope.context }) }
}

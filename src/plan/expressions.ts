/**
 * Conditions and transforms of edges. Which context keys they need is worked out before they are evaluated, so that
 * planning itself reads nothing.
 */
import { type IEvaluator, PropertyEvaluator } from 'flowcraft'
import type { BlueprintGraph, GraphEdge } from '../blueprint/graph.js'

/** Context keys to load, or everything: evaluators other than Flowcraft's own may look anywhere. */
export type NeededKeys = readonly string[] | 'all'

/** What the expressions on these edges may read from the context. */
export function keysNeededBy(
	graph: BlueprintGraph,
	edges: readonly GraphEdge[],
	evaluator: IEvaluator,
): NeededKeys {
	const keys = new Set<string>()
	for (const edge of edges) {
		if (edge.condition === undefined && edge.transform === undefined) continue
		if (!(evaluator instanceof PropertyEvaluator)) return 'all'
		// `PropertyEvaluator` splits at dots: of a condition the first part is a key, of a transform the part after `context`.
		if (edge.condition !== undefined) keys.add(edge.condition.split('.')[0] as string)
		if (edge.transform !== undefined) {
			const [scope, key] = edge.transform.split('.')
			if (scope === 'context' && key !== undefined) keys.add(key)
			const inputKey = transformedKey(graph, edge)
			if (inputKey !== undefined) keys.add(inputKey)
		}
	}
	keys.delete('result')
	return [...keys]
}

/**
 * A transform into a node whose `inputs` is a string transforms that value, if it exists, instead of the source's
 * output (as `applyEdgeTransform` of Flowcraft does).
 */
export function transformedKey(graph: BlueprintGraph, edge: GraphEdge): string | undefined {
	const inputs = graph.nodes.get(edge.target)?.inputs
	if (typeof inputs !== 'string' || inputs === edge.source) return undefined
	return inputs.startsWith('_') ? inputs : `_outputs.${inputs}`
}

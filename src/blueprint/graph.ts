/**
 * A blueprint seen as a graph: everything that planning asks of it, worked out once per version.
 */
import type { EdgeDefinition, NodeDefinition, WorkflowBlueprint } from 'flowcraft'

/** An edge with its place in the blueprint: among several taken edges into one node, the last one gives the input. */
export interface GraphEdge extends EdgeDefinition {
	readonly index: number
}

export interface BlueprintGraph {
	readonly blueprint: WorkflowBlueprint
	readonly nodes: ReadonlyMap<string, NodeDefinition>
	/** In blueprint order. */
	readonly outgoing: ReadonlyMap<string, readonly GraphEdge[]>
	/** Distinct sources of the edges into a node: an `all` join expects one arrival from each. */
	readonly predecessors: ReadonlyMap<string, ReadonlySet<string>>
	/** What becomes ready when a run starts: no incoming edge, and nobody's fallback. */
	readonly startNodes: readonly string[]
	/** Nodes without outgoing edges: a subflow's output is theirs. */
	readonly terminalNodes: readonly string[]
	/** Blueprints that its subflow nodes name. */
	readonly subflows: readonly string[]
}

/** Works out the graph of a valid blueprint (`validateBlueprint`). */
export function createGraph(blueprint: WorkflowBlueprint): BlueprintGraph {
	const nodes = new Map(blueprint.nodes.map((node) => [node.id, node]))
	const outgoing = new Map<string, GraphEdge[]>(blueprint.nodes.map((node) => [node.id, []]))
	const predecessors = new Map<string, Set<string>>(blueprint.nodes.map((node) => [node.id, new Set()]))
	blueprint.edges.forEach((edge, index) => {
		outgoing.get(edge.source)?.push({ ...edge, index })
		predecessors.get(edge.target)?.add(edge.source)
	})
	const fallbacks = new Set(blueprint.nodes.map((node) => node.config?.fallback))
	const subflows = new Set<string>()
	for (const node of blueprint.nodes) {
		const child: unknown = node.params?.['blueprintId']
		if (node.uses === 'subflow' && typeof child === 'string') subflows.add(child)
	}
	return {
		blueprint,
		nodes,
		outgoing,
		predecessors,
		startNodes: blueprint.nodes
			.map((node) => node.id)
			.filter((id) => predecessors.get(id)?.size === 0 && !fallbacks.has(id)),
		terminalNodes: blueprint.nodes.map((node) => node.id).filter((id) => outgoing.get(id)?.length === 0),
		subflows: [...subflows],
	}
}

/** Whether a node waits for all its predecessors, with more than one of them to wait for. */
export function isAllJoin(graph: BlueprintGraph, nodeId: string): boolean {
	return graph.nodes.get(nodeId)?.config?.joinStrategy !== 'any' && (graph.predecessors.get(nodeId)?.size ?? 0) > 1
}

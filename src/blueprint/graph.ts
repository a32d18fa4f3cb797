/**
 * A blueprint seen as a graph: everything that planning asks of it, worked out once per version.
 */
import type { EdgeDefinition, NodeDefinition, WorkflowBlueprint } from 'flowcraft'
import { findLoops, type LoopsByNode } from './loops.js'

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
	/** The loops around each node, outermost first. */
	readonly loops: LoopsByNode
	/**
	 * What becomes ready when a run starts: no incoming edge, and nobody's fallback. Where there is no such node, the
	 * entries of the loops that nothing leads into.
	 */
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
	const loops = findLoops(blueprint)
	const startNodes = blueprint.nodes
		.map((node) => node.id)
		.filter((id) => predecessors.get(id)?.size === 0 && !fallbacks.has(id))
	return {
		blueprint,
		nodes,
		outgoing,
		predecessors,
		loops,
		startNodes: startNodes.length > 0 ? startNodes : cycleStarts(predecessors, loops),
		terminalNodes: blueprint.nodes.map((node) => node.id).filter((id) => outgoing.get(id)?.length === 0),
		subflows: [...subflows],
	}
}

/** Whether a node waits for all its predecessors, with more than one of them to wait for. */
export function isAllJoin(graph: BlueprintGraph, nodeId: string): boolean {
	return (
		graph.nodes.get(nodeId)?.config?.joinStrategy !== 'any' &&
		(graph.predecessors.get(nodeId)?.size ?? 0) > 1
	)
}

/** The entries of the outermost loops that no edge leads into from outside. */
function cycleStarts(predecessors: ReadonlyMap<string, ReadonlySet<string>>, loops: LoopsByNode): string[] {
	const outermost = new Set([...loops.values()].flatMap((around) => around.slice(0, 1)))
	return [...outermost]
		.filter(({ nodes }) =>
			[...nodes].every((id) => [...(predecessors.get(id) ?? [])].every((source) => nodes.has(source))),
		)
		.map(({ entry }) => entry)
}

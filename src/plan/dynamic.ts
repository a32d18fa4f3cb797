/** Nodes that the blueprint does not have: a node of the run added them. */
import type { NodeDefinition } from 'flowcraft'
import type { BlueprintGraph } from '../blueprint/graph.js'

/** What is stored with such a node, and with a fallback of one. */
export interface DynamicNode {
	/** Absent for a fallback, which the blueprint does have. */
	readonly definition?: NodeDefinition
	/** The node of the blueprint in whose place it runs: that is, in whose loops. */
	readonly place: string
	/** Who waits for it. */
	readonly gather?: { readonly nodeId: string; readonly generation: string }
}

export function readDynamic(text: string | null): DynamicNode | undefined {
	return text === null ? undefined : (JSON.parse(text) as DynamicNode)
}

export function writeDynamic(dynamic: DynamicNode | undefined): string | undefined {
	return dynamic === undefined ? undefined : JSON.stringify(dynamic)
}

/**
 * The definitions as they are stored.
 * @throws for definitions that could never run, naming the node at fault
 */
export function checkDynamicNodes(
	graph: BlueprintGraph,
	addedBy: string,
	definitions: readonly NodeDefinition[],
): NodeDefinition[] {
	const ids = new Set<string>()
	return definitions.map((given) => {
		const { id, uses, params, inputs, config } = given
		const fail = (what: string): never => {
			throw new Error(`Node '${addedBy}' cannot add the dynamic node '${String(id)}': ${what}`)
		}
		if (
			typeof id !== 'string' ||
			id === '' ||
			id.length > 256 ||
			id.includes('\u0000') ||
			!id.isWellFormed()
		)
			fail('it has no valid id')
		if (typeof uses !== 'string' || uses === '') fail("it has no 'uses'")
		if (graph.nodes.has(id)) fail('the blueprint has a node of that id')
		if (ids.has(id)) fail('another one of the same result has that id')
		if (config?.fallback !== undefined && !graph.nodes.has(config.fallback))
			fail(`its fallback '${config.fallback}' is no node of the blueprint`)
		ids.add(id)
		return {
			id,
			uses,
			...(params === undefined ? {} : { params }),
			...(inputs === undefined ? {} : { inputs }),
			...(config === undefined ? {} : { config }),
		}
	})
}

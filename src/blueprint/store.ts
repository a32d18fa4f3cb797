/** Blueprint versions by content hash, kept in memory: a version never changes. */
import type { WorkflowBlueprint } from 'flowcraft'
import { type Executor, query } from '../db/query.js'
import { whileUnavailable } from '../db/retry.js'
import { type BlueprintGraph, createGraph } from './graph.js'

/** Versions in memory at most; the least recently used goes first. */
const CAPACITY = 200

export interface BlueprintStore {
	/** The graph of a version; undefined if it is not registered. */
	graph(blueprintId: string, hash: string): Promise<BlueprintGraph | undefined>
}

export function createBlueprintStore(db: Executor): BlueprintStore {
	const graphs = new Map<string, Promise<BlueprintGraph | undefined>>()

	const load = async (blueprintId: string, hash: string): Promise<BlueprintGraph | undefined> => {
		const [row] = await whileUnavailable('Reading a blueprint', () =>
			query<{ definition: string }>(
				db,
				'select definition from flowcraft_blueprints where blueprint_id = $1::text and hash = $2::text',
				[blueprintId, hash],
			),
		)
		return row === undefined ? undefined : createGraph(JSON.parse(row.definition) as WorkflowBlueprint)
	}

	return {
		async graph(blueprintId, hash) {
			const name = `${blueprintId}@${hash}`
			const known = graphs.get(name)
			const graph = known ?? load(blueprintId, hash)
			graphs.delete(name)
			graphs.set(name, graph)
			if (known === undefined) {
				// A failed or fruitless look-up is not remembered.
				graph.then(
					(found) => found ?? graphs.delete(name),
					() => graphs.delete(name),
				)
				const oldest = graphs.keys().next()
				if (graphs.size > CAPACITY && !oldest.done) graphs.delete(oldest.value)
			}
			return graph
		},
	}
}

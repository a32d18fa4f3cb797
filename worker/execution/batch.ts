/**
 * Batches: a scatter makes one node of each item of its input, a gather waits for them and collects their outputs, a
 * chunk at a time. Flowcraft's parameters and context keys; the cursor belongs to one generation, so that a batch in a
 * loop begins anew with each turn.
 */
import { FlowcraftError, type NodeDefinition } from 'flowcraft'
import { contentHash } from '../../src/blueprint/hash.js'
import type { ClaimedNode } from '../../src/claim/claim.js'
import type { BufferedContext } from '../../src/context/node-context.js'

/** What the gather needs to make the next chunk: see `batchKey`. */
interface Batch {
	readonly scatterId: string
	readonly batchId: string
	readonly workerUsesKey: string
	readonly chunkSize: number
	readonly total: number
	/** The first item of the next chunk. */
	readonly next: number
}

export interface Scattered {
	readonly output: { readonly gatherNodeId: string; readonly hasMore: boolean }
	readonly dynamicNodes: NodeDefinition[]
}

export type Gathered =
	| { readonly type: 'more'; readonly dynamicNodes: readonly NodeDefinition[] }
	| { readonly type: 'done'; readonly results: readonly unknown[] }

/**
 * @param generationOf the generation in which a gather waits for what this node adds
 * @throws FlowcraftError, fatal, for parameters that make no sense; Error for an input that is no array
 */
export async function scatter(
	node: NodeDefinition,
	claimed: ClaimedNode,
	input: unknown,
	context: BufferedContext,
	generationOf: (nodeId: string) => string,
): Promise<Scattered> {
	const items: unknown = input ?? []
	if (!Array.isArray(items)) throw new Error(`Input for batch-scatter node '${node.id}' must be an array.`)
	const {
		workerUsesKey,
		gatherNodeId,
		chunkSize = items.length,
	} = (node.params ?? {}) as Record<string, unknown>
	if (typeof workerUsesKey !== 'string' || typeof gatherNodeId !== 'string') {
		throw fatal(
			node,
			`Batch-scatter node '${node.id}' requires the parameters 'workerUsesKey' and 'gatherNodeId'.`,
		)
	}
	if (
		typeof chunkSize !== 'number' ||
		!Number.isInteger(chunkSize) ||
		chunkSize < Math.min(items.length, 1)
	) {
		throw fatal(
			node,
			`Batch-scatter node '${node.id}' has the invalid chunkSize ${JSON.stringify(chunkSize)}: expected a whole number of at least 1.`,
		)
	}
	const batchId = await contentHash(JSON.stringify([claimed.key, claimed.attempt]))
	const batch: Batch = {
		scatterId: node.id,
		batchId,
		workerUsesKey,
		chunkSize,
		total: items.length,
		next: 0,
	}
	for (const [position, item] of items.entries()) await context.set(itemKey(batch, position), item)
	const dynamicNodes = await nextChunk(batch, gatherNodeId, generationOf(gatherNodeId), context)
	return { output: { gatherNodeId, hasMore: dynamicNodes.length < items.length }, dynamicNodes }
}

/** The next chunk, or the outputs of all items in the order of the input; an item without an output is left out. */
export async function gather(
	node: NodeDefinition,
	{ key: { generation } }: ClaimedNode,
	context: BufferedContext,
): Promise<Gathered> {
	const batch = (await context.get(batchKey(node.id, generation))) as Batch | undefined
	if (batch === undefined)
		throw fatal(node, `Batch-gather node '${node.id}' has no batch to gather: no scatter names it.`)
	if (batch.next < batch.total)
		return { type: 'more', dynamicNodes: await nextChunk(batch, node.id, generation, context) }
	const workerIds = Array.from({ length: batch.total }, (_, position) => workerId(batch, position))
	const outputs = await context.pick(workerIds.map((id) => `_outputs.${id}`))
	const results = workerIds.map((id) => outputs[`_outputs.${id}`]).filter((output) => output !== undefined)
	const outputKey: unknown = node.params?.['outputKey']
	await context.set(`${node.id}_allWorkerIds`, workerIds)
	if (typeof outputKey === 'string') await context.set(outputKey, results)
	await context.delete(batchKey(node.id, generation))
	return { type: 'done', results }
}

/** Its cost is that of its items: what grows with the batch is written once, at its end. */
async function nextChunk(
	batch: Batch,
	gatherId: string,
	generation: string,
	context: BufferedContext,
): Promise<NodeDefinition[]> {
	const to = Math.min(batch.next + batch.chunkSize, batch.total)
	const nodes: NodeDefinition[] = []
	for (let position = batch.next; position < to; position++) {
		nodes.push({
			id: workerId(batch, position),
			uses: batch.workerUsesKey,
			inputs: itemKey(batch, position),
		})
	}
	await context.set(batchKey(gatherId, generation), { ...batch, next: to })
	// For those who look at them, as in process: they tell of the batch that moved last.
	await context.set(`${batch.scatterId}_currentIndex`, to)
	await context.set(`${gatherId}_hasMore`, to < batch.total)
	return nodes
}

/** Of each turn its own: behind an `any` join a loop turns while a batch of the turn before still gathers. */
const batchKey = (gatherId: string, generation: string): string =>
	generation === '' ? `_batch.${gatherId}` : `_batch.${gatherId}.${generation}`

const workerId = ({ workerUsesKey, batchId }: Batch, position: number): string =>
	`${workerUsesKey}_${batchId}_${position}`

const itemKey = ({ scatterId, batchId }: Batch, position: number): string =>
	`_batch.${scatterId}_${batchId}_item_${position}`

function fatal(node: NodeDefinition, message: string): FlowcraftError {
	return new FlowcraftError(message, { nodeId: node.id, isFatal: true })
}

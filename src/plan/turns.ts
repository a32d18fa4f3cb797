/**
 * Which generation an edge leads into, and what a join of that generation waits for. The generation rises only on an
 * edge into the entry of a loop from inside it; arrivals from outside a loop hold for all its generations.
 */
import type { BlueprintGraph } from '../blueprint/graph.js'
import type { BlueprintLoop } from '../blueprint/loops.js'
import { decodeGeneration, encodeGeneration, encodePrefix } from './generation.js'
import { recoveredBy } from './node-key.js'

interface Place {
	readonly nodeId: string
	readonly generation: string
	readonly recovers: string
}

const NO_LOOPS: readonly BlueprintLoop[] = []

const loopsAround = (graph: BlueprintGraph, nodeId: string): readonly BlueprintLoop[] =>
	graph.loops.get(nodeId) ?? NO_LOOPS

/** How many loops, from the outermost one, both are in. */
function sharedDepth(a: readonly BlueprintLoop[], b: readonly BlueprintLoop[]): number {
	let depth = 0
	while (depth < a.length && depth < b.length && a[depth] === b[depth]) depth += 1
	return depth
}

/** The generation in which `target` gets what `source` sends it. */
export function generationAcross(graph: BlueprintGraph, source: Place, target: string): string {
	// A fallback runs in the place of the node that failed first, wherever it stands in the blueprint.
	const standsAt = recoveredBy(source.recovers).at(-1) ?? source.nodeId
	const from = loopsAround(graph, standsAt)
	const to = loopsAround(graph, target)
	if (from.length === 0 && to.length === 0) return source.generation
	const depth = sharedDepth(from, to)
	const turns = decodeGeneration(source.generation, from.length).slice(0, depth)
	if (depth === to.length && to.at(-1)?.entry === target) turns[depth - 1] = (turns[depth - 1] ?? 0) + 1
	while (turns.length < to.length) turns.push(0)
	return encodeGeneration(turns)
}

/** What an `all` join of one generation waits for. */
export interface Expectation {
	/** How many sources have to arrive. */
	readonly expected: number
	/** Sources outside the loop, with the generation in which each of them arrives once and for all. */
	readonly held: readonly { readonly source: string; readonly generation: string }[]
}

export function expectationOf(graph: BlueprintGraph, target: string, generation: string): Expectation {
	const sources = graph.predecessors.get(target) ?? new Set<string>()
	const to = loopsAround(graph, target)
	if (to.length === 0) return { expected: sources.size, held: [] }
	const turns = decodeGeneration(generation, to.length)
	const outside = [...sources].filter((source) => sharedDepth(loopsAround(graph, source), to) < to.length)
	// Nobody inside a loop can have arrived at its entry before its first turn.
	const isFirstTurn = to.at(-1)?.entry === target && turns.at(-1) === 0
	const held = outside
		.map((source) => ({
			source,
			generation: encodeGeneration(turns.slice(0, sharedDepth(loopsAround(graph, source), to))),
		}))
		.filter((each) => each.generation !== generation)
	return { expected: isFirstTurn ? outside.length : sources.size, held }
}

/**
 * What the generations of `target` begin with for which an arrival of `source` holds; undefined if it holds for its own
 * generation only.
 */
export function holdsFor(
	graph: BlueprintGraph,
	source: string,
	target: string,
	generation: string,
): string | undefined {
	const to = loopsAround(graph, target)
	const depth = sharedDepth(loopsAround(graph, source), to)
	return depth === to.length
		? undefined
		: encodePrefix(decodeGeneration(generation, to.length).slice(0, depth))
}

/** Whether an edge leaves a loop: not taking it says nothing, since a later turn may. */
export function leavesLoop(graph: BlueprintGraph, source: string, target: string): boolean {
	const from = loopsAround(graph, source)
	return sharedDepth(from, loopsAround(graph, target)) < from.length
}

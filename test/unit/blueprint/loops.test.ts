import type { WorkflowBlueprint } from 'flowcraft'
import { describe, expect, test } from 'vitest'
import { createGraph } from '../../../src/blueprint/graph.js'
import { decodeGeneration, encodeGeneration } from '../../../src/plan/generation.js'
import { expectationOf, generationAcross, holdsFor, leavesLoop } from '../../../src/plan/turns.js'

const graphOf = (
	edges: string,
	controllers: readonly string[] = [],
	metadata?: WorkflowBlueprint['metadata'],
) => {
	const pairs = edges.split(' ').map((edge) => edge.split('>') as [string, string])
	const ids = [...new Set(pairs.flat())]
	return createGraph({
		id: 'loops',
		nodes: ids.map((id) => ({ id, uses: controllers.includes(id) ? 'loop-controller' : 'any' })),
		edges: pairs.map(([source, target]) => ({ source, target })),
		...(metadata === undefined ? {} : { metadata }),
	})
}
const at = (nodeId: string, ...turns: number[]) => ({
	nodeId,
	generation: encodeGeneration(turns),
	recovers: '',
})

describe('generations', () => {
	test('sort as their numbers do', () => {
		const turns = [[], [0, 1], [0, 10], [1], [1, 0, 3], [1, 2], [9], [10], [10, 1], [100]]
		const encoded = turns.map(encodeGeneration)
		expect([...encoded].sort((a, b) => (a < b ? -1 : 1))).toEqual(encoded)
	})

	test('come back as they went in, zeros at the end apart', () => {
		for (const turns of [
			[0, 0],
			[3, 0],
			[0, 12],
			[7, 100, 1],
		])
			expect(decodeGeneration(encodeGeneration(turns), turns.length)).toEqual(turns)
		expect(encodeGeneration([0, 0])).toBe('')
	})
})

describe('a loop', () => {
	const graph = graphOf('init>c c>a a>b b>c c>end', ['c'])

	test('is entered at its controller, where the way in leads', () => {
		expect(graph.loops.get('a')?.map(({ entry }) => entry)).toEqual(['c'])
		expect(graph.loops.has('init')).toBe(false)
		expect(graph.startNodes).toEqual(['init'])
	})

	test('turns on the edge back into its entry, and on no other', () => {
		expect(generationAcross(graph, at('init'), 'c')).toBe('')
		expect(generationAcross(graph, at('c', 3), 'a')).toBe(encodeGeneration([3]))
		expect(generationAcross(graph, at('b', 3), 'c')).toBe(encodeGeneration([4]))
		expect(generationAcross(graph, at('c', 4), 'end')).toBe('')
	})

	test('says nothing to a join outside by an edge that it does not take', () => {
		expect(leavesLoop(graph, 'c', 'end')).toBe(true)
		expect(leavesLoop(graph, 'a', 'b')).toBe(false)
	})

	test('without a way in starts at its entry point', () => {
		expect(graphOf('a>b b>c c>a', [], { cycleEntryPoints: ['b'] }).startNodes).toEqual(['b'])
		expect(graphOf('a>b b>c c>a').startNodes).toEqual(['a'])
	})

	test('of one node turns on its own edge', () => {
		const self = graphOf('init>a a>a a>end')
		expect(generationAcross(self, at('a', 1), 'a')).toBe(encodeGeneration([2]))
	})
})

describe('nested loops', () => {
	const graph = graphOf('init>outer outer>inner inner>body body>inner inner>tail tail>outer outer>end', [
		'outer',
		'inner',
	])

	test('have nested generations', () => {
		expect(graph.loops.get('body')?.map(({ entry }) => entry)).toEqual(['outer', 'inner'])
		expect(generationAcross(graph, at('outer', 2), 'inner')).toBe(encodeGeneration([2, 0]))
		expect(generationAcross(graph, at('body', 2, 5), 'inner')).toBe(encodeGeneration([2, 6]))
		expect(generationAcross(graph, at('inner', 2, 6), 'tail')).toBe(encodeGeneration([2]))
		expect(generationAcross(graph, at('tail', 2), 'outer')).toBe(encodeGeneration([3]))
	})
})

describe('a join in a loop', () => {
	const graph = graphOf('init>c c>a c>b a>j b>j outside>j j>c c>end', ['c'])

	test('waits for everyone, and what came from outside holds for every turn', () => {
		expect(expectationOf(graph, 'j', '')).toEqual({ expected: 3, held: [] })
		expect(expectationOf(graph, 'j', encodeGeneration([2]))).toEqual({
			expected: 3,
			held: [{ source: 'outside', generation: '' }],
		})
		expect(holdsFor(graph, 'outside', 'j', '')).toBe('')
		expect(holdsFor(graph, 'a', 'j', '')).toBeUndefined()
	})

	test('at the entry waits only for the way in at the first turn', () => {
		expect(expectationOf(graph, 'c', '')).toEqual({ expected: 1, held: [] })
		expect(expectationOf(graph, 'c', encodeGeneration([1]))).toEqual({
			expected: 2,
			held: [{ source: 'init', generation: '' }],
		})
	})
})

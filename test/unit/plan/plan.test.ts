import { PropertyEvaluator, type WorkflowBlueprint } from 'flowcraft'
import { describe, expect, test } from 'vitest'
import { createGraph } from '../../../src/blueprint/graph.js'
import { keysNeededBy } from '../../../src/plan/expressions.js'
import { edgesOf, type Plan, planCompletion, planFailure, type PlannedNode } from '../../../src/plan/plan.js'

const graphOf = (blueprint: Omit<WorkflowBlueprint, 'id'>) => createGraph({ id: 'test', ...blueprint })
const plain = (nodeId: string): PlannedNode => ({ nodeId, generation: '', recovers: '' })
const scope = (context: Record<string, unknown> = {}) => ({ evaluator: new PropertyEvaluator(), context })
const node = (id: string, config?: NonNullable<WorkflowBlueprint['nodes'][number]['config']>) => ({
	id,
	uses: 'any',
	...(config === undefined ? {} : { config }),
})
const ready = (plan: Plan): string[] => plan.next.map(({ nodeId }) => nodeId)

describe('edges', () => {
	const routed = graphOf({
		nodes: ['r', 'a', 'b', 'd'].map((id) => node(id)),
		edges: [
			{ source: 'r', target: 'a', action: 'a' },
			{ source: 'r', target: 'b', action: 'b' },
			{ source: 'r', target: 'd' },
		],
	})

	test('of the action are taken, and no others', () => {
		expect(ready(planCompletion(routed, plain('r'), { action: 'a' }, scope()))).toEqual(['a'])
	})

	test('without an action are taken when none matches', () => {
		expect(ready(planCompletion(routed, plain('r'), { action: 'c' }, scope()))).toEqual(['d'])
		expect(ready(planCompletion(routed, plain('r'), {}, scope()))).toEqual(['d'])
	})

	test('are none at all when no action matches and every edge has one', () => {
		const graph = graphOf({
			nodes: [node('r'), node('a')],
			edges: [{ source: 'r', target: 'a', action: 'a' }],
		})
		expect(ready(planCompletion(graph, plain('r'), { action: 'b' }, scope()))).toEqual([])
	})

	test('of the action whose condition fails leave the way to those without one', () => {
		const graph = graphOf({
			nodes: ['r', 'a', 'd'].map((id) => node(id)),
			edges: [
				{ source: 'r', target: 'a', action: 'a', condition: 'absent' },
				{ source: 'r', target: 'd' },
			],
		})
		expect(ready(planCompletion(graph, plain('r'), { action: 'a' }, scope()))).toEqual(['d'])
	})

	test('into one node bring the input of the last taken one', () => {
		const graph = graphOf({
			nodes: [node('a'), node('b')],
			edges: [
				{ source: 'a', target: 'b', transform: 'input.first' },
				{ source: 'a', target: 'b', transform: 'input.second' },
				{ source: 'a', target: 'b', condition: 'absent' },
			],
		})
		const plan = planCompletion(graph, plain('a'), { output: { first: 1, second: 2 } }, scope())
		expect(plan.next).toMatchObject([{ nodeId: 'b', edge: 1, input: { type: 'value', value: 2 } }])
	})

	test('whose condition throws throw', () => {
		const graph = graphOf({
			nodes: [node('a'), node('b')],
			edges: [{ source: 'a', target: 'b', condition: 'x' }],
		})
		const evaluator = {
			evaluate() {
				throw new Error('no such thing')
			},
		}
		expect(() => planCompletion(graph, plain('a'), {}, { evaluator, context: {} })).toThrow(
			'no such thing',
		)
	})
})

describe('an all join', () => {
	const joined = graphOf({
		nodes: ['a', 'b', 'j'].map((id) => node(id)),
		edges: [
			{ source: 'a', target: 'j' },
			{ source: 'b', target: 'j', condition: 'absent' },
			{ source: 'b', target: 'j', condition: 'result.output' },
		],
	})

	test('gets one arrival per source, however many edges lead there', () => {
		const plan = planCompletion(joined, plain('b'), { output: true }, scope())
		expect(plan.next).toEqual([])
		expect(plan.arrivals).toMatchObject([{ nodeId: 'j', source: 'b', taken: true, expected: 2, edge: 2 }])
	})

	test('gets an arrival also by edges that were not taken', () => {
		expect(planCompletion(joined, plain('b'), { output: false }, scope()).arrivals).toMatchObject([
			{ source: 'b', taken: false, edge: -1, input: { type: 'none' } },
		])
	})

	test('behind a loop hears nothing from an edge that is not taken: a later turn may take it', () => {
		const graph = graphOf({
			nodes: ['a', 'b', 'other', 'j'].map((id) => node(id)),
			edges: [
				{ source: 'a', target: 'b' },
				{ source: 'b', target: 'a', action: 'again' },
				{ source: 'b', target: 'j', action: 'leave' },
				{ source: 'other', target: 'j' },
			],
			metadata: { cycleEntryPoints: ['a'] },
		})
		const arrivals = (action: string) =>
			planCompletion(graph, plain('b'), { action }, scope()).arrivals.filter(
				({ nodeId }) => nodeId === 'j',
			)
		expect(arrivals('again')).toEqual([])
		expect(arrivals('leave')).toMatchObject([{ source: 'b', taken: true }])
	})

	test('with one predecessor is no join', () => {
		const graph = graphOf({ nodes: [node('a'), node('b')], edges: [{ source: 'a', target: 'b' }] })
		expect(planCompletion(graph, plain('a'), {}, scope())).toMatchObject({
			next: [{ nodeId: 'b', input: { type: 'output' } }],
			arrivals: [],
		})
	})
})

test('an any join becomes ready by a taken edge, and gets nothing from one that is not taken', () => {
	const graph = graphOf({
		nodes: [node('a'), node('b'), node('j', { joinStrategy: 'any' })],
		edges: [
			{ source: 'a', target: 'j' },
			{ source: 'b', target: 'j', condition: 'absent' },
		],
	})
	expect(ready(planCompletion(graph, plain('a'), {}, scope()))).toEqual(['j'])
	expect(planCompletion(graph, plain('b'), {}, scope())).toMatchObject({ next: [], arrivals: [] })
})

describe('a fallback', () => {
	const graph = graphOf({
		nodes: [node('a', { fallback: 'f' }), node('f', { fallback: 'g' }), node('g'), node('b'), node('j')],
		edges: [
			{ source: 'a', target: 'b' },
			{ source: 'a', target: 'j' },
			{ source: 'b', target: 'j' },
		],
	})

	test('becomes ready when its node fails, knowing for whom', () => {
		expect(planFailure(graph, plain('a'), { isFatal: false }).next).toMatchObject([
			{ nodeId: 'f', recovers: '["a"]' },
		])
	})

	test('is not asked after a fatal error', () => {
		expect(planFailure(graph, plain('a'), { isFatal: true }).next).toEqual([])
	})

	test('that completes takes the edges of the node it stands in for, and arrives in its name', () => {
		const plan = planCompletion(
			graph,
			{ nodeId: 'f', generation: '', recovers: '["a"]' },
			{ output: 1 },
			scope(),
		)
		expect(plan.recovered).toEqual([{ nodeId: 'a', generation: '', recovers: '' }])
		expect(ready(plan)).toEqual(['b'])
		expect(plan.arrivals).toMatchObject([{ nodeId: 'j', source: 'a', taken: true }])
	})

	test('of a fallback stands in for both', () => {
		const failed = planFailure(
			graph,
			{ nodeId: 'f', generation: '', recovers: '["a"]' },
			{ isFatal: false },
		)
		expect(failed.next).toMatchObject([{ nodeId: 'g', recovers: '["f","a"]' }])
		const plan = planCompletion(
			graph,
			{ nodeId: 'g', generation: '', recovers: '["f","a"]' },
			{},
			scope(),
		)
		expect(plan.recovered).toEqual([
			{ nodeId: 'f', generation: '', recovers: '["a"]' },
			{ nodeId: 'a', generation: '', recovers: '' },
		])
		expect(ready(plan)).toEqual(['b'])
	})
})

describe('expressions', () => {
	const graph = graphOf({
		nodes: [node('a'), { id: 'b', uses: 'any', inputs: 'named' }, node('c')],
		edges: [
			{ source: 'a', target: 'b', condition: 'flag.on', transform: 'context.settings.colour' },
			{ source: 'a', target: 'c', condition: 'result.output.ok' },
		],
	})

	test('name the keys that they need, and nothing else is loaded', () => {
		expect(keysNeededBy(graph, edgesOf(graph, plain('a')), new PropertyEvaluator())).toEqual([
			'flag',
			'settings',
			'_outputs.named',
		])
	})

	test('of another evaluator may look anywhere', () => {
		expect(keysNeededBy(graph, edgesOf(graph, plain('a')), { evaluate: () => true })).toBe('all')
	})
})

/** Loops, batches and nodes that are added while a run goes on. */
import {
	createFlow,
	FlowRuntime,
	type NodeContext,
	type NodeFunction,
	UnsafeEvaluator,
	type WorkflowBlueprint,
} from 'flowcraft'
import { afterEach, describe, expect, test } from 'vitest'
import { noLogger } from '../../src/ports/logger.js'
import { startEngine, type TestEngine } from '../support/engine.js'

let engine: TestEngine
afterEach(() => engine.stop())

const begin = async (module: object): Promise<void> => {
	engine = await startEngine({ workflows: { evaluator: new UnsafeEvaluator(), ...module } })
}

const node = (id: string, uses: string, rest: Partial<WorkflowBlueprint['nodes'][number]> = {}) => ({
	id,
	uses,
	...rest,
})
const edge = (source: string, target: string, rest: Partial<WorkflowBlueprint['edges'][number]> = {}) => ({
	source,
	target,
	...rest,
})

/** How often each node ran, in order. */
function journal(): { readonly entries: string[]; note(entry: string): NodeFunction } {
	const entries: string[] = []
	return {
		entries,
		note: (entry) => async () => {
			entries.push(entry)
			return { output: entry }
		},
	}
}

describe('a loop', () => {
	test('of createFlow turns until its condition fails, as in process', async () => {
		const make = () =>
			createFlow('counts')
				.node('initialize', async ({ context }: NodeContext) => {
					await context.set('counter', 0)
					return { output: 0 }
				})
				.node('increment', async ({ context }: NodeContext) => {
					const next = Number(await context.get('counter')) + 1
					await context.set('counter', next)
					return { output: next }
				})
				.node('done', async ({ input }: NodeContext) => ({ output: `after ${String(input)}` }))
				.edge('initialize', 'counting')
				.edge('counting', 'done')
				.loop('counting', {
					startNodeId: 'increment',
					endNodeId: 'increment',
					condition: 'counter < 5',
				})
		const flow = make()
		const expected = await flow.run(
			new FlowRuntime({ evaluator: new UnsafeEvaluator(), logger: noLogger }) as never,
		)
		await begin({ blueprints: { counts: make() } })
		const run = await engine.run({ blueprint: 'counts' })
		expect(run.status).toBe(expected.status)
		for (const key of ['counter', 'increment', 'done'])
			expect(run.context[key]).toEqual((expected.context as Record<string, unknown>)[key])
		expect(run.context['counter']).toBe(5)
		expect(
			await engine.rows(
				`select generation from flowcraft_nodes where run_id = $1 and node_id = 'increment'`,
				run.runId,
			),
		).toHaveLength(5)
	})

	test.each([
		['that is led into at its body', true],
		['that nothing leads into', false],
	])('%s turns until its condition fails, and not once more', async (_, led) => {
		const flow = createFlow('body-first')
			.node('count', async ({ context }: NodeContext) => {
				const next = Number((await context.get('counter')) ?? 0) + 1
				await context.set('counter', next)
				return { output: next }
			})
			.loop('again', { startNodeId: 'count', endNodeId: 'count', condition: 'counter < 5' })
			.node('end', async () => ({ output: 'over' }))
			.edge('again', 'end')
		if (led) flow.node('init', async () => ({ output: 'begin' })).edge('init', 'count')
		await begin({ blueprints: { 'body-first': flow } })
		const run = await engine.run({ blueprint: 'body-first' })
		expect(run).toMatchObject({ status: 'completed', context: { counter: 5, end: 'over' } })
	})

	test('shows the output of its newest turn', async () => {
		await begin({
			blueprints: {
				turns: {
					id: 'turns',
					nodes: [
						node('c', 'loop-controller', {
							params: { condition: 'turn !== 12' },
							config: { joinStrategy: 'any' },
						}),
						node('a', 'count'),
						node('s', 'start'),
						node('e', 'read'),
					],
					edges: [
						edge('s', 'c'),
						edge('c', 'a', { action: 'continue' }),
						edge('a', 'c'),
						edge('c', 'e', { action: 'break' }),
					],
				},
			},
			registry: {
				start: async ({ context }: NodeContext) => {
					await context.set('turn', 0)
					return {}
				},
				count: async ({ context }: NodeContext) => {
					const turn = Number(await context.get('turn')) + 1
					await context.set('turn', turn)
					return { output: turn }
				},
				read: async ({ context }: NodeContext) => ({ output: await context.get('_outputs.a') }),
			},
		})
		expect((await engine.run({ blueprint: 'turns' })).context['e']).toBe(12)
	})

	test('in a loop begins anew with each turn of the outer one', async () => {
		const { entries, note } = journal()
		await begin({
			blueprints: {
				nested: {
					id: 'nested',
					nodes: [
						node('s', 'start'),
						node('outer', 'loop-controller', {
							params: { condition: 'o < 3' },
							config: { joinStrategy: 'any' },
						}),
						node('reset', 'reset'),
						node('inner', 'loop-controller', {
							params: { condition: 'i < 2' },
							config: { joinStrategy: 'any' },
						}),
						node('body', 'body'),
						node('tail', 'tail'),
						node('end', 'end'),
					],
					edges: [
						edge('s', 'outer'),
						edge('outer', 'reset', { action: 'continue' }),
						edge('reset', 'inner'),
						edge('inner', 'body', { action: 'continue' }),
						edge('body', 'inner'),
						edge('inner', 'tail', { action: 'break' }),
						edge('tail', 'outer'),
						edge('outer', 'end', { action: 'break' }),
					],
				},
			},
			registry: {
				start: async ({ context }: NodeContext) => {
					await context.set('o', 0)
					return {}
				},
				reset: async ({ context }: NodeContext) => {
					await context.set('i', 0)
					return {}
				},
				body: async ({ context }: NodeContext) => {
					await context.set('i', Number(await context.get('i')) + 1)
					entries.push(`body ${String(await context.get('o'))}.${String(await context.get('i'))}`)
					return {}
				},
				tail: async ({ context }: NodeContext) => {
					await context.set('o', Number(await context.get('o')) + 1)
					return {}
				},
				end: note('end'),
			},
		})
		expect((await engine.run({ blueprint: 'nested' })).status).toBe('completed')
		expect(entries).toEqual([
			'body 0.1',
			'body 0.2',
			'body 1.1',
			'body 1.2',
			'body 2.1',
			'body 2.2',
			'end',
		])
	})

	test('with a join in its body that somebody outside feeds joins at each turn', async () => {
		const { entries, note } = journal()
		await begin({
			blueprints: {
				fed: {
					id: 'fed',
					nodes: [
						node('s', 'start'),
						node('outside', 'outside'),
						node('c', 'loop-controller', {
							params: { condition: 'turn < 3' },
							config: { joinStrategy: 'any' },
						}),
						node('a', 'count'),
						node('b', 'b'),
						node('j', 'j'),
						node('end', 'end'),
					],
					edges: [
						edge('s', 'c'),
						edge('c', 'a', { action: 'continue' }),
						edge('c', 'b', { action: 'continue' }),
						edge('a', 'j'),
						edge('b', 'j'),
						edge('outside', 'j'),
						edge('j', 'c'),
						edge('c', 'end', { action: 'break' }),
					],
				},
			},
			registry: {
				start: async ({ context }: NodeContext) => {
					await context.set('turn', 0)
					return {}
				},
				count: async ({ context }: NodeContext) => {
					await context.set('turn', Number(await context.get('turn')) + 1)
					return {}
				},
				outside: note('outside'),
				b: note('b'),
				j: note('j'),
				end: note('end'),
			},
		})
		const run = await engine.run({ blueprint: 'fed' })
		expect(run.status).toBe('completed')
		expect(entries.filter((entry) => entry === 'j')).toHaveLength(3)
		expect(entries.at(-1)).toBe('end')
	})

	test('without a controller turns by conditions on its edges', async () => {
		await begin({
			blueprints: {
				bare: {
					id: 'bare',
					nodes: [node('a', 'count'), node('b', 'echo'), node('e', 'echo')],
					edges: [
						edge('a', 'b'),
						edge('b', 'a', { condition: 'turn < 4' }),
						edge('b', 'e', { condition: 'turn >= 4' }),
					],
					metadata: { cycleEntryPoints: ['a'] },
				},
			},
			registry: {
				count: async ({ context }: NodeContext) => {
					const turn = Number((await context.get('turn')) ?? 0) + 1
					await context.set('turn', turn)
					return { output: turn }
				},
				echo: async ({ input }: NodeContext) => ({ output: input }),
			},
		})
		expect((await engine.run({ blueprint: 'bare' })).context['e']).toBe(4)
	})
})

describe('a batch', () => {
	const doubles = (chunkSize?: number) =>
		createFlow('doubles')
			.node('list', async ({ context }: NodeContext) => ({ output: await context.get('items') }))
			.batch('work', async ({ input }: NodeContext) => ({ output: Number(input) * 2 }), {
				inputKey: 'list',
				outputKey: 'doubled' as never,
				...(chunkSize === undefined ? {} : { chunkSize }),
			})
			.node('sum', async ({ context }: NodeContext) => ({
				output: ((await context.get('doubled')) as number[]).reduce((total, each) => total + each, 0),
			}))
			.edge('list', 'work')
			.edge('work', 'sum')

	test.each([
		['all at once', undefined],
		['in chunks', 3],
		['one by one', 1],
	])('runs its worker on each item and keeps their order, %s', async (_, chunkSize) => {
		await begin({ blueprints: { doubles: doubles(chunkSize) } })
		const run = await engine.run({ blueprint: 'doubles', input: { items: [5, 4, 3, 2, 1, 0, 7] } })
		expect(run).toMatchObject({
			status: 'completed',
			context: { doubled: [10, 8, 6, 4, 2, 0, 14], sum: 44 },
		})
	})

	test('of nothing has no results, and goes on', async () => {
		await begin({ blueprints: { doubles: doubles() } })
		expect(await engine.run({ blueprint: 'doubles', input: { items: [] } })).toMatchObject({
			status: 'completed',
			context: { doubled: [], sum: 0 },
		})
	})

	test('of something that is no array fails', async () => {
		await begin({ blueprints: { doubles: doubles() } })
		expect((await engine.run({ blueprint: 'doubles', input: { items: 'text' } })).reason).toMatch(
			/must be an array/,
		)
	})

	test('with an item that fails ends there, and the run fails', async () => {
		const flow = createFlow('picky')
			.batch(
				'work',
				async ({ input }: NodeContext) => {
					if (input === 2) throw new Error('not two')
					return { output: input }
				},
				{ inputKey: 'items', outputKey: 'kept' as never },
			)
			.node('after', async () => ({ output: 'never' }))
			.edge('work', 'after')
		await begin({ blueprints: { picky: flow } })
		const run = await engine.run({ blueprint: 'picky', input: { items: [1, 2, 3] } })
		expect(run.status).toBe('failed')
		expect(run.errors).toMatchObject([{ message: 'not two' }])
		expect(run.context).not.toHaveProperty('after')
	})

	test('in a loop is a new one with each turn', async () => {
		await begin({
			blueprints: {
				rounds: {
					id: 'rounds',
					nodes: [
						node('s', 'start'),
						node('c', 'loop-controller', {
							params: { condition: 'round < 3' },
							config: { joinStrategy: 'any' },
						}),
						node('make', 'make'),
						node('scatter', 'batch-scatter', {
							inputs: 'make',
							params: { workerUsesKey: 'square', gatherNodeId: 'gather', chunkSize: 2 },
						}),
						node('gather', 'batch-gather', {
							params: { gatherNodeId: 'gather', outputKey: 'squares' },
						}),
						node('keep', 'keep'),
						node('end', 'end'),
					],
					edges: [
						edge('s', 'c'),
						edge('c', 'make', { action: 'continue' }),
						edge('make', 'scatter'),
						edge('scatter', 'gather'),
						edge('gather', 'keep'),
						edge('keep', 'c'),
						edge('c', 'end', { action: 'break' }),
					],
				},
			},
			registry: {
				start: async ({ context }: NodeContext) => {
					await context.patch([
						{ op: 'set', key: 'round', value: 0 },
						{ op: 'set', key: 'all', value: [] },
					])
					return {}
				},
				make: async ({ context }: NodeContext) => {
					const round = Number(await context.get('round'))
					return { output: Array.from({ length: round + 2 }, (_, i) => i + round) }
				},
				square: async ({ input }: NodeContext) => ({ output: Number(input) ** 2 }),
				keep: async ({ context }: NodeContext) => {
					await context.set('all', [
						...((await context.get('all')) as unknown[]),
						await context.get('squares'),
					])
					await context.set('round', Number(await context.get('round')) + 1)
					return {}
				},
				end: async ({ context }: NodeContext) => ({ output: await context.get('all') }),
			},
		})
		expect((await engine.run({ blueprint: 'rounds' })).context['end']).toEqual([
			[0, 1],
			[1, 4, 9],
			[4, 9, 16, 25],
		])
	})
})

describe('a node that adds nodes', () => {
	const adder =
		(dynamicNodes: readonly object[], output: unknown = {}): NodeFunction =>
		async () =>
			({ output, dynamicNodes }) as never
	const registry = {
		echo: async ({ input }: NodeContext) => ({ output: input }),
		one: async () => ({ output: 1 }),
	}

	test('has them run, and the gather that it names wait for them', async () => {
		await begin({
			blueprints: {
				adds: { id: 'adds', nodes: [node('a', 'add'), node('g', 'sum')], edges: [edge('a', 'g')] },
			},
			registry: {
				...registry,
				add: adder([node('x', 'one'), node('y', 'one', { inputs: 'x' })], { gatherNodeId: 'g' }),
				sum: async ({ context }: NodeContext) => ({
					output: [await context.get('x'), await context.get('y')],
				}),
			},
		})
		expect(await engine.run({ blueprint: 'adds' })).toMatchObject({
			status: 'completed',
			context: { g: [1, 1] },
		})
	})

	test('without a gather does not hold up what follows it', async () => {
		await begin({
			blueprints: {
				adds: { id: 'adds', nodes: [node('a', 'add'), node('b', 'one')], edges: [edge('a', 'b')] },
			},
			registry: { ...registry, add: adder([node('x', 'one')]) },
		})
		expect(await engine.run({ blueprint: 'adds' })).toMatchObject({
			status: 'completed',
			context: { x: 1, b: 1 },
		})
	})

	test.each([
		['of an id that the blueprint has', [node('b', 'one')], /the blueprint has a node of that id/],
		[
			'twice of the same id',
			[node('x', 'one'), node('x', 'one')],
			/another one of the same result has that id/,
		],
		['without an implementation key', [{ id: 'x' }], /has no 'uses'/],
		[
			'with a fallback that points nowhere',
			[node('x', 'one', { config: { fallback: 'gone' } })],
			/its fallback 'gone' is no node/,
		],
	])('%s fails with a sentence that says so', async (_, nodes, message) => {
		await begin({
			blueprints: {
				adds: {
					id: 'adds',
					nodes: [node('a', 'add', { config: { maxRetries: 3, retryDelay: 1 } }), node('b', 'one')],
					edges: [edge('a', 'b')],
				},
			},
			registry: { ...registry, add: adder(nodes) },
		})
		const run = await engine.run({ blueprint: 'adds' })
		expect(run.status).toBe('failed')
		expect(run.errors).toMatchObject([{ nodeId: 'a', attempt: 1 }])
		expect(run.reason).toMatch(message)
	})

	test('of an id that another one has added fails, and only the second', async () => {
		await begin({
			blueprints: {
				adds: { id: 'adds', nodes: [node('a', 'add'), node('b', 'add')], edges: [edge('a', 'b')] },
			},
			registry: { ...registry, add: adder([node('x', 'one')]) },
		})
		const run = await engine.run({ blueprint: 'adds' })
		expect(run.errors).toMatchObject([{ nodeId: 'b', message: "The dynamic node 'x' exists already" }])
		expect(run.context['x']).toBe(1)
	})

	test('to a gather that has run already fails', async () => {
		await begin({
			blueprints: {
				adds: {
					id: 'adds',
					nodes: [node('a', 'one'), node('g', 'one'), node('late', 'add')],
					edges: [edge('a', 'g'), edge('g', 'late')],
				},
			},
			registry: { ...registry, add: adder([node('x', 'one')], { gatherNodeId: 'g' }) },
		})
		expect((await engine.run({ blueprint: 'adds' })).reason).toMatch(/Node 'g' has run already/)
	})

	test('has their fallbacks arrive for them', async () => {
		await begin({
			blueprints: {
				adds: {
					id: 'adds',
					nodes: [node('a', 'add'), node('g', 'one'), node('f', 'one')],
					edges: [edge('a', 'g')],
				},
			},
			registry: {
				...registry,
				add: adder(
					[
						node('x', 'fail', { config: { fallback: 'f' } }),
						node('y', 'fail', { config: { fallback: 'f' } }),
					],
					{ gatherNodeId: 'g' },
				),
				fail: async () => {
					throw new Error('always')
				},
			},
		})
		expect(await engine.run({ blueprint: 'adds' })).toMatchObject({
			status: 'completed',
			context: { g: 1, f: 1 },
		})
	})
})

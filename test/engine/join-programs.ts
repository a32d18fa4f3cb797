/** Programs of `join-model.ts`: random ones, and the blueprints that mean them. */
import fc from 'fast-check'
import type { EdgeDefinition, NodeDefinition, NodeFunction, WorkflowBlueprint } from 'flowcraft'
import { blocksIn, nameOf, type Program, predict } from './join-model.js'

/** More nodes than that prove nothing more. */
const MAX_NODES = 120

interface Around {
	readonly isInLoop: boolean
	/**
	 * In a branch of an `any` join inside a loop. The loop may turn before such a branch has ended, and then its next turn
	 * counts under the same keys of the context: no loops there.
	 */
	readonly isLeftBehind: boolean
}

function programOf(depth: number, around: Around): fc.Arbitrary<Program> {
	const leaf = fc.record({
		type: fc.constant('leaf' as const),
		fate: fc.oneof(
			{ weight: 14, arbitrary: fc.constant('done' as const) },
			{ weight: 2, arbitrary: fc.constant('rescued' as const) },
			{ weight: 1, arbitrary: fc.constant('fails' as const) },
		),
	})
	if (depth === 0) return leaf
	const inner = programOf(depth - 1, around)
	const raced = programOf(depth - 1, { ...around, isLeftBehind: around.isLeftBehind || around.isInLoop })
	const branches = { minLength: 2, maxLength: 3 }
	const parallel = fc.oneof(
		fc.record({
			type: fc.constant('parallel' as const),
			join: fc.constant('all' as const),
			isFed: fc.boolean(),
			branches: fc.array(inner, branches),
		}),
		fc.record({
			type: fc.constant('parallel' as const),
			join: fc.constant('any' as const),
			isFed: fc.constant(false),
			branches: fc.array(raced, branches),
		}),
	)
	const choice = fc.record({
		type: fc.constant('choice' as const),
		join: fc.constantFrom('any' as const, 'any' as const, 'any' as const, 'all' as const),
		taken: fc.constantFrom(0, 1),
		branches: fc.array(inner, branches),
	})
	const sequence = fc.record({
		type: fc.constant('sequence' as const),
		parts: fc.array(inner, { minLength: 2, maxLength: 3 }),
	})
	const plain = [
		{ weight: 2, arbitrary: leaf },
		{ weight: 3, arbitrary: sequence },
		{ weight: 3, arbitrary: parallel },
		{ weight: 2, arbitrary: choice },
	]
	const loop = fc.record({
		type: fc.constant('loop' as const),
		turns: fc.integer({ min: 0, max: 3 }),
		controllerJoin: fc.constantFrom('all' as const, 'any' as const),
		body: programOf(depth - 1, { ...around, isInLoop: true }),
	})
	const batch = fc.record({
		type: fc.constant('batch' as const),
		items: fc.integer({ min: 0, max: 7 }),
		chunkSize: fc.integer({ min: 1, max: 4 }),
	})
	const withBatch = [...plain, { weight: 1, arbitrary: batch }]
	if (around.isLeftBehind) return fc.oneof(...withBatch)
	return fc.oneof(...withBatch, { weight: 4, arbitrary: loop })
}

export const randomProgram: fc.Arbitrary<Program> = programOf(4, {
	isInLoop: false,
	isLeftBehind: false,
}).filter((program) => {
	const { ran } = predict(program)
	return ran.length > 4 && ran.length <= MAX_NODES
})

/** What the nodes of such a blueprint do. `started` is told of each execution. */
export function programRegistry(
	started: (runId: string, nodeId: string) => void,
): Record<string, NodeFunction> {
	const behaviours: Record<string, NodeFunction> = {
		work: async () => ({ output: 1 }),
		fail: async () => {
			throw new Error('as planned')
		},
		route: async ({ params }) => ({ action: String(params['action']) }),
		reset: async ({ context, params }) => {
			await context.set(String(params['key']), 0)
			return {}
		},
		count: async ({ context, params }) => {
			const key = String(params['key'])
			await context.set(key, Number(await context.get(key)) + 1)
			return {}
		},
		list: async ({ params }) => ({
			output: Array.from({ length: Number(params['items']) }, (_, item) => item),
		}),
		item: async ({ input }) => ({ output: Number(input) * 10 }),
	}
	return Object.fromEntries(
		Object.entries(behaviours).map(([uses, behave]) => [
			uses,
			async (context) => {
				const { runtime } = context.dependencies
				started(String(runtime.executionId), String(context.dependencies['idempotencyKey']))
				return behave(context)
			},
		]),
	)
}

/** Where a block begins and ends; edges out of it have these attributes. */
interface Ends {
	readonly entry: string
	readonly exit: string
	readonly out: Partial<EdgeDefinition>
}

export function blueprintOf(id: string, program: Program): WorkflowBlueprint {
	const nodes: NodeDefinition[] = []
	const edges: EdgeDefinition[] = []

	function node(
		nodeId: string,
		uses: string,
		params: NodeDefinition['params'] = {},
		config: NodeDefinition['config'] = {},
	): string {
		nodes.push({ id: nodeId, uses, params, config })
		return nodeId
	}
	const connect = (from: Ends, target: string): void =>
		void edges.push({ source: from.exit, target, ...from.out })

	function build(block: Program, path: readonly number[]): Ends {
		const name = (role: string): string => nameOf(role, path)
		const one = (nodeId: string): Ends => ({ entry: nodeId, exit: nodeId, out: {} })
		const inner = blocksIn(block).map((each, position) => build(each, [...path, position]))
		switch (block.type) {
			case 'leaf':
				if (block.fate === 'done') return one(node(name('leaf'), 'work'))
				if (block.fate === 'fails') return one(node(name('leaf'), 'fail'))
				node(name('fallback'), 'work')
				return one(node(name('leaf'), 'fail', {}, { fallback: name('fallback') }))
			case 'sequence':
				inner.slice(1).forEach((next, position) => connect(inner[position] as Ends, next.entry))
				return {
					entry: (inner[0] as Ends).entry,
					exit: (inner.at(-1) as Ends).exit,
					out: (inner.at(-1) as Ends).out,
				}
			case 'parallel': {
				const fork = node(name('fork'), 'work')
				const join = node(name('join'), 'work', {}, { joinStrategy: block.join })
				for (const branch of inner) {
					edges.push({ source: fork, target: branch.entry })
					connect(branch, join)
				}
				if (block.isFed) edges.push({ source: node(name('feeder'), 'work'), target: join })
				return { entry: fork, exit: join, out: {} }
			}
			case 'choice': {
				const router = node(name('router'), 'route', { action: `branch ${block.taken}` })
				const join = node(name('join'), 'work', {}, { joinStrategy: block.join })
				inner.forEach((branch, position) => {
					edges.push({ source: router, target: branch.entry, action: `branch ${position}` })
					connect(branch, join)
				})
				return { entry: router, exit: join, out: {} }
			}
			case 'loop': {
				const key = name('turn')
				const reset = node(name('reset'), 'reset', { key })
				const controller = node(
					name('controller'),
					'loop-controller',
					{ condition: `${key} < ${block.turns}` },
					{ joinStrategy: block.controllerJoin },
				)
				const count = node(name('count'), 'count', { key })
				const body = inner[0] as Ends
				edges.push({ source: reset, target: controller })
				edges.push({ source: controller, target: body.entry, action: 'continue' })
				connect(body, count)
				edges.push({ source: count, target: controller })
				return { entry: reset, exit: controller, out: { action: 'break' } }
			}
			case 'batch': {
				const list = node(name('list'), 'list', { items: block.items })
				const scatter = node(name('scatter'), 'batch-scatter', {
					workerUsesKey: 'item',
					gatherNodeId: name('gather'),
					chunkSize: block.chunkSize,
				})
				const gather = node(name('gather'), 'batch-gather', {
					gatherNodeId: name('gather'),
					outputKey: name('results'),
				})
				edges.push({ source: list, target: scatter }, { source: scatter, target: gather })
				return { entry: list, exit: gather, out: {} }
			}
		}
	}

	build(program, [])
	return { id, nodes, edges }
}

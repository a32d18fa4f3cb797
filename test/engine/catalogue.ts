/** Blueprints whose distributed result has to equal that of Flowcraft's in-process runtime. */
import { FlowcraftError, type NodeFunction, type WorkflowBlueprint } from 'flowcraft'

export interface Case {
	readonly name: string
	readonly blueprint: Omit<WorkflowBlueprint, 'id'>
	readonly input?: Record<string, unknown>
}

/** Implementations without side effects outside the context: the same in process and distributed. */
export const registry: Record<string, NodeFunction> = {
	/** Its `params.value`. */
	value: async ({ params }) => ({ output: params['value'] }),
	/** Its input. */
	echo: async ({ input }) => ({ output: input }),
	/** Its input under its own id. */
	wrap: async ({ input, params }) => ({ output: { [String(params['as'])]: input } }),
	/** Takes the action that its input names. */
	route: async ({ input, params }) => ({ output: input, action: String(params['action'] ?? input) }),
	add: async ({ input, params }) => ({ output: Number(input) + Number(params['by'] ?? 1) }),
	nothing: async () => ({}),
	fail: async ({ params }) => {
		throw new Error(String(params['message'] ?? 'deliberate'))
	},
	fatal: async () => {
		throw new FlowcraftError('fatal on purpose', { isFatal: true })
	},
	/** Writes `params.writes` and reads `params.reads`. */
	context: async ({ context, params }) => {
		for (const [key, value] of Object.entries((params['writes'] ?? {}) as Record<string, unknown>))
			await context.set(key, value)
		for (const key of (params['deletes'] ?? []) as string[]) await context.delete(key)
		const read: Record<string, unknown> = {}
		for (const key of (params['reads'] ?? []) as string[])
			read[key] = (await context.has(key)) ? await context.get(key) : 'missing'
		return { output: read }
	},
	/** Fails until its n-th attempt, which the attempt number of the engine or a counter in process tells. */
	flaky: async ({ params, dependencies }) => {
		const attempts = dependencies['attempts'] as Map<string, number>
		const name = String(params['name'])
		const attempt = (attempts.get(name) ?? 0) + 1
		attempts.set(name, attempt)
		if (attempt < Number(params['succeedsAt'])) throw new Error(`attempt ${attempt} of ${name}`)
		return { output: `succeeded at ${attempt}` }
	},
}

const node = (
	id: string,
	uses: string,
	params?: Record<string, unknown>,
	rest: Partial<WorkflowBlueprint['nodes'][number]> = {},
) => ({
	id,
	uses,
	...(params === undefined ? {} : { params }),
	...rest,
})
const edge = (source: string, target: string, rest: Partial<WorkflowBlueprint['edges'][number]> = {}) => ({
	source,
	target,
	...rest,
})

export const catalogue: readonly Case[] = [
	{ name: 'one node', blueprint: { nodes: [node('a', 'value', { value: 1 })], edges: [] } },
	{
		name: 'a chain hands its output on',
		blueprint: {
			nodes: [node('a', 'value', { value: 1 }), node('b', 'add'), node('c', 'add', { by: 10 })],
			edges: [edge('a', 'b'), edge('b', 'c')],
		},
	},
	{
		name: 'values of every kind come back as they went in',
		blueprint: {
			nodes: [
				node('a', 'value', {
					value: {
						z: 1,
						a: [null, true, 1.5, -0, 1e21, 'ä "quoted" \\ \u2028', {}],
						nested: { 'dotted.key': 0, __proto_: 1 },
					},
				}),
				node('b', 'echo'),
			],
			edges: [edge('a', 'b')],
		},
	},
	{
		name: 'null is an output',
		blueprint: {
			nodes: [node('a', 'value', { value: null }), node('b', 'wrap', { as: 'got' })],
			edges: [edge('a', 'b')],
		},
	},
	{
		name: 'a node may return nothing',
		blueprint: {
			nodes: [node('a', 'nothing'), node('b', 'wrap', { as: 'got' })],
			edges: [edge('a', 'b')],
		},
	},
	{
		name: 'two start nodes meet in an all join',
		blueprint: {
			nodes: [
				node('a', 'value', { value: 1 }),
				node('b', 'value', { value: 2 }),
				node('j', 'value', { value: 'joined' }),
			],
			edges: [edge('a', 'j'), edge('b', 'j')],
		},
	},
	{
		name: 'a join reads its predecessors by name',
		blueprint: {
			nodes: [
				node('a', 'value', { value: 1 }),
				node('b', 'value', { value: { deep: { er: 2 } } }),
				node('j', 'echo', {}, { inputs: { left: 'a', right: 'b', given: 'start' } }),
			],
			edges: [edge('a', 'j'), edge('b', 'j')],
		},
		input: { start: 'here' },
	},
	{
		name: 'inputs name a key of the initial context',
		blueprint: { nodes: [node('a', 'add', { by: 5 }, { inputs: 'start' })], edges: [] },
		input: { start: 37 },
	},
	{
		name: 'inputs that name nothing are undefined',
		blueprint: { nodes: [node('a', 'wrap', { as: 'got' }, { inputs: 'nowhere' })], edges: [] },
	},
	{
		name: 'a diamond',
		blueprint: {
			nodes: [
				node('a', 'value', { value: 1 }),
				node('b', 'add'),
				node('c', 'add', { by: 2 }),
				node('d', 'echo', {}, { inputs: { b: 'b', c: 'c' } }),
			],
			edges: [edge('a', 'b'), edge('a', 'c'), edge('b', 'd'), edge('c', 'd')],
		},
	},
	{
		name: 'an action takes its edges only',
		blueprint: {
			nodes: [
				node('a', 'value', { value: 'left' }),
				node('r', 'route'),
				node('l', 'echo'),
				node('x', 'echo'),
			],
			edges: [edge('a', 'r'), edge('r', 'l', { action: 'left' }), edge('r', 'x', { action: 'right' })],
		},
	},
	{
		name: 'an action without edges takes those without an action',
		blueprint: {
			nodes: [
				node('r', 'route', { action: 'unknown' }),
				node('l', 'value', { value: 1 }),
				node('d', 'value', { value: 2 }),
			],
			edges: [edge('r', 'l', { action: 'left' }), edge('r', 'd')],
		},
	},
	{
		name: 'a router with two ends',
		blueprint: {
			nodes: [
				node('r', 'route', { action: 'b' }),
				node('a', 'value', { value: 'A' }),
				node('b', 'value', { value: 'B' }),
			],
			edges: [edge('r', 'a', { action: 'a' }), edge('r', 'b', { action: 'b' })],
		},
	},
	{
		name: 'a condition on the result',
		blueprint: {
			nodes: [
				node('a', 'value', { value: { ok: true, no: false } }),
				node('b', 'value', { value: 'b' }),
				node('c', 'value', { value: 'c' }),
			],
			edges: [
				edge('a', 'b', { condition: 'result.output.ok' }),
				edge('a', 'c', { condition: 'result.output.no' }),
			],
		},
	},
	{
		name: 'a condition on the context',
		blueprint: {
			nodes: [
				node('a', 'context', { writes: { flag: { on: 1 } } }),
				node('b', 'value', { value: 'b' }),
				node('c', 'value', { value: 'c' }),
			],
			edges: [edge('a', 'b', { condition: 'flag.on' }), edge('a', 'c', { condition: 'absent.on' })],
		},
	},
	{
		name: 'a transform of the output',
		blueprint: {
			nodes: [node('a', 'value', { value: { inner: [1, 2] } }), node('b', 'echo')],
			edges: [edge('a', 'b', { transform: 'input.inner' })],
		},
	},
	{
		name: 'a transform that reads the context',
		blueprint: {
			nodes: [node('a', 'value', { value: 1 }), node('b', 'echo')],
			edges: [edge('a', 'b', { transform: 'context.settings.colour' })],
		},
		input: { settings: { colour: 'blue' } },
	},
	{
		name: 'a transform overrides explicit inputs',
		blueprint: {
			nodes: [node('a', 'value', { value: { n: 1 } }), node('b', 'echo', {}, { inputs: 'start' })],
			edges: [edge('a', 'b', { transform: 'input.n' })],
		},
		input: { start: 'unused' },
	},
	{
		name: 'a skipped branch ends there',
		blueprint: {
			nodes: [
				node('a', 'value', { value: { no: 0 } }),
				node('b', 'echo'),
				node('c', 'echo'),
				node('d', 'value', { value: 'd' }),
			],
			edges: [edge('a', 'b', { condition: 'result.output.no' }), edge('b', 'c'), edge('a', 'd')],
		},
	},
	{
		name: 'an all join behind a skipped branch never runs',
		blueprint: {
			nodes: [
				node('r', 'route', { action: 'go' }),
				node('a', 'value', { value: 'a' }),
				node('b', 'value', { value: 'b' }),
				node('j', 'value', { value: 'never' }),
			],
			edges: [
				edge('r', 'a', { action: 'go' }),
				edge('r', 'b', { action: 'stay' }),
				edge('a', 'j'),
				edge('b', 'j'),
			],
		},
	},
	{
		name: 'an any join behind a router runs once',
		blueprint: {
			nodes: [
				node('r', 'route', { action: 'go' }),
				node('a', 'value', { value: 'a' }),
				node('b', 'value', { value: 'b' }),
				node('j', 'echo', {}, { config: { joinStrategy: 'any' } }),
			],
			edges: [
				edge('r', 'a', { action: 'go' }),
				edge('r', 'b', { action: 'stay' }),
				edge('a', 'j'),
				edge('b', 'j'),
			],
		},
	},
	{
		name: 'context writes are seen downstream',
		blueprint: {
			nodes: [
				node('a', 'context', { writes: { x: 1, 'odd.key "quoted"': [2], '': 'empty' } }),
				node('b', 'context', { reads: ['x', 'odd.key "quoted"', '', 'absent', 'a', '_outputs.a'] }),
			],
			edges: [edge('a', 'b')],
		},
	},
	{
		name: 'a deleted key is gone',
		blueprint: {
			nodes: [
				node('a', 'context', { writes: { x: 1 }, deletes: ['given'] }),
				node('b', 'context', { deletes: ['x'], reads: ['x', 'given'] }),
				node('c', 'context', { reads: ['x', 'given'] }),
			],
			edges: [edge('a', 'b'), edge('b', 'c')],
		},
		input: { given: 1 },
	},
	{
		name: 'a node may overwrite the name of another',
		blueprint: {
			nodes: [
				node('a', 'value', { value: 1 }),
				node('b', 'context', { writes: { a: 'overwritten' } }),
				node('c', 'context', { reads: ['a', '_outputs.a'] }),
			],
			edges: [edge('a', 'b'), edge('b', 'c')],
		},
	},
	{
		name: 'a failure ends its branch, others go on, the run fails',
		blueprint: {
			nodes: [
				node('a', 'fail'),
				node('b', 'value', { value: 'not reached' }),
				node('c', 'value', { value: 1 }),
				node('d', 'add'),
			],
			edges: [edge('a', 'b'), edge('c', 'd')],
		},
	},
	{
		name: 'two failures are both reported',
		blueprint: {
			nodes: [node('a', 'fail', { message: 'first' }), node('b', 'fail', { message: 'second' })],
			edges: [],
		},
	},
	{
		name: 'a retry succeeds',
		blueprint: {
			nodes: [
				node(
					'a',
					'flaky',
					{ name: 'retry', succeedsAt: 3 },
					{ config: { maxRetries: 3, retryDelay: 1 } },
				),
				node('b', 'echo'),
			],
			edges: [edge('a', 'b')],
		},
	},
	{
		name: 'retries are exhausted',
		blueprint: {
			nodes: [
				node(
					'a',
					'flaky',
					{ name: 'exhausted', succeedsAt: 4 },
					{ config: { maxRetries: 3, retryDelay: 1 } },
				),
			],
			edges: [],
		},
	},
	{
		name: 'a fatal error is not retried',
		blueprint: {
			nodes: [node('a', 'fatal', {}, { config: { maxRetries: 5, retryDelay: 1 } })],
			edges: [],
		},
	},
	{
		name: 'a fallback stands in for a failed node',
		blueprint: {
			nodes: [
				node('a', 'fail', {}, { config: { fallback: 'f' } }),
				node('f', 'value', { value: 'rescued' }),
				node('b', 'echo'),
			],
			edges: [edge('a', 'b')],
		},
	},
	{
		name: 'a fallback that is not needed does not run',
		blueprint: {
			nodes: [
				node('a', 'value', { value: 'fine' }, { config: { fallback: 'f' } }),
				node('f', 'value', { value: 'unused' }),
				node('b', 'echo'),
			],
			edges: [edge('a', 'b')],
		},
	},
	{
		name: 'a fatal error skips the fallback',
		blueprint: {
			nodes: [
				node('a', 'fatal', {}, { config: { fallback: 'f' } }),
				node('f', 'value', { value: 'unused' }),
			],
			edges: [],
		},
	},
	{
		name: 'a fallback with edges of its own',
		blueprint: {
			nodes: [
				node('a', 'fail', {}, { config: { fallback: 'f' } }),
				node('f', 'value', { value: 'rescued' }),
				node('b', 'echo'),
				node('c', 'echo'),
			],
			edges: [edge('a', 'b'), edge('f', 'c')],
		},
	},
	{
		name: 'a subflow maps inputs and outputs',
		blueprint: {
			nodes: [
				node('a', 'value', { value: 20 }),
				node('s', 'subflow', {
					blueprintId: 'child-adds',
					inputs: { n: 'a', m: 'given' },
					outputs: { sum: 'plus' },
				}),
				node('b', 'context', { reads: ['sum'] }),
			],
			edges: [edge('a', 's'), edge('s', 'b')],
		},
		input: { given: 3 },
	},
	{
		name: 'a subflow without mappings passes its input to the start nodes and returns the end',
		blueprint: {
			nodes: [
				node('a', 'value', { value: 20 }),
				node('s', 'subflow', { blueprintId: 'child-echoes' }),
				node('b', 'echo'),
			],
			edges: [edge('a', 's'), edge('s', 'b')],
		},
	},
	{
		name: 'a subflow with two ends returns both',
		blueprint: {
			nodes: [
				node('a', 'value', { value: 1 }),
				node('s', 'subflow', { blueprintId: 'child-forks' }),
				node('b', 'echo'),
			],
			edges: [edge('a', 's'), edge('s', 'b')],
		},
	},
	{
		name: 'a failed subflow fails its node',
		blueprint: {
			nodes: [node('s', 'subflow', { blueprintId: 'child-fails' }), node('b', 'echo')],
			edges: [edge('s', 'b')],
		},
	},
	{
		name: 'a failed subflow has a fallback',
		blueprint: {
			nodes: [
				node('s', 'subflow', { blueprintId: 'child-fails' }, { config: { fallback: 'f' } }),
				node('f', 'value', { value: 'rescued' }),
				node('b', 'echo'),
			],
			edges: [edge('s', 'b')],
		},
	},
	{
		name: 'subflows in subflows',
		blueprint: {
			nodes: [
				node('a', 'value', { value: 7 }),
				node('s', 'subflow', { blueprintId: 'child-nests' }),
				node('b', 'echo'),
			],
			edges: [edge('a', 's'), edge('s', 'b')],
		},
	},
]

export const children: readonly WorkflowBlueprint[] = [
	{ id: 'child-adds', nodes: [node('plus', 'add', { by: 2 }, { inputs: 'n' })], edges: [] },
	{
		id: 'child-echoes',
		nodes: [node('in', 'echo'), node('out', 'wrap', { as: 'child' })],
		edges: [edge('in', 'out')],
	},
	{
		id: 'child-forks',
		nodes: [node('in', 'echo'), node('l', 'add'), node('r', 'add', { by: 2 })],
		edges: [edge('in', 'l'), edge('in', 'r')],
	},
	{ id: 'child-fails', nodes: [node('x', 'fail', { message: 'inside' })], edges: [] },
	{
		id: 'child-nests',
		nodes: [node('in', 'echo'), node('deep', 'subflow', { blueprintId: 'child-echoes' })],
		edges: [edge('in', 'deep')],
	},
]

/** Implementations without side effects outside the context: the same in process and distributed. */
import {
	BaseNode,
	FlowcraftError,
	type NodeClass,
	type NodeContext,
	type NodeFunction,
	SleepNode,
} from 'flowcraft'

/** Has its n-th attempt been reached? Counted by name, in process and distributed alike. */
function attemptOf({ params, dependencies }: Pick<NodeContext, 'params' | 'dependencies'>): number {
	const attempts = dependencies['attempts'] as Map<string, number>
	const name = String(params['name'])
	const attempt = (attempts.get(name) ?? 0) + 1
	attempts.set(name, attempt)
	return attempt
}

/** Shows its phases. Fails in `exec` until `params.succeedsAt`, if given; `params.rescue`: then `fallback` makes it good. */
class Phases extends BaseNode {
	private prepared = 0

	override async prep(context: NodeContext): Promise<unknown> {
		this.prepared += 1
		const { name } = context.params
		if (typeof name === 'string') {
			const attempts = context.dependencies['attempts'] as Map<string, number>
			attempts.set(`${name} preps`, (attempts.get(`${name} preps`) ?? 0) + 1)
		}
		return context.input
	}

	override async exec(prepared: unknown, context: NodeContext) {
		const { succeedsAt } = context.params
		if (typeof succeedsAt === 'number' && attemptOf(context) < succeedsAt) throw new Error('not in exec')
		return { output: { executed: prepared ?? null } }
	}

	override async post(result: { output?: unknown }, context: NodeContext) {
		const attempts = context.dependencies['attempts'] as Map<string, number>
		return {
			output: {
				...(result.output as object),
				preps: attempts.get(`${String(context.params['name'])} preps`) ?? this.prepared,
			},
		}
	}

	override async fallback(error: Error, context: NodeContext) {
		if (context.params['rescue'] !== true) throw error
		return { output: { rescued: error.message } }
	}

	override async recover(error: Error, context: NodeContext): Promise<void> {
		await context.context.set('recovered from', error.message)
	}
}

const functions: Record<string, NodeFunction> = {
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
	patch: async ({ context, params }) => {
		await context.patch(params['operations'] as Parameters<typeof context.patch>[0])
		return { output: Object.keys(await context.toJSON()).includes('kept') }
	},
	/** Fails until its n-th attempt, which the attempt number of the engine or a counter in process tells. */
	flaky: async (context) => {
		const attempt = attemptOf(context)
		if (attempt < Number(context.params['succeedsAt']))
			throw new Error(`attempt ${attempt} of ${String(context.params['name'])}`)
		return { output: `succeeded at ${attempt}` }
	},
	/** Writes, then fails at its first attempt; at the second it tells whether the writing is there. */
	'write-then-fail': async (context) => {
		const before = await context.context.has('left behind')
		await context.context.set('left behind', true)
		if (attemptOf(context) === 1) throw new Error('after it wrote')
		return { output: { before } }
	},
	/** Adds one to the key `params.key` of the context. */
	count: async ({ context, params }) => {
		const key = String(params['key'])
		const next = Number((await context.get(key)) ?? 0) + 1
		await context.set(key, next)
		return { output: next }
	},
	/** Sets `params.key` to zero. */
	reset: async ({ context, params }) => {
		await context.set(String(params['key']), 0)
		return {}
	},
	/** Appends to the list under `params.key` what stands under the keys `params.of`. */
	append: async ({ context, params }) => {
		const key = String(params['key'])
		const values = await Promise.all((params['of'] as string[]).map((each) => context.get(each)))
		await context.set(key, [...(((await context.get(key)) ?? []) as unknown[]), values])
		return {}
	},
	double: async ({ input }) => ({ output: Number(input) * 2 }),
	/** Fails for the item `params.but`, 13 if not given. */
	picky: async ({ input, params }) => {
		if (input === (params['but'] ?? 13)) throw new Error(`not ${String(input)}`)
		return { output: input }
	},
	/** Adds `params.nodes` to the run. */
	'add-nodes': async ({ params }) =>
		({ output: params['output'] ?? {}, dynamicNodes: params['nodes'] }) as never,
	/** Takes 200 ms, unless its signal aborts. */
	slow: ({ signal }) =>
		new Promise((resolve, reject) => {
			const timer = setTimeout(() => resolve({ output: 'in time' }), 200)
			signal?.addEventListener('abort', () => {
				clearTimeout(timer)
				reject(signal.reason as Error)
			})
		}),
	date: async () => ({ output: new Date(0) }),
	'is-date': async ({ input }) => ({ output: input instanceof Date }),
	'await-self': async ({ dependencies }) => {
		await dependencies.workflowState.markAsAwaiting('own', { reason: 'external_event' })
		return { output: 'provisional' }
	},
	'await-other': async ({ dependencies }) => {
		await dependencies.workflowState.markAsAwaiting('b')
		return {}
	},
	depends: async ({ dependencies }) => ({ output: dependencies['greeting'] }),
}

export const registry: Record<string, NodeFunction | NodeClass> = {
	...functions,
	phases: Phases,
	nap: SleepNode,
}

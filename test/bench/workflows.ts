/** The workflows that the benchmark runs: nodes that do next to nothing, so that what is measured is the engine. */
import { createFlow, type NodeContext, type NodeFunction, type WorkflowBlueprint } from 'flowcraft'
import { setTimeout as delay } from 'node:timers/promises'

export const registry: Record<string, NodeFunction> = {
	step: async ({ input }) => ({ output: input ?? 1 }),
	/** Fifty milliseconds that somebody else works: an HTTP call, say. */
	call: async () => {
		await delay(50)
		return { output: 1 }
	},
	/** One attempt of twenty fails. */
	flaky: async ({ input }) => {
		if (Math.random() < 0.05) throw new Error('One of the five percent')
		return { output: input ?? 1 }
	},
	/** Reads one small key of a context that may be large. */
	peek: async ({ context }) => ({ output: await context.get('n') }),
}

function chain(
	id: string,
	length: number,
	uses = 'step',
	config: Readonly<Record<string, unknown>> = {},
): WorkflowBlueprint {
	const ids = Array.from({ length }, (_, position) => `n${position}`)
	return {
		id,
		nodes: ids.map((node) => ({ id: node, uses, config })),
		edges: ids.slice(1).map((target, position) => ({ source: `n${position}`, target })),
	}
}

function fanOut(width: number): WorkflowBlueprint {
	const ids = Array.from({ length: width }, (_, position) => `w${position}`)
	return {
		id: `fan-out-${width}`,
		nodes: ['start', ...ids, 'end'].map((id) => ({ id, uses: 'step' })),
		edges: ids.flatMap((id) => [
			{ source: 'start', target: id },
			{ source: id, target: 'end' },
		]),
	}
}

const batch = (items: number) =>
	createFlow(`batch-${items}`).batch('all', async ({ input }: NodeContext) => ({ output: input }), {
		inputKey: 'items',
		outputKey: 'results',
	})

/** Waits to be resumed, so that its start, which writes the context, is not measured with the nodes that follow. */
const PEEKS = 50
const largeContext: WorkflowBlueprint = (() => {
	const { nodes, edges } = chain('large-context', PEEKS, 'peek')
	return {
		id: 'large-context',
		nodes: [{ id: 'wait', uses: 'wait' }, ...nodes],
		edges: [{ source: 'wait', target: 'n0' }, ...edges],
	}
})()

const all = [
	chain('chain-1', 1),
	chain('chain-3', 3),
	chain('chain-10', 10),
	chain('chain-3-calls', 3, 'call'),
	chain('chain-3-flaky', 3, 'flaky', { maxRetries: 5, retryDelay: 10 }),
	fanOut(10),
	fanOut(100),
	fanOut(1_000),
	fanOut(10_000),
	largeContext,
	{ id: 'waiting', nodes: [{ id: 'wait', uses: 'wait' }], edges: [] },
]

export const blueprints = {
	...Object.fromEntries(all.map((blueprint) => [blueprint.id, blueprint])),
	...Object.fromEntries([50, 1_000, 10_000].map((items) => [`batch-${items}`, batch(items)])),
}

/** How many nodes a run of each executes. */
export const NODES: Readonly<Record<string, number>> = {
	'chain-1': 1,
	'chain-3': 3,
	'chain-10': 10,
	'chain-3-calls': 3,
	'chain-3-flaky': 3,
	'fan-out-10': 12,
	'fan-out-100': 102,
	'fan-out-1000': 1_002,
	'fan-out-10000': 10_002,
	'large-context': PEEKS + 1,
	'batch-50': 52,
	'batch-1000': 1_002,
	'batch-10000': 10_002,
}

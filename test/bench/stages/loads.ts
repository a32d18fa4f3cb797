/** Further loads on one worker. */
import type { Stage } from '../session.js'
import { NODES } from '../workflows.js'

export const batches: Stage = {
	name: 'batch',
	summary: 'batches of 1,000 and 10,000 items',
	async run(session) {
		const system = await session.system()
		for (const items of session.sizes.batches)
			await session.measure(`batches of ${items.toLocaleString('en')}`, system, {
				workload: `batch-${items}`,
				total: Math.max(Math.round(3_000 / items), 1),
				inFlight: 1,
			})
	},
}

const MIX = ['chain-10', 'fan-out-100', 'batch-50', 'chain-3-calls', 'chain-3-flaky', 'chain-3', 'fan-out-10']

/** Everything at once, so that runs of all kinds share the batches of the commit. */
export const mixed: Stage = {
	name: 'mixed',
	summary: 'chains, fan-outs, batches, calls and failures with 100 runs at once',
	async run(session) {
		const system = await session.system()
		let next = 0
		const engine = {
			watched: system.watched,
			live: () => system.live(),
			async start(_: string, count: number) {
				const workloads = Array.from({ length: count }, () => MIX[next++ % MIX.length] ?? 'chain-3')
				await Promise.all(
					MIX.map((workload) =>
						system.start(workload, workloads.filter((each) => each === workload).length),
					),
				)
			},
		}
		const rounds = Math.ceil(session.sizes.mixedRuns / MIX.length)
		const nodes = MIX.reduce((sum, workload) => sum + (NODES[workload] ?? Number.NaN), 0)
		await session.measure(
			'mixed load, 100 runs at once',
			engine,
			{ workload: 'mixed', total: rounds * MIX.length, inFlight: 100 },
			nodes / MIX.length,
		)
	},
}

/** Nodes that wait for somebody else: the worker's slots are the limit, not the engine. */
export const calls: Stage = {
	name: 'calls',
	summary: 'chains of 3 whose nodes take 50 ms of asynchronous time',
	async run(session) {
		const { runs: total, inFlight } = session.sizes
		await session.measure('chain of 3, nodes of 50 ms', await session.system(), {
			workload: 'chain-3-calls',
			total,
			inFlight,
		})
	},
}

export const failures: Stage = {
	name: 'failures',
	summary: 'chains of 3 in which one attempt of twenty fails and is repeated after 10 ms or more',
	async run(session) {
		const { runs: total, inFlight } = session.sizes
		await session.measure('chain of 3, 5% failures', await session.system(), {
			workload: 'chain-3-flaky',
			total,
			inFlight,
		})
	},
}

export const twoWorkers: Stage = {
	name: 'workers',
	summary: 'the chain of 3 and the fan-out of 1,000 with two worker processes',
	async run(session) {
		await session.quiet()
		const { inFlight } = session.sizes
		const system = await session.startSystem({ workers: 2 })
		try {
			await session.pace('chain of 3, two workers', system, { workload: 'chain-3', inFlight })
			await session.pace('fan-out 1,000, two workers', system, {
				workload: 'fan-out-1000',
				inFlight: 1,
			})
		} finally {
			await system.stop()
		}
	},
}

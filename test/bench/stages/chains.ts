import type { Stage } from '../session.js'

/** Chains of trivial nodes, as many in flight as the comparison asks for. */
export const chains: Stage = {
	name: 'chain',
	summary: 'chains of 3 and of 10 with hundreds of runs in flight',
	async run(session) {
		const system = await session.system()
		const { inFlight } = session.sizes
		await session.pace('chain of 3', system, { workload: 'chain-3', inFlight })
		await session.pace('chain of 10', system, { workload: 'chain-10', inFlight })
	},
}

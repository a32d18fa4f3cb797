import type { Stage } from '../session.js'

/** Fan-outs: 1,000 wide alone, as they are compared with others; and the same number of nodes in every width. */
export const fanOuts: Stage = {
	name: 'fan-out',
	summary: 'fan-outs of 1,000 one by one, and of 100 to 10,000 with equally many nodes',
	async run(session) {
		const system = await session.system()
		const { fanOutNodes, widths } = session.sizes
		await session.pace('fan-out 1,000', system, { workload: 'fan-out-1000', inFlight: 1 })
		for (const width of widths) {
			const runs = fanOutNodes / width
			const name = `fan-outs of ${width.toLocaleString('en')}`
			await session.measure(name, system, {
				workload: `fan-out-${width}`,
				total: runs,
				inFlight: runs,
			})
		}
	},
}

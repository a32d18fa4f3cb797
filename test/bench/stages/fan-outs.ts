import { timeLoad } from '../in-flight.js'
import { type Stage, WARM_UP_FAN_OUTS } from '../session.js'

/** Fan-outs: 1,000 wide alone, as they are compared with others; and the same number of nodes in every width. */
export const fanOuts: Stage = {
	name: 'fan-out',
	summary: 'fan-outs of 1,000 one by one, and of 100 to 10,000 with equally many nodes',
	async run(session) {
		const system = await session.system()
		const { fanOuts: total, fanOutNodes, widths } = session.sizes
		const oneByOne = { workload: 'fan-out-1000', inFlight: 1 }
		await timeLoad(system, { ...oneByOne, total: WARM_UP_FAN_OUTS })
		await session.measure('fan-out 1,000', system, { ...oneByOne, total })
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

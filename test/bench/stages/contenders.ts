import { bullmq } from '../contenders/bullmq.js'
import type { Contender } from '../contenders/contender.js'
import { dbos } from '../contenders/dbos.js'
import { openworkflow } from '../contenders/openworkflow.js'
import { timeLoad } from '../in-flight.js'
import type { Session, Stage } from '../session.js'

const CONTENDERS: readonly Contender[] = [dbos, openworkflow, bullmq]

const WARM_UP_RUNS = 100

/** The same chains and fan-outs, in the same numbers, by another system. */
export const contenders: readonly Stage[] = CONTENDERS.map((contender) => ({
	name: contender.id,
	summary: `${contender.name}: the chain of 3 and the fan-out of 1,000`,
	run: (session) => measure(session, contender),
}))

async function measure(session: Session, { name, chain, fanOut, start }: Contender): Promise<void> {
	await session.quiet()
	const { results, sizes } = session
	const running = await start(session.lab)
	try {
		await timeLoad(running, { workload: chain.workload, total: WARM_UP_RUNS, inFlight: WARM_UP_RUNS })
		const chains = await timeLoad(running, {
			workload: chain.workload,
			total: sizes.runs,
			inFlight: sizes.inFlight,
		})
		results.add(`${name}: chain of 3`, (sizes.runs * chain.nodes) / chains, 'nodes/s')
		const fanOuts = await timeLoad(running, {
			workload: fanOut.workload,
			total: sizes.fanOuts,
			inFlight: 1,
		})
		results.add(`${name}: fan-out 1,000`, (sizes.fanOuts * fanOut.nodes) / fanOuts, 'nodes/s')
	} finally {
		await running.stop()
	}
}

import { bullmq } from '../contenders/bullmq.js'
import type { Contender } from '../contenders/contender.js'
import { dbos } from '../contenders/dbos.js'
import { openworkflow } from '../contenders/openworkflow.js'
import { timeLoad } from '../in-flight.js'
import { type Session, type Stage, WARM_UP_FAN_OUTS, WARM_UP_RUNS } from '../session.js'

const CONTENDERS: readonly Contender[] = [dbos, openworkflow, bullmq]

/** The same chains and fan-outs, in the same numbers, by another system. */
export const contenders: readonly Stage[] = CONTENDERS.map((contender) => ({
	name: contender.id,
	summary: `${contender.name}: the chain of 3 and the fan-out of 1,000`,
	run: (session) => measure(session, contender),
}))

async function measure(session: Session, { name, chain, fanOut, start }: Contender): Promise<void> {
	await session.quiet()
	const { sizes } = session
	const running = await start(session.lab)
	try {
		await timeLoad(running, { workload: chain.workload, total: WARM_UP_RUNS, inFlight: WARM_UP_RUNS })
		await session.measure(
			`${name}: chain of 3`,
			running,
			{ workload: chain.workload, total: sizes.runs, inFlight: sizes.inFlight },
			chain.nodes,
		)
		const oneByOne = { workload: fanOut.workload, inFlight: 1 }
		await timeLoad(running, { ...oneByOne, total: WARM_UP_FAN_OUTS })
		await session.measure(
			`${name}: fan-out 1,000`,
			running,
			{ ...oneByOne, total: sizes.fanOuts },
			fanOut.nodes,
		)
	} finally {
		await running.stop()
	}
}

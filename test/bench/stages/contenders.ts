import { bullmq } from '../contenders/bullmq.js'
import type { Contender } from '../contenders/contender.js'
import { dbos } from '../contenders/dbos.js'
import { openworkflow } from '../contenders/openworkflow.js'
import type { Session, Stage } from '../session.js'

const CONTENDERS: readonly Contender[] = [dbos, openworkflow, bullmq]

/** The same chains and fan-outs, for the same time, by another system. */
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
		await session.pace(
			`${name}: chain of 3`,
			running,
			{ workload: chain.workload, inFlight: sizes.inFlight },
			chain.nodes,
		)
		await session.pace(
			`${name}: fan-out 1,000`,
			running,
			{ workload: fanOut.workload, inFlight: 1 },
			fanOut.nodes,
		)
	} finally {
		await running.stop()
	}
}

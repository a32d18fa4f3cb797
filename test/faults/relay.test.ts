/** Relays die at every step: whatever they had in hand is published all the same, and nothing happens twice by it. */
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { checkHistory, expectSound } from './lab/checker.js'
import { type Lab, type LabProcess, openLab, TIMES } from './lab/lab.js'
import { PUBLISH } from './lab/wire.js'
import { createWorkload, type Workload } from './lab/workload.js'

let lab: Lab
beforeAll(async () => {
	lab = await openLab()
})
afterEach(() => lab.rest())
afterAll(() => lab.close())

let seed = 0
/** Functions, a worker, and a relay that stands still until it is needed; victims are each test's own. */
async function begin(): Promise<{ workload: Workload; other: LabProcess }> {
	const [other] = await Promise.all([lab.startRelay(), lab.startFunctions(), lab.startWorker()])
	other.freeze()
	return { workload: createWorkload(lab, { seed: (seed += 1) }), other }
}

async function finishSoundly(workload: Workload, minimumCompleted: number): Promise<void> {
	await workload.finish()
	expectSound(await checkHistory(lab, { ledger: workload.ledger, minimumCompleted }))
}

test('a relay killed after its claim: another one publishes what it had taken, within its claim period', async () => {
	const { workload, other } = await begin()
	const rabbitMq = await lab.road('rabbitMq')
	const victim = await lab.startRelay({ roads: { rabbitMq } })
	const killed = rabbitMq.when('to server', PUBLISH, (connection) => {
		connection.cut()
		void victim.kill()
	})
	const { runId } = await workload.startOne('lab-chain')
	await killed
	const killedAt = Date.now()
	other.thaw()
	const [taken] = await lab.rows<{ claimed: boolean }>(
		'select claim_token is not null as claimed from flowcraft_outbox where run_id = $1',
		runId,
	)
	expect(taken?.claimed).toBe(true)
	const { started } = await lab.executing(runId, 'a')
	console.log(
		`executed ${Math.round(started - killedAt)} ms after the kill; claims last ${TIMES.RELAY_CLAIM_MS} ms`,
	)
	await finishSoundly(workload, 1)
})

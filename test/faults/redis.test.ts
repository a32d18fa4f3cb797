/** Redis only hints: whatever becomes of it, runs take a little longer at most. */
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest'
import { checkHistory, expectSound } from './lab/checker.js'
import { flushRedis } from './lab/faults.js'
import { type Lab, type LabProcess, openLab } from './lab/lab.js'
import { createWorkload, type Workload } from './lab/workload.js'

// Processes start, servers recover and leases pass, on a machine that may be several times too busy.
vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 })

let lab: Lab
let standing: LabProcess[] = []
let workload: Workload
beforeAll(async () => {
	lab = await openLab({ redis: 'private' })
	standing = await Promise.all([lab.startFunctions(), lab.startRelay(), lab.startWorker()])
	workload = createWorkload(lab, { seed: 1 })
})
afterEach(() => lab.rest(standing))
afterAll(() => lab.close())

async function expectSoundEnd(): Promise<void> {
	await workload.finish()
	expectSound(
		await checkHistory(lab, {
			ledger: workload.ledger,
			minimumCompleted: Math.floor(workload.ledger.length * 0.9),
		}),
	)
	expect(standing.map(({ isRunning }) => isRunning)).toEqual(standing.map(() => true))
}

test('Redis flushed under load: nothing is lost, nothing was in it', async () => {
	await Promise.all([workload.start(42), flushRedis(lab), flushRedis(lab)])
	await flushRedis(lab)
	await expectSoundEnd()
})

test('Redis killed under load: the load goes on without it, and with it when it is back', async () => {
	await Promise.all([workload.start(28), lab.servers.redis?.kill()])
	await expectSoundEnd()
	await Promise.all([workload.start(28), lab.servers.redis?.restart()])
	await expectSoundEnd()
})

test('Redis stopped (SIGSTOP) under load: nobody waits for it', async () => {
	await Promise.all([workload.start(28), lab.servers.redis?.kill('SIGSTOP')])
	await expectSoundEnd()
	await lab.servers.redis?.kill('SIGCONT')
	await workload.start(14)
	await expectSoundEnd()
})

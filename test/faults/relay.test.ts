/** Relays die at every step: whatever they had in hand is published all the same, and nothing happens twice by it. */
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest'
import { waitFor } from '../support/wait-for.js'
import { checkHistory, expectSound } from './lab/checker.js'
import { type Lab, type LabProcess, openLab, SLACK_MS, TIMES } from './lab/lab.js'
import { ACK, PUBLISH, SETTLE } from './lab/wire.js'
import { createWorkload, type Workload } from './lab/workload.js'

// Processes start, servers recover and leases pass, on a machine that may be several times too busy.
vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 })

let lab: Lab
/** Functions and a worker, and a relay that stands still until it is needed; victims are each test's own. */
let standing: LabProcess[] = []
let other: LabProcess | undefined
beforeAll(async () => {
	lab = await openLab()
	standing = await Promise.all([lab.startFunctions(), lab.startWorker()])
})
afterEach(() => lab.rest([...standing, ...(other === undefined ? [] : [other])]))
afterAll(() => lab.close())

let seed = 0
async function begin(): Promise<{ workload: Workload; other: LabProcess }> {
	if (other?.isRunning !== true) other = await lab.startRelay()
	other.freeze()
	return { workload: createWorkload(lab, { seed: (seed += 1) }), other }
}

async function expectSoundEnd(workload: Workload, minimumCompleted: number): Promise<void> {
	await workload.finish()
	expectSound(await checkHistory(lab, { ledger: workload.ledger, minimumCompleted }))
}

const outboxOf = (runId: string) =>
	lab.rows<{ node_id: string; claimed: boolean; failures: number }>(
		'select node_id, claim_token is not null as claimed, failures from flowcraft_outbox where run_id = $1',
		runId,
	)

test('a relay killed after its claim: another one publishes what it had taken, within its claim period', async () => {
	const { workload, other } = await begin()
	const rabbitMq = await lab.road('rabbitMq')
	const victim = await lab.startRelay({ roads: { rabbitMq } })
	let killedAt = 0
	const killed = rabbitMq.when('to server', PUBLISH, (connection) => {
		connection.cut()
		void victim.kill()
		killedAt = Date.now()
	})
	const { runId } = await workload.startOne('lab-chain')
	await killed
	other.thaw()
	expect(await outboxOf(runId)).toMatchObject([{ node_id: 'a', claimed: true }])
	const { started } = await lab.executing(runId, 'a')
	console.log(
		`executed ${Math.round(started - killedAt)} ms after the relay's death; its claim was for ${TIMES.RELAY_CLAIM_MS} ms`,
	)
	expect(started - killedAt).toBeLessThan(TIMES.RELAY_CLAIM_MS + SLACK_MS)
	await expectSoundEnd(workload, 1)
})

test('a relay killed after it has published, before the confirm: the row comes again, the node runs once', async () => {
	const { workload, other } = await begin()
	const rabbitMq = await lab.road('rabbitMq')
	const victim = await lab.startRelay({ roads: { rabbitMq } })
	const killed = rabbitMq.when('to server', PUBLISH, () => void victim.kill())
	const { runId } = await workload.startOne('lab-chain', { hold: 'a' })
	await killed
	await lab.executing(runId, 'a')
	expect(await outboxOf(runId)).toMatchObject([{ node_id: 'a', claimed: true }])
	other.thaw()
	await waitFor('the row to be settled', async () => (await outboxOf(runId)).length === 0)
	await lab.openGate(runId, 'a')
	await expectSoundEnd(workload, 1)
})

test('a relay killed after the confirm, before it has deleted the row: the row comes again, the node runs once', async () => {
	const { workload, other } = await begin()
	const postgres = await lab.road('postgres')
	const victim = await lab.startRelay({ roads: { postgres } })
	const killed = postgres.when('to server', SETTLE, (connection) => {
		connection.cut()
		void victim.kill()
	})
	const { runId } = await workload.startOne('lab-chain', { hold: 'a' })
	await killed
	await lab.executing(runId, 'a')
	expect(await outboxOf(runId)).toMatchObject([{ node_id: 'a', claimed: true, failures: 0 }])
	other.thaw()
	await waitFor('the row to be settled', async () => (await outboxOf(runId)).length === 0)
	await lab.openGate(runId, 'a')
	await expectSoundEnd(workload, 1)
})

test('a relay killed after it has deleted the row: nothing is missing', async () => {
	const { workload, other } = await begin()
	const victim = await lab.startRelay()
	const { runId } = await workload.startOne('lab-chain', { hold: 'a' })
	await waitFor('the row to be deleted', async () => (await outboxOf(runId)).length === 0)
	await victim.kill()
	other.thaw()
	await lab.executing(runId, 'a')
	await lab.openGate(runId, 'a')
	await expectSoundEnd(workload, 1)
})

test('a relay whose confirms are lost publishes again, through another one too, and each node runs once', async () => {
	const { workload, other } = await begin()
	const rabbitMq = await lab.road('rabbitMq')
	const deaf = await lab.startRelay({ roads: { rabbitMq } })
	const silenced = rabbitMq.when('to server', PUBLISH, (connection) => connection.blackhole('to client'))
	await workload.start(14)
	await silenced
	// It gives up waiting, and the rows are free for others.
	await deaf.process.waitForLine(/A message was not published/)
	other.thaw()
	await expectSoundEnd(workload, 12)
	rabbitMq.cut()
	await other.kill()
	await workload.startOne('lab-chain')
	await expectSoundEnd(workload, 13)
})

test('a connection cut in the middle of a batch: what has no verdict is published again, each node runs once', async () => {
	const { workload } = await begin()
	for (let tries = 1; ; tries += 1) {
		await workload.start(120, { blueprints: ['lab-one'], parallel: 16 })
		const rabbitMq = await lab.road('rabbitMq')
		let isCut = false
		// The first confirm gets through.
		void rabbitMq.when('to client', ACK).then(() =>
			rabbitMq.when('to client', ACK, (connection) => {
				isCut = true
				connection.cut()
			}),
		)
		const relay = await lab.startRelay({ roads: { rabbitMq } })
		await waitFor(
			'the cut, or the last message',
			async () => isCut || (await lab.rows('select 1 from flowcraft_outbox limit 1')).length === 0,
		)
		await expectSoundEnd(workload, 120 * tries)
		if (isCut) break
		// RabbitMQ has confirmed all of them together.
		await relay.kill()
		expect(tries).toBeLessThan(10)
	}
})

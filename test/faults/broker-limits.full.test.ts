/** RabbitMQ at its limits: full, out of memory, out of patience with a consumer. Nothing is lost, and nobody waits for ever. */
import { setTimeout as delay } from 'node:timers/promises'
import { connect } from 'amqplib'
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest'
import { waitFor } from '../support/wait-for.js'
import { checkHistory, expectSound } from './lab/checker.js'
import { type Lab, type LabProcess, openLab } from './lab/lab.js'
import { createWorkload, type Workload } from './lab/workload.js'

// Processes start, servers recover and leases pass, on a machine that may be several times too busy.
vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 })

let lab: Lab
let standing: LabProcess[] = []
let relay: LabProcess
let workload: Workload
beforeAll(async () => {
	lab = await openLab({ rabbitMq: 'private' })
	standing = await Promise.all([lab.startRelay(), lab.startFunctions(), lab.startWorker()])
	relay = standing[0] as LabProcess
	workload = createWorkload(lab, { seed: 1 })
})
afterEach(() => lab.rest(standing))
afterAll(() => lab.close())

async function expectSoundEnd(minimumCompleted: number): Promise<void> {
	await workload.finish({ deadlineMs: 180_000 })
	expectSound(await checkHistory(lab, { ledger: workload.ledger, minimumCompleted }))
	expect(standing.map(({ isRunning }) => isRunning)).toEqual(standing.map(() => true))
}

test('a queue that is full (reject-publish) takes nothing for published, and all goes out when there is room', async () => {
	const { control } = lab.servers.rabbitMq ?? {}
	if (control === undefined) throw new Error('no RabbitMQ of its own')
	await control(
		'set_policy',
		'full',
		`^${lab.queue}$`,
		'{"max-length":2,"overflow":"reject-publish"}',
		'--apply-to',
		'queues',
	)
	// Nobody takes anything out.
	for (const worker of lab.workers) worker.freeze()
	// A limit is soft: RabbitMQ tells a channel only some messages later.
	let refused = false
	const refusal = relay.process
		.waitForLine(/refused by RabbitMQ \(nack\)/, { deadlineMs: 120_000 })
		.finally(() => (refused = true))
	refusal.catch(() => {})
	while (!refused) await workload.start(7, { blueprints: ['lab-chain'] })
	await refusal
	for (const worker of lab.workers) worker.thaw()
	await control('clear_policy', 'full')
	await expectSoundEnd(Math.floor(workload.ledger.length * 0.9))
})

test('a memory alarm blocks the relay, starts are accepted meanwhile, and all goes out when it is over', async () => {
	const { control } = lab.servers.rabbitMq ?? {}
	if (control === undefined) throw new Error('no RabbitMQ of its own')
	await control('set_vm_memory_high_watermark', 'absolute', '1MB')
	await workload.start(28)
	await relay.process.waitForLine(/RabbitMQ accepts no messages/, { deadlineMs: 60_000 })
	// A blocked broker pauses the relay: it takes no rows that it could not publish.
	await waitFor('the relay to let go of its rows', async () => {
		const [rows] = await lab.rows<{ waiting: number; claimed: number }>(
			`select count(*)::int as waiting, count(*) filter (where claimed_until > clock_timestamp())::int as claimed
			from flowcraft_outbox where kind = 'job'`,
		)
		return rows !== undefined && rows.waiting > 0 && rows.claimed === 0
	})
	await control('set_vm_memory_high_watermark', 'absolute', '512MB')
	await expectSoundEnd(Math.floor(workload.ledger.length * 0.9))
})

test('a node that outlives RabbitMQ’s consumer timeout runs once: its message was acked before', async () => {
	const { control } = lab.servers.rabbitMq ?? {}
	if (control === undefined) throw new Error('no RabbitMQ of its own')
	// 30 minutes in production, looked at once a minute: here 1 s, looked at twice a second, on channels opened from now on.
	await control(
		'eval',
		'application:set_env(rabbit, consumer_timeout, 1000), application:set_env(rabbit, channel_tick_interval, 500).',
	)
	lab.roads.rabbitMq.cut()
	// That it is in force: somebody else who does not ack loses his channel.
	const connection = await connect(lab.rabbitMqUrl)
	connection.on('error', () => {})
	const channel = await connection.createChannel()
	const closed = new Promise<Error>((resolve) => channel.once('error', resolve))
	const { queue } = await channel.assertQueue(`slow-${Date.now()}`, {
		durable: true,
		arguments: { 'x-queue-type': 'quorum' },
	})
	await channel.consume(queue, () => {})
	channel.sendToQueue(queue, Buffer.from('never acked'))
	const run = await workload.startOne('lab-chain', { hold: 'a' })
	await lab.executing(run.runId, 'a')
	expect((await closed).message).toMatch(/PRECONDITION_FAILED|timeout/)
	await connection.close().catch(() => {})
	// Twice the timeout, and the worker has its channel still.
	await delay(2_000)
	await lab.openGate(run.runId, 'a')
	await expectSoundEnd(Math.floor(workload.ledger.length * 0.9))
	const executions = await lab.rows('select 1 from lab_executions where run_id = $1', run.runId)
	expect(executions).toHaveLength(3)
	await control(
		'eval',
		'application:unset_env(rabbit, channel_tick_interval), application:set_env(rabbit, consumer_timeout, 1800000).',
	)
	lab.roads.rabbitMq.cut()
})

/** RabbitMQ is restarted, emptied, changed and starved under load: every message that gets lost is sent again, none twice. */
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest'
import type { TcpProxy } from '../support/tcp-proxy.js'
import { waitFor } from '../support/wait-for.js'
import { checkHistory, expectSound } from './lab/checker.js'
import { onBroker, portOpen } from './lab/faults.js'
import { type Lab, type LabProcess, openLab, SLACK_MS } from './lab/lab.js'
import { ACK } from './lab/wire.js'
import { createWorkload, type Workload } from './lab/workload.js'

const EXCHANGE = 'flowcraft'

// Processes start, servers recover and leases pass, on a machine that may be several times too busy.
vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 })

let lab: Lab
let relayRoad: TcpProxy
/** One set for all tests; nothing here ends a process. */
let standing: LabProcess[] = []
let workload: Workload
beforeAll(async () => {
	lab = await openLab({ rabbitMq: 'private', redis: 'private' })
	relayRoad = await lab.road('rabbitMq')
	standing = await Promise.all([
		lab.startRelay({ roads: { rabbitMq: relayRoad } }),
		lab.startFunctions(),
		lab.startWorker(),
		lab.startWorker(),
	])
	workload = createWorkload(lab, { seed: 1 })
	await workload.start(14)
	await workload.finish()
})
afterEach(() => lab.rest(standing))
afterAll(() => lab.close())

async function expectSoundEnd(minimumCompleted: number): Promise<void> {
	const before = workload.ledger.length
	await workload.finish({ deadlineMs: 180_000 })
	expect(before).toBeGreaterThanOrEqual(minimumCompleted)
	expectSound(await checkHistory(lab, { ledger: workload.ledger, minimumCompleted }))
	expect(standing.map(({ isRunning }) => isRunning)).toEqual(standing.map(() => true))
}

/** Starts runs until told to stop, so that harm meets a load whenever it comes. */
function load(): { stop(): Promise<void> } {
	let over = false
	const running = (async () => {
		while (!over) await workload.start(7, { parallel: 3 })
	})()
	return {
		async stop() {
			over = true
			await running
		},
	}
}

/** Does harm in the middle of a load, lets the load go on after it for a moment, and looks at what came of it all. */
async function expectSoundUnderLoad(harm: () => Promise<unknown>): Promise<void> {
	const before = workload.ledger.length
	const loading = load()
	await waitFor('the load to be on its way', () => workload.ledger.length >= before + 7)
	await harm()
	const during = workload.ledger.length
	await waitFor('more starts', () => workload.ledger.length >= during + 7, { deadlineMs: 60_000 })
	await loading.stop()
	await expectSoundEnd(Math.floor(workload.ledger.length * 0.9))
}

/** Resolves when messages wait in the queue; nobody takes any out for that while. */
async function whileMessagesWait(harm: () => Promise<{ messageCount: number }>): Promise<void> {
	const stopped = [...lab.workers]
	for (const worker of stopped) worker.freeze()
	await waitFor('messages in the queue', () => onBroker(lab, (channel) => channel.checkQueue(lab.queue)), {
		until: ({ messageCount }) => messageCount > 0,
	})
	const { messageCount } = await harm()
	for (const worker of stopped) worker.thaw()
	console.log(`${messageCount} messages were lost`)
	expect(messageCount).toBeGreaterThan(0)
}

test('a queue purged under load: what was in it is sent again', () =>
	expectSoundUnderLoad(() =>
		whileMessagesWait(() => onBroker(lab, (channel) => channel.purgeQueue(lab.queue))),
	))

test('a queue deleted under load is declared again, and what was in it is sent again', () =>
	expectSoundUnderLoad(() =>
		whileMessagesWait(() => onBroker(lab, (channel) => channel.deleteQueue(lab.queue))),
	))

test('a queue unbound under load is bound again, and no message is taken for published meanwhile', () =>
	expectSoundUnderLoad(() =>
		onBroker(lab, (channel) => channel.unbindQueue(lab.queue, EXCHANGE, lab.queue)),
	))

test('an exchange that is missing is declared again', async () => {
	// By the relay, which cannot publish, or by a worker that subscribes anew before it.
	await expectSoundUnderLoad(() => onBroker(lab, (channel) => channel.deleteExchange(EXCHANGE)))
	await onBroker(lab, (channel) => channel.checkExchange(EXCHANGE))
})

test('a message that nobody can route stays in the outbox, harms no other, and goes out when there is a queue', async () => {
	const stray = `stray-${Date.now()}`
	await lab.rows(
		`insert into flowcraft_outbox (run_id, node_id, blueprint_id, kind, exchange, routing_key, payload)
		select run_id, 'a', blueprint_id, 'event', 'amq.direct', $1, '{"stray":true}' from flowcraft_statuses limit 1`,
		stray,
	)
	const row = () =>
		lab.rows<{ failures: number; last_error: string | null }>(
			`select failures, last_error from flowcraft_outbox where routing_key = $1`,
			stray,
		)
	await waitFor('two failures', async () => ((await row())[0]?.failures ?? 0) >= 2)
	expect((await row())[0]?.last_error).toMatch(/^unroutable: /)
	await workload.start(14)
	await expectSoundEnd(Math.floor(workload.ledger.length * 0.9))
	await onBroker(lab, async (channel) => {
		await channel.assertQueue(stray, { durable: true })
		await channel.bindQueue(stray, 'amq.direct', stray)
	})
	await waitFor('the row to be settled', async () => (await row()).length === 0)
	const message = await onBroker(lab, (channel) => channel.get(stray, { noAck: true }))
	expect(message === false ? undefined : message.content.toString()).toBe('{"stray":true}')
})

test('poison payloads are put aside in the dead queue, and harm nobody', async () => {
	const poison = [
		'',
		'no json',
		'null',
		'[]',
		'{"runId":1,"nodeId":{},"blueprintId":null}',
		'{"__proto__":{"runId":"x"},"constructor":{}}',
		JSON.stringify({ runId: 'x', nodeId: '\u0000', blueprintId: 'lab-chain' }),
		JSON.stringify({ runId: `no run ${'x'.repeat(100_000)}`, nodeId: 'a', blueprintId: 'lab-chain' }),
		'['.repeat(200_000),
		'\ufffd'.repeat(1_000),
	]
	await onBroker(lab, async (channel) => {
		for (const [position, body] of poison.entries())
			channel.publish(EXCHANGE, lab.queue, Buffer.from(body), { messageId: `poison ${position}` })
		// Where it stands in front of every good message, it must not come back for ever.
		channel.publish(EXCHANGE, lab.queue, Buffer.from([0xff, 0xfe, 0x00]), {
			headers: { traceparent: 'garbage' },
		})
		await channel.checkQueue(lab.queue)
	})
	await workload.start(14)
	await expectSoundEnd(Math.floor(workload.ledger.length * 0.9))
	// Whatever names no job at all is there; a job of an unknown run is done with.
	const dead = await waitFor(
		'the dead queue',
		() => onBroker(lab, (channel) => channel.checkQueue(`${lab.queue}.dead`)),
		{ until: ({ messageCount }) => messageCount >= 8 },
	)
	console.log(`${dead.messageCount} of ${poison.length + 1} poison messages are in the dead queue`)
	expect(await onBroker(lab, (channel) => channel.checkQueue(lab.queue))).toMatchObject({ messageCount: 0 })
})

test('a broker killed and started again under load: publication resumes within 2 s of its port’s opening', async () => {
	const server = lab.servers.rabbitMq
	if (server === undefined) throw new Error('no RabbitMQ of its own')
	await expectSoundUnderLoad(async () => {
		lab.note('rabbitMq: killed and started again')
		await server.kill()
		const starting = server.restart()
		const openAt = await portOpen(server.port)
		const confirmedAt = await relayRoad.when('to client', ACK).then(() => Date.now())
		await starting
		console.log(`the first confirm came ${confirmedAt - openAt} ms after the port had opened`)
		expect(confirmedAt - openAt).toBeLessThan(2_000 + SLACK_MS)
	})
})

test('functions serve starts with RabbitMQ and Redis down, and all of it finishes when they return', async () => {
	const { rabbitMq, redis } = lab.servers
	await Promise.all([rabbitMq?.kill(), redis?.kill()])
	const before = workload.ledger.length
	await workload.start(42)
	expect(workload.ledger.length).toBe(before + 42)
	const live = await lab.rows<{ live: number }>(
		`select count(*)::int as live from flowcraft_statuses where finished_at is null`,
	)
	expect(live[0]?.live).toBeGreaterThanOrEqual(42)
	await Promise.all([rabbitMq?.restart(), redis?.restart()])
	await expectSoundEnd(Math.floor(workload.ledger.length * 0.9))
})

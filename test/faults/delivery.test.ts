/** A broker may repeat and reorder: a road on which every message is delivered twice, in any order, changes nothing. */
import { setTimeout as delay } from 'node:timers/promises'
import { type ConsumeMessage, connect } from 'amqplib'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { checkHistory, expectSound } from './lab/checker.js'
import { type Lab, openLab } from './lab/lab.js'
import { createRandom } from './lab/random.js'
import { createWorkload } from './lab/workload.js'

// Processes start, servers recover and leases pass, on a machine that may be several times too busy.
vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 })

let lab: Lab
beforeAll(async () => {
	lab = await openLab()
})
afterAll(() => lab.close())

/** Moves messages from one queue to another: each twice, shuffled with all that came within a moment. */
async function shuffle(from: string, to: string): Promise<{ moved(): number; stop(): Promise<void> }> {
	const random = createRandom(1)
	const connection = await connect(lab.rabbitMqUrl)
	connection.on('error', () => {})
	const channel = await connection.createConfirmChannel()
	channel.on('error', () => {})
	let hand: ConsumeMessage[] = []
	let moved = 0
	let over = false
	await channel.prefetch(500)
	await channel.consume(from, (message) => void (message !== null && hand.push(message)))
	const moving = (async () => {
		while (!over) {
			await delay(random.between(5, 60))
			const messages = hand
			hand = []
			for (const message of random.shuffle([...messages, ...messages]))
				channel.sendToQueue(to, message.content, { ...message.properties, persistent: true })
			await channel.waitForConfirms()
			for (const message of messages) channel.ack(message)
			moved += messages.length
		}
	})()
	return {
		moved: () => moved,
		async stop() {
			over = true
			await moving
			await connection.close()
		},
	}
}

test('every message delivered twice and shuffled: every node runs once, every join fires once', async () => {
	const elsewhere = `${lab.queue}-shuffled`
	await Promise.all([
		lab.startFunctions(),
		lab.startRelay(),
		lab.startWorker({ environment: { QUEUE_NAME: elsewhere } }),
		lab.startWorker({ environment: { QUEUE_NAME: elsewhere } }),
	])
	// The relay declares its queue when it connects.
	const workload = createWorkload(lab, { seed: 1 })
	await workload.startOne('lab-one')
	const shuffler = await shuffle(lab.queue, elsewhere)
	await workload.start(70)
	await workload.finish()
	expectSound(await checkHistory(lab, { ledger: workload.ledger, minimumCompleted: 60 }))
	const [nodes] = await lab.rows<{ finished: number }>(
		`select count(*)::int as finished from flowcraft_nodes where state = 'completed'`,
	)
	console.log(`${shuffler.moved()} messages were delivered twice, for ${nodes?.finished} nodes`)
	expect(shuffler.moved()).toBeGreaterThanOrEqual(workload.ledger.length)
	await shuffler.stop()
})

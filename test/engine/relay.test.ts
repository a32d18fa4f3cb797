/** What a relay does with what the broker answers, and with a broker that is away or has lost something. */
import { afterEach, expect, test } from 'vitest'
import { claimNodes } from '../../src/claim/claim.js'
import { registerWorker } from '../../src/claim/worker-registry.js'
import type { Broker, OutboundMessage, PublishOutcome } from '../../src/ports/broker.js'
import { createLastingDatabase } from '../../src/db/renewing-pool.js'
import { noLogger } from '../../src/ports/logger.js'
import { createInProcessBroker } from '../../worker/broker/in-process.js'
import type { RelayOptions } from '../../worker/relay/relay.js'
import { createSweep } from '../../worker/relay/sweep.js'
import { flow } from '../support/core.js'
import { startEngine, type TestEngine } from '../support/engine.js'
import { registerBlueprint } from '../../src/blueprint/register.js'
import { takeOutbox } from '../../src/outbox/outbox.js'
import { startProxy } from '../support/tcp-proxy.js'
import { waitFor } from '../support/wait-for.js'

let engine: TestEngine
afterEach(() => engine.stop())

/** A real broker, some of whose answers a test changes. */
async function begin(
	changes: (broker: Broker) => Partial<Broker>,
	relay: Partial<RelayOptions> = {},
): Promise<void> {
	const broker = createInProcessBroker({ queues: ['flowcraft-jobs'] })
	engine = await startEngine({
		manualRelay: true,
		broker: { ...broker, ...changes(broker) },
		relay,
	})
	await registerBlueprint(engine.database.sql, flow('one', [], { a: {} }))
}

const outbox = (): Promise<{ failures: number; last_error: string | null }[]> =>
	engine.rows('select failures, last_error from flowcraft_outbox')
const makeDue = (): Promise<unknown> =>
	engine.rows("update flowcraft_outbox set due_at = clock_timestamp() - interval '1 second'")

test('keeps what the broker did not confirm, and publishes it again later under the same id', async () => {
	const published: OutboundMessage[] = []
	const answers: PublishOutcome[] = [
		{ status: 'failed', reason: 'nack' },
		{ status: 'unroutable', reason: 'no queue' },
		{ status: 'confirmed' },
	]
	await begin(() => ({
		publish: async (messages) => {
			published.push(...messages)
			return messages.map(() => answers.shift() ?? { status: 'confirmed' })
		},
	}))
	await engine.start({ blueprint: 'one' })
	await engine.relay.tick()
	expect(await outbox()).toEqual([{ failures: 1, last_error: 'failed: nack' }])
	await makeDue()
	await engine.relay.tick()
	expect(await outbox()).toEqual([{ failures: 2, last_error: 'unroutable: no queue' }])
	await makeDue()
	await engine.relay.tick()
	expect(await outbox()).toEqual([])
	expect(new Set(published.map(({ messageId }) => messageId)).size).toBe(1)
	expect(engine.relay.counts()).toMatchObject({ published: 1, failed: 1, unroutable: 1 })
})

test('takes nothing while it has no connection to the broker', async () => {
	let isConnected = false
	await begin(() => ({ isConnected: () => isConnected }))
	await engine.start({ blueprint: 'one' })
	expect(await engine.relay.tick()).toBe(0)
	expect(await engine.rows('select 1 from flowcraft_outbox where claim_token is not null')).toEqual([])
	isConnected = true
	expect(await engine.relay.tick()).toBe(1)
	expect(await outbox()).toEqual([])
})

test('that stops publishes what it has taken, and takes no more', async () => {
	let confirm = (): void => {}
	const confirmed = new Promise<void>((resolve) => (confirm = resolve))
	const published: OutboundMessage[] = []
	await begin(
		(broker) => ({
			publish: async (messages) => {
				published.push(...messages)
				await confirmed
				return broker.publish(messages)
			},
		}),
		{ batchSize: 2 },
	)
	for (let i = 0; i < 20; i++) await engine.start({ blueprint: 'one' })
	const taken = (): Promise<unknown[]> =>
		engine.rows('select 1 from flowcraft_outbox where claim_token is not null')
	engine.relay.start()
	await waitFor('batches under way, and one taken ahead', async () => (await taken()).length === 8)
	expect(published).toHaveLength(6)
	const stopped = engine.relay.stop()
	confirm()
	await stopped
	expect(await taken()).toEqual([])
	expect(published).toHaveLength(20 - (await outbox()).length)
	expect(published.length).toBeLessThan(20)
})

test('does not publish again what a worker has had since its relay died', async () => {
	await begin(() => ({}))
	const runId = await engine.start({ blueprint: 'one' })
	const [workerId, key] = [crypto.randomUUID(), { runId, nodeId: 'a', generation: '', recovers: '' }]
	// A relay that has published the message and dies before it deletes the row.
	await takeOutbox(engine.database.sql, crypto.randomUUID(), 10, 0)
	await registerWorker(engine.database.sql, {
		workerId,
		name: 'test',
		version: '',
		queues: [],
		slots: 1,
		offers: [],
		leaseMs: 60_000,
	})
	expect((await claimNodes(engine.database.sql, workerId, [key]))[0]?.status).toBe('claimed')
	expect(await engine.relay.tick()).toBe(1)
	expect(engine.relay.counts()).toMatchObject({ published: 0, alreadyDelivered: 1 })
	expect(await engine.broker.depth('flowcraft-jobs')).toBe(0)
	expect(await outbox()).toEqual([])
})

test('emits again what the broker has lost', async () => {
	await begin(() => ({ publish: async (messages) => messages.map(() => ({ status: 'confirmed' })) }), {
		stalledMs: 1,
	})
	const runId = await engine.start({ blueprint: 'one' })
	await engine.relay.tick()
	expect(await outbox()).toEqual([])
	await engine.rows(
		"update flowcraft_nodes set emitted_at = clock_timestamp() - interval '1 minute' where run_id = $1",
		runId,
	)
	expect(await engine.relay.sweep()).toMatchObject({ reemitted: 1 })
	expect(await outbox()).toHaveLength(1)
})

test('that was cut off from Postgres itself takes nobody for dead who was silent meanwhile, until a lease later', async () => {
	await begin(() => ({}))
	const road = await startProxy(engine.url)
	const database = createLastingDatabase(road.url, { max: 1 })
	const sweep = createSweep({
		db: database.sql,
		broker: engine.broker,
		logger: noLogger,
		queue: 'flowcraft-jobs',
		stalledMs: 30_000,
	})
	const LEASE_MS = 2_000
	try {
		expect(await sweep.tick()).toMatchObject({ buried: 0 })
		await registerWorker(engine.database.sql, {
			workerId: crypto.randomUUID(),
			name: 'test',
			version: '',
			queues: [],
			slots: 1,
			offers: [],
			leaseMs: LEASE_MS,
		})
		road.refuse()
		road.cut()
		await expect(sweep.tick()).rejects.toThrow(/CONN|ECONN|Postgres/)
		await waitFor('the lease to pass', async () => {
			const rows = await engine.rows(
				'select 1 from flowcraft_workers where lease_until < clock_timestamp()',
			)
			return rows.length
		})
		await road.accept()
		const [back] = await engine.rows<{ at: string }>('select clock_timestamp()::text as at')
		expect(await waitFor('Postgres', () => sweep.tick())).toMatchObject({ buried: 0 })
		await waitFor('it to be declared dead', async () => (await sweep.tick()).buried, { everyMs: 50 })
		const [dead] = await engine.rows<{ late: number }>(
			`select extract(epoch from dead_at - $1::text::timestamptz)::float8 * 1000 as late from flowcraft_workers`,
			back?.at ?? '',
		)
		expect(dead?.late).toBeGreaterThanOrEqual(LEASE_MS)
	} finally {
		await database.close()
		await road.close()
	}
})

test('takes no message for lost while the broker cannot be asked', async () => {
	const asked: { depth?: number } = {}
	await begin(
		() => ({
			publish: async (messages) => messages.map(() => ({ status: 'confirmed' })),
			depth: async () => asked.depth,
		}),
		{ stalledMs: 1 },
	)
	const runId = await engine.start({ blueprint: 'one' })
	await engine.relay.tick()
	await engine.rows(
		"update flowcraft_nodes set emitted_at = clock_timestamp() - interval '1 minute' where run_id = $1",
		runId,
	)
	expect(await engine.relay.sweep()).toMatchObject({ reemitted: 0 })
	asked.depth = 0
	expect(await engine.relay.sweep()).toMatchObject({ reemitted: 1 })
})

/** Workers die, really (SIGKILL), around the COMMIT of a node with statements and an event of its own. */
import type { Broker } from '../../src/ports/broker.js'
import { noDoorbell } from '../../src/ports/doorbell.js'
import { noLogger } from '../../src/ports/logger.js'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createDatabase, type Database } from '../../src/db/client.js'
import { query, type Row } from '../../src/db/query.js'
import { startRun } from '../../src/run/start.js'
import { waitForRun } from '../../src/run/wait.js'
import { createRabbitMqBroker } from '../../worker/broker/rabbitmq.js'
import { createRelay, type Relay } from '../../worker/relay/relay.js'
import { RabbitMqAdmin } from '../broker/rabbitmq-admin.js'
import { HOLD_BEFORE_COMMIT, HOLD_COMMIT } from '../support/on-commit-workflows.js'
import { type RunningProcess, spawnProcess } from '../support/process.js'
import { type FreshDatabase, freshDatabase, freshQueueName, rabbitMq } from '../support/services/index.js'
import { waitFor } from '../support/wait-for.js'

const LEASE_MS = 1_500

let fresh: FreshDatabase
let database: Database
let admin: RabbitMqAdmin
let broker: Broker
let relay: Relay
let environment: Record<string, string>
let worker: RunningProcess
/** Where the events go. */
let audit: string

const rows = <T extends Row>(text: string, ...parameters: string[]) =>
	query<T>(database.sql, text, parameters)

beforeAll(async () => {
	fresh = await freshDatabase()
	database = createDatabase(fresh.url, { max: 8 })
	const { url } = await rabbitMq()
	admin = new RabbitMqAdmin(url)
	const queue = freshQueueName()
	audit = `${queue}-audit`
	await admin.declareQueue(audit, { durable: true })
	broker = createRabbitMqBroker({ url, queues: [queue], logger: noLogger })
	relay = createRelay({
		db: database.sql,
		broker,
		doorbell: noDoorbell,
		logger: noLogger,
		queue,
		sweepEveryMs: 200,
		stalledMs: 3_000,
	})
	relay.start()
	environment = {
		DATABASE_URL: fresh.url,
		RABBITMQ_URL: url,
		QUEUE_NAME: queue,
		WORKFLOWS: 'test/support/on-commit-workflows.ts',
		LEASE_MS: String(LEASE_MS),
	}
	await rows('create table ledger (run text)')
	await rows(`create function hold() returns trigger language plpgsql as
		$$ begin perform pg_advisory_xact_lock_shared(${HOLD_COMMIT}); return null; end $$`)
	await rows(`create constraint trigger hold after insert on ledger deferrable initially deferred
		for each row execute function hold()`)
	worker = await startWorker()
})
afterAll(async () => {
	await worker.kill()
	await relay.stop()
	await broker.close()
	await admin.deleteQueue(audit)
	await database.close()
	await fresh.drop()
})

const startWorker = (): Promise<RunningProcess> =>
	spawnProcess({ entry: 'worker/worker.main.ts', env: environment, readyLine: /The worker listens/ })

/** Starts a run whose transaction waits for `lock`, kills its worker then, and lets the server go on. */
async function killAt(lock: number, waitsIn: string): Promise<string> {
	let runId = ''
	await database.sql.begin(async (holder) => {
		await holder`select pg_advisory_xact_lock(${lock})`
		runId = (await startRun(database.sql, { blueprint: 'book', input: { queue: audit } })).runId
		await waitFor(`the ${waitsIn}`, async () => {
			const waiting = await rows(
				`select 1 from pg_stat_activity where datname = current_database() and wait_event = 'advisory'
				and query like $1`,
				`${waitsIn}%`,
			)
			return waiting.length
		})
		await worker.kill('SIGKILL')
	})
	worker = await startWorker()
	return runId
}

async function expectOnce(runId: string, crashes: number): Promise<void> {
	expect(await waitForRun(database.sql, runId, { timeoutMs: 30_000 })).toMatchObject({
		status: 'completed',
	})
	expect(await rows('select count(*)::int as entries from ledger where run = $1', runId)).toEqual([
		{ entries: 1 },
	])
	expect(await rows('select attempt, crashes from flowcraft_nodes where run_id = $1', runId)).toEqual([
		{ attempt: 1, crashes },
	])
	const event = await waitFor('the event', () => admin.do((channel) => channel.get(audit, { noAck: true })))
	expect(event.content.toString()).toBe(JSON.stringify({ run: runId }))
	expect(event.properties).toMatchObject({
		messageId: expect.stringMatching(/^[0-9a-f-]{36}$/),
		contentType: 'application/json',
		deliveryMode: 2,
		headers: { runId, nodeId: 'n', attempt: '1', blueprintId: 'book' },
	})
	await waitFor('its row to go', async () => {
		const left = await rows(`select 1 from flowcraft_outbox where run_id = $1`, runId)
		return left.length === 0
	})
	expect(await admin.do((channel) => channel.get(audit, { noAck: true }))).toBe(false)
}

test("a worker killed between the user's SQL and the COMMIT leaves nothing of it, and another one runs the node", async () => {
	const runId = await killAt(HOLD_BEFORE_COMMIT, 'select pg_advisory_xact_lock_shared')
	await expectOnce(runId, 1)
})

test('a worker killed after the COMMIT, before its answer, leaves all of it, once', async () => {
	const runId = await killAt(HOLD_COMMIT, 'commit')
	await expectOnce(runId, 0)
})

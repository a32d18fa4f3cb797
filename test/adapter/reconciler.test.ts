import { NullLogger } from 'flowcraft'
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import type { ClaimedNode } from '../../src/claim/claim.js'
import { NotFoundError } from '../../src/errors.js'
import type { Ring } from '../../src/ports/doorbell.js'
import { noLogger } from '../../src/ports/logger.js'
import { readRun } from '../../src/run/read.js'
import { RabbitMqAdapter } from '../../worker/adapter/adapter.js'
import type { RabbitMqAdapterOptions } from '../../worker/adapter/options.js'
import { createRabbitMqReconciler, type RabbitMqReconcilerOptions } from '../../worker/adapter/reconciler.js'
import { RabbitMqAdmin } from '../broker/rabbitmq-admin.js'
import { type Core, createCore, flow } from '../support/core.js'
import { freshQueueName, rabbitMq } from '../support/services/index.js'
import { waitFor } from '../support/wait-for.js'

let amqpUrl: string
let admin: RabbitMqAdmin
let core: Core
let queue: string
let adapter: RabbitMqAdapter
const rings: Ring[] = []

beforeAll(async () => {
	amqpUrl = (await rabbitMq()).url
	admin = new RabbitMqAdmin(amqpUrl)
})

async function open(): Promise<void> {
	core = await createCore()
	await core.register(flow('chain', [['a', 'b']]))
	queue = freshQueueName()
	rings.length = 0
	adapter = new RabbitMqAdapter(options())
	// Its first look declares the queue.
	await adapter.stalledRuns()
}

async function close(): Promise<void> {
	await adapter.stop()
	await admin.deleteQueue(queue)
	await admin.deleteQueue(`${queue}.dead`)
	await core.drop()
}

/** Never started: whatever is emitted stays in the outbox, for the test to see. */
const options = (): RabbitMqAdapterOptions => ({
	runtimeOptions: { logger: new NullLogger() },
	amqpUrl,
	databaseUrl: core.url,
	queueName: queue,
	stalledMs: 30_000,
	doorbell: { ring: (ring) => void rings.push(ring), listen: () => () => {}, close: async () => {} },
})

/** A run whose first node is ready, but whose message is gone, since so many seconds ago. */
async function lostRun(secondsAgo = 3600): Promise<string> {
	const runId = await core.start('chain')
	await loseMessage(runId, secondsAgo)
	return runId
}

async function loseMessage(runId: string, secondsAgo: number): Promise<void> {
	await core.rows('delete from flowcraft_outbox where run_id = $1', runId)
	await core.rows(
		`update flowcraft_nodes set emitted_at = now() - $2::text::int * interval '1 second' where run_id = $1 and state = 'ready'`,
		runId,
		secondsAgo,
	)
}

/** A run whose first node is in the hands of this worker. */
async function runningRun(workerId: string): Promise<{ runId: string; node: ClaimedNode }> {
	const runId = await core.start('chain')
	await core.rows('delete from flowcraft_outbox where run_id = $1', runId)
	return { runId, node: await core.claimed(workerId, runId, 'a') }
}

const letLeaseEnd = (workerId: string): Promise<unknown> =>
	core.rows(
		`update flowcraft_workers set lease_until = now() - interval '1 second' where worker_id = $1::text::uuid`,
		workerId,
	)

/** As if all this had happened an hour ago. */
const age = (runId: string): Promise<unknown> =>
	core.rows(
		`with s as (update flowcraft_statuses set updated_at = now() - interval '1 hour', created_at = now() - interval '1 hour' where run_id = $1)
		update flowcraft_nodes set claimed_at = now() - interval '1 hour', emitted_at = now() - interval '1 hour' where run_id = $1`,
		runId,
	)

async function putIntoQueue(body = 'anything'): Promise<void> {
	await admin.do(async (channel) => channel.sendToQueue(queue, Buffer.from(body)))
	await waitFor('the message to be counted', async () => {
		const { messageCount } = await admin.do((channel) => channel.checkQueue(queue))
		return messageCount > 0
	})
}

const nobody = new Set<string>()

describe('reconcile', () => {
	beforeEach(open)
	afterEach(close)

	it('emits a ready node whose message is lost, for that run only, and wakes the relay', async () => {
		const [runId, other] = [await lostRun(), await lostRun()]

		expect(await adapter.reconcile(runId)).toEqual(new Set(['a']))
		expect(await core.outbox(runId)).toEqual(['a'])
		expect(await core.outbox(other)).toEqual([])
		expect(rings).toEqual([{ type: 'outbox' }])
	})

	it('emits nothing a second time, nor when several ask at once', async () => {
		const runId = await lostRun()
		const answers = await Promise.all([1, 2, 3, 4, 5].map(() => adapter.reconcile(runId)))

		expect(answers.map(({ size }) => size).sort()).toEqual([0, 0, 0, 0, 1])
		expect(await adapter.reconcile(runId)).toEqual(nobody)
		expect(await core.outbox(runId)).toEqual(['a'])
	})

	it('leaves alone what is in the outbox, was emitted just now, or is not due', async () => {
		const queued = await core.start('chain')
		await age(queued)
		const recent = await lostRun(29)
		const early = await lostRun(-3600)
		// Nor is it taken for another one's.
		await lostRun()

		for (const runId of [queued, recent, early]) expect(await adapter.reconcile(runId)).toEqual(nobody)
		expect(await adapter.reconcile(recent, { stalledThresholdSeconds: 28 })).toEqual(new Set(['a']))
	})

	it('doubles the grace with each time that the message was lost again', async () => {
		const runId = await lostRun()
		await adapter.reconcile(runId)

		await loseMessage(runId, 59)
		expect(await adapter.stalledRuns()).toEqual([])
		expect(await adapter.reconcile(runId)).toEqual(nobody)
		await loseMessage(runId, 61)
		expect(await adapter.stalledRuns()).toEqual([runId])
		expect(await adapter.reconcile(runId)).toEqual(new Set(['a']))
	})

	it('leaves a node alone that runs in a living worker, however long it takes', async () => {
		const { runId } = await runningRun(await core.worker())
		await age(runId)

		expect(await adapter.reconcile(runId)).toEqual(nobody)
		expect((await core.nodes(runId))['a']).toMatchObject({ state: 'running', crashes: 0 })
	})

	it('takes a node from a worker whose lease has passed, which can finish nothing any more', async () => {
		const worker = await core.worker()
		const { runId, node } = await runningRun(worker)
		const second = await runningRun(worker)
		await letLeaseEnd(worker)

		expect(await adapter.reconcile(runId)).toEqual(new Set(['a']))
		expect(await core.outbox(runId)).toEqual(['a'])
		expect((await core.nodes(runId))['a']).toMatchObject({ state: 'ready', crashes: 1, attempt: 1 })
		expect(await core.rows('select outcome from flowcraft_attempts where run_id = $1', runId)).toEqual([
			{ outcome: 'crashed' },
		])
		expect(await core.commit(core.completed(node))).toEqual(['lost'])

		// What else it held waits for a sweep of its own, or a look of its own.
		expect((await core.nodes(second.runId))['a']).toMatchObject({ state: 'running' })
		expect(await adapter.reconcile(second.runId)).toEqual(new Set(['a']))
		expect(await core.violations()).toEqual([])
	})

	it('takes a node from a worker that has stopped, or that nobody knows', async () => {
		const [stopped, unknown] = [await core.worker(), await core.worker()]
		const runs = [await runningRun(stopped), await runningRun(unknown)]
		await core.rows(
			'update flowcraft_workers set stopped_at = now() where worker_id = $1::text::uuid',
			stopped,
		)
		await core.rows('delete from flowcraft_workers where worker_id = $1::text::uuid', unknown)

		for (const { runId } of runs) expect(await adapter.reconcile(runId)).toEqual(new Set(['a']))
	})

	it('takes a worker for alive whose heartbeat is just being written', async () => {
		const worker = await core.worker()
		const { runId } = await runningRun(worker)
		await letLeaseEnd(worker)
		await core.sql.begin(async (heartbeat) => {
			await heartbeat`update flowcraft_workers set lease_until = now() + interval '1 minute' where worker_id = ${worker}`
			expect(await adapter.reconcile(runId)).toEqual(nobody)
		})

		expect(await adapter.reconcile(runId)).toEqual(nobody)
		expect((await core.nodes(runId))['a']).toMatchObject({ state: 'running' })
	})

	it('emits a timer that is due and whose message is lost', async () => {
		await core.register(flow('asleep', [], { nap: { uses: 'sleep' } }))
		const runId = await core.start('asleep')
		const { key, token } = await core.claimed(await core.worker(), runId, 'nap')
		await core.commit({ key, token, outcome: 'waiting', wait: '{"reason":"timer"}', delayMs: 60_000 })
		await core.rows('delete from flowcraft_outbox where run_id = $1', runId)
		expect(await adapter.reconcile(runId)).toEqual(nobody)

		await age(runId)
		await core.rows(
			`update flowcraft_nodes set due_at = now() - interval '1 minute' where run_id = $1`,
			runId,
		)
		expect(await adapter.reconcile(runId)).toEqual(new Set(['nap']))
		expect(await core.outbox(runId)).toEqual(['nap'])
	})

	it('leaves a wait without an end alone', async () => {
		await core.register(flow('asking', [], { ask: { uses: 'wait' } }))
		const runId = await core.start('asking')
		const { key, token } = await core.claimed(await core.worker(), runId, 'ask')
		await core.commit({ key, token, outcome: 'waiting', wait: '{"reason":"external_event"}' })
		await age(runId)
		await core.drain()

		expect(await adapter.reconcile(runId)).toEqual(nobody)
	})

	it('emits the parent of a child that has ended, when that message is lost', async () => {
		await core.register(
			flow('nested', [], { sub: { uses: 'subflow', params: { blueprintId: 'single' } } }),
		)
		await core.register(flow('single', [], { only: {} }))
		const worker = await core.worker()
		const runId = await core.start('nested')
		const { key, token } = await core.claimed(worker, runId, 'sub')
		await core.commit({ key, token, outcome: 'child', childRunId: 'the-child', childBlueprint: 'single' })
		await core.drain()
		await core.commit(core.completed(await core.claimed(worker, 'the-child', 'only')))
		await core.drain()
		expect(await adapter.reconcile(runId)).toEqual(nobody)

		await age(runId)
		expect(await adapter.reconcile(runId)).toEqual(nobody)
		await core.rows(
			`update flowcraft_statuses set finished_at = now() - interval '1 minute' where run_id = 'the-child'`,
		)
		expect(await adapter.reconcile(runId)).toEqual(new Set(['sub']))
		expect(await core.outbox(runId)).toEqual(['sub'])
	})

	it('does not take a message for lost that may wait in the queue behind others', async () => {
		const runId = await lostRun()
		await putIntoQueue()
		expect(await adapter.reconcile(runId)).toEqual(nobody)

		// One that was emitted half an hour later runs already: ours was passed by.
		const { runId: later } = await runningRun(await core.worker())
		await core.rows(
			`update flowcraft_nodes set emitted_at = now() - interval '30 minutes' where run_id = $1`,
			later,
		)
		expect(await adapter.reconcile(runId, { stalledThresholdSeconds: 1900 })).toEqual(nobody)
		expect(await adapter.reconcile(runId)).toEqual(new Set(['a']))
	})

	it('does not take a message for lost while RabbitMQ cannot be asked', async () => {
		const runId = await lostRun()
		const deaf = new RabbitMqAdapter({ ...options(), amqpUrl: 'amqp://127.0.0.1:1' })
		try {
			expect(await deaf.reconcile(runId)).toEqual(nobody)
		} finally {
			await deaf.stop()
		}
	})

	it('emits nothing of a run that is paused or has ended', async () => {
		const [paused, cancelled] = [await lostRun(), await lostRun()]
		await core.rows(`update flowcraft_statuses set status = 'paused' where run_id = $1`, paused)
		await core.rows(`select flowcraft_cancel_run($1, 'enough')`, cancelled)

		for (const runId of [paused, cancelled]) expect(await adapter.reconcile(runId)).toEqual(nobody)
		expect(rings).toEqual([])
	})

	it('rejects a run that does not exist, and a threshold that is none', async () => {
		await expect(adapter.reconcile('nobody')).rejects.toThrow(NotFoundError)
		await expect(adapter.reconcile('nobody', { stalledThresholdSeconds: 0 })).rejects.toThrow(TypeError)
	})

	it('lets the run go on to its end once a relay and a worker are there', async () => {
		const runId = await lostRun()
		const living = new RabbitMqAdapter({
			...options(),
			runtimeOptions: { logger: new NullLogger(), registry: { work: async () => ({}) } },
		})
		try {
			await living.start()
			await adapter.reconcile(runId)
			await waitFor(
				'the run to end',
				async () => (await readRun(core.sql, runId))?.status === 'completed',
			)
			expect(await core.violations()).toEqual([])
		} finally {
			await living.stop()
		}
	})
})

describe('createRabbitMqReconciler', () => {
	beforeEach(open)
	afterEach(close)

	const reconciler = (more: Partial<RabbitMqReconcilerOptions> = {}) =>
		createRabbitMqReconciler({
			adapter,
			stalledThresholdSeconds: 30,
			statusTableName: 'flowcraft_statuses',
			...more,
		})

	it('finds runs by their dead workers and lost messages, never by the time of their last update', async () => {
		const [living, dead] = [await core.worker(), await core.worker()]
		const lost = await lostRun()
		const { runId: orphaned } = await runningRun(dead)
		await letLeaseEnd(dead)
		const { runId: slow } = await runningRun(living)
		const queued = await core.start('chain')
		for (const runId of [slow, queued]) await age(runId)

		expect(await adapter.stalledRuns()).toEqual([lost, orphaned].sort())
		expect(await reconciler().run()).toEqual({ stalledRuns: 2, reconciledRuns: 2, failedRuns: 0 })
		expect(await core.outbox(lost)).toEqual(['a'])
		expect(await core.outbox(orphaned)).toEqual(['a'])
		expect(await core.outbox(slow)).toEqual([])
		expect(await core.outbox(queued)).toEqual(['a'])
		expect(await reconciler().run()).toEqual({ stalledRuns: 0, reconciledRuns: 0, failedRuns: 0 })
	})

	it('finds lost timers and parents of ended children too', async () => {
		await core.register(
			flow('mixed', [], {
				nap: { uses: 'sleep' },
				sub: { uses: 'subflow', params: { blueprintId: 'chain' } },
			}),
		)
		const worker = await core.worker()
		const [asleep, parent] = [await core.start('mixed'), await core.start('mixed')]
		const nap = await core.claimed(worker, asleep, 'nap')
		const sub = await core.claimed(worker, parent, 'sub')
		await core.commit(
			{ key: nap.key, token: nap.token, outcome: 'waiting', wait: '{"reason":"timer"}', delayMs: 1 },
			{
				key: sub.key,
				token: sub.token,
				outcome: 'child',
				childRunId: 'mixed-child',
				childBlueprint: 'chain',
			},
		)
		await core.rows(`select flowcraft_cancel_run('mixed-child', 'enough')`)
		await core.rows(`delete from flowcraft_outbox where run_id = $1 and node_id = 'nap'`, asleep)
		await core.rows(`delete from flowcraft_outbox where run_id = $1 and node_id = 'sub'`, parent)
		expect(await adapter.stalledRuns()).toEqual([])

		for (const runId of [asleep, parent]) await age(runId)
		await core.rows(
			`update flowcraft_nodes set due_at = now() - interval '1 hour' where run_id = $1 and state = 'waiting'`,
			asleep,
		)
		await core.rows(
			`update flowcraft_statuses set finished_at = now() - interval '1 hour' where run_id = 'mixed-child'`,
		)
		expect(await adapter.stalledRuns()).toEqual([asleep, parent].sort())
		expect(await reconciler().run()).toMatchObject({ stalledRuns: 2, reconciledRuns: 2 })
	})

	it('has the grace that it is given', async () => {
		await lostRun(60)

		expect(await reconciler({ stalledThresholdSeconds: 61 }).run()).toMatchObject({ stalledRuns: 0 })
		expect(await reconciler({ stalledThresholdSeconds: 59 }).run()).toMatchObject({
			stalledRuns: 1,
			reconciledRuns: 1,
		})
	})

	it('does not take messages for lost that may wait in the queue behind others', async () => {
		await lostRun()
		await putIntoQueue()

		expect(await reconciler().run()).toMatchObject({ stalledRuns: 0 })
	})

	it('leaves paused and ended runs out', async () => {
		const [paused, cancelled] = [await lostRun(), await lostRun()]
		await core.rows(`update flowcraft_statuses set status = 'paused' where run_id = $1`, paused)
		await core.rows(`select flowcraft_cancel_run($1, 'enough')`, cancelled)

		expect(await reconciler().run()).toMatchObject({ stalledRuns: 0 })
	})

	it('goes through all runs, however many there are', async () => {
		await Promise.all(Array.from({ length: 450 }, () => core.start('chain')))
		await core.rows('delete from flowcraft_outbox')
		await core.rows(`update flowcraft_nodes set emitted_at = now() - interval '1 hour'`)

		expect(await reconciler().run()).toEqual({ stalledRuns: 450, reconciledRuns: 450, failedRuns: 0 })
		expect(await core.rows('select count(*)::int as rows from flowcraft_outbox')).toEqual([{ rows: 450 }])
	})

	it('looks at stalled runs page by page, in the order of their ids', async () => {
		const runs = [await lostRun(), await lostRun(), await lostRun()].sort()

		expect(await adapter.stalledRuns({ limit: 2 })).toEqual(runs.slice(0, 2))
		expect(await adapter.stalledRuns({ limit: 2, after: String(runs[1]) })).toEqual(runs.slice(2))
		expect(await adapter.stalledRuns({ after: String(runs[2]) })).toEqual([])
	})

	it('counts and logs a run that could not be reconciled, and goes on', async () => {
		const runs = [await lostRun(), await lostRun()].sort()
		class Failing extends RabbitMqAdapter {
			override async reconcile(
				...args: Parameters<RabbitMqAdapter['reconcile']>
			): Promise<Set<string>> {
				if (args[0] === runs[0]) throw new Error('no luck')
				return super.reconcile(...args)
			}
		}
		const failing = new Failing(options())
		const logged: unknown[] = []
		try {
			const stats = await reconciler({
				adapter: failing,
				logger: { ...noLogger, error: (_, fields) => logged.push(fields) },
			}).run()
			expect(stats).toEqual({ stalledRuns: 2, reconciledRuns: 1, failedRuns: 1 })
			expect(logged).toEqual([{ runId: runs[0], error: new Error('no luck') }])
		} finally {
			await failing.stop()
		}
	})
})

describe('the options of createRabbitMqReconciler', () => {
	const unconnected = {
		runtimeOptions: { logger: new NullLogger() },
		amqpUrl: 'amqp://127.0.0.1',
		databaseUrl: 'postgres://127.0.0.1/none',
	}

	it.each([
		['no adapter', { adapter: undefined }, /adapter must be given/],
		[
			'no threshold',
			{ stalledThresholdSeconds: undefined },
			/stalledThresholdSeconds must be a number of seconds greater than 0/,
		],
		['a threshold of 0', { stalledThresholdSeconds: 0 }, /greater than 0, not 0/],
		['another table', { statusTableName: 'statuses' }, /statusTableName cannot be "statuses"/],
		['a pg client', { pgClient: {} }, /pgClient is not taken/],
	])('refuses %s', (_, faulty, message) => {
		const make = () =>
			createRabbitMqReconciler({
				adapter: new RabbitMqAdapter(unconnected),
				stalledThresholdSeconds: 1,
				...faulty,
			} as unknown as RabbitMqReconcilerOptions)
		expect(make).toThrow(TypeError)
		expect(make).toThrow(message)
	})
})

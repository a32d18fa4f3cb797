import type { ChannelModel } from 'amqplib'
import {
	createFlow,
	type FlowcraftEvent,
	FlowRuntime,
	type ICoordinationStore,
	type JobPayload,
	NullLogger,
	type WorkflowBlueprint,
} from 'flowcraft'
import { Redis } from 'ioredis'
import { afterAll, afterEach, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { createDatabase } from '../../src/db/client.js'
import { ConflictError, InvalidInputError, NotFoundError } from '../../src/errors.js'
import { noDoorbell } from '../../src/ports/doorbell.js'
import { noLogger } from '../../src/ports/logger.js'
import { cancelRun } from '../../src/run/cancel.js'
import { readRun } from '../../src/run/read.js'
import { startRun } from '../../src/run/start.js'
import { receiveWebhook } from '../../src/run/webhooks.js'
import { waitForWorkflow } from '../../src/run/wait-for-workflow.js'
import { RabbitMqAdapter } from '../../worker/adapter/adapter.js'
import type { RabbitMqAdapterOptions } from '../../worker/adapter/options.js'
import { RedisCoordinationStore } from '../../worker/adapter/coordination-store.js'
import { createRabbitMqBroker } from '../../worker/broker/rabbitmq.js'
import { migrate } from '../../worker/db/migrate.js'
import { createRelay } from '../../worker/relay/relay.js'
import * as moderation from '../../worker/workflows/index.js'
import { connectForTest, RabbitMqAdmin } from '../broker/rabbitmq-admin.js'
import { samplePosts } from '../../worker/workflows/content-moderation/sample-posts.js'
import { type Core, createCore, flow } from '../support/core.js'
import { freshDatabase, freshQueueName, rabbitMq, redis } from '../support/services/index.js'
import { startProxy } from '../support/tcp-proxy.js'
import { waitFor } from '../support/wait-for.js'

/** Far more than any run here takes: of a busy machine. */
const END_MS = 60_000

let amqpUrl: string
let admin: RabbitMqAdmin
let core: Core

beforeAll(async () => {
	amqpUrl = (await rabbitMq()).url
	admin = new RabbitMqAdmin(amqpUrl)
	core = await createCore()
})

afterAll(async () => {
	await core?.drop()
})

const opened: (() => Promise<unknown>)[] = []

afterEach(async () => {
	for (const close of opened.splice(0).reverse()) await close()
	// What a test left unfinished would be work for the next one's relay and worker.
	for (const { run_id } of await core.rows<{ run_id: string }>(
		'select run_id from flowcraft_statuses where finished_at is null',
	)) {
		await cancelRun(core.sql, run_id).catch((error: unknown) => {
			if (!(error instanceof ConflictError)) throw error
		})
	}
})

const logger = new NullLogger()

/** An adapter of the test's own, on a queue of its own, that is gone after the test. */
function adapterOf(
	workflows: RabbitMqAdapterOptions['runtimeOptions'],
	options: Partial<RabbitMqAdapterOptions> = {},
): RabbitMqAdapter & { queue: string } {
	const queue = options.queueName ?? queueOfOwn()
	const adapter = new RabbitMqAdapter({
		...(options.amqpConnection === undefined ? { amqpUrl } : {}),
		databaseUrl: core.url,
		queueName: queue,
		poolSize: 3,
		drainMs: 2_000,
		...options,
		runtimeOptions: { logger, ...workflows },
	})
	opened.push(() => adapter.stop())
	return Object.assign(adapter, { queue })
}

function queueOfOwn(): string {
	const queue = freshQueueName()
	opened.push(async () => {
		await admin.deleteQueue(queue)
		await admin.deleteQueue(`${queue}.dead`)
	})
	return queue
}

/** As an application hands its own in. */
async function ownConnection(): Promise<ChannelModel> {
	const connection = await connectForTest(amqpUrl)
	opened.push(() => connection.close().catch(() => {}))
	return connection
}

async function send(queue: string, body: object): Promise<void> {
	await admin.do(async (channel) =>
		channel.sendToQueue(queue, Buffer.from(JSON.stringify(body)), { persistent: true }),
	)
}

function gate(): { readonly opened: Promise<void>; open(): void } {
	let open = (): void => {}
	const opened = new Promise<void>((resolve) => (open = resolve))
	return { opened, open: () => open() }
}

let counter = 0
/** Blueprints of different tests never meet. */
const name = (what: string): string => `${what}-${(counter += 1)}`

const registry = { work: async () => ({ output: 'done' }) }

/** `ask` waits; then `yes` or `no`, by the action. */
function approval(id = name('approval')): WorkflowBlueprint {
	const edges = [
		['ask', 'yes', { action: 'approve' }],
		['ask', 'no', { action: 'reject' }],
	] as const
	return flow(id, edges, { ask: { uses: 'wait' } })
}

const statusOf = async (runId: string): Promise<string | undefined> =>
	(await readRun(core.sql, runId))?.status

async function awaiting(runId: string, nodes: number): Promise<void> {
	await waitFor(
		`${nodes} nodes of ${runId} to wait`,
		async () => (await readRun(core.sql, runId))?.awaiting?.length === nodes,
	)
}

describe("Flowcraft's guide", () => {
	it('runs its content-moderation blueprint to the end, on RabbitMQ, Redis and Postgres', async () => {
		const client = new Redis((await redis()).url)
		opened.push(() => client.quit())
		const runtime = new FlowRuntime({
			blueprints: moderation.blueprints,
			registry: moderation.registry,
			logger,
		})
		const adapter = new RabbitMqAdapter({
			runtimeOptions: runtime.options,
			coordinationStore: new RedisCoordinationStore(client),
			amqpConnection: await ownConnection(),
			databaseUrl: core.url,
			contextTableName: 'flowcraft_contexts',
			statusTableName: 'flowcraft_statuses',
			queueName: queueOfOwn(),
		})
		opened.push(() => adapter.stop())
		await adapter.start()

		const ends = await Promise.all(
			samplePosts.map(async ({ id, userId, userPost, expected }) => {
				const { runId } = await startRun(core.sql, {
					blueprint: 'content-moderation',
					input: { userId, userPost },
				})
				const { status, payload } = await waitForWorkflow(core.sql, runId, END_MS)
				return { id, status, verdict: payload?.context['moderation_result'], expected }
			}),
		)
		for (const { id, status, verdict, expected } of ends) {
			expect
				.soft({ id, status, verdict })
				.toMatchObject({ id, status: 'completed', verdict: { verdict: expected } })
		}
	})

	it('runs a ready node for a message in the form that its clients publish', async () => {
		const blueprint = flow(name('guide'), [['first', 'second']])
		const adapter = adapterOf(
			{ blueprints: { [blueprint.id]: blueprint }, registry },
			{ relay: false, maxInARow: 1 },
		)
		await adapter.start()
		const { runId } = await startRun(core.sql, { blueprint: blueprint.id })

		await send(adapter.queue, { runId, blueprintId: blueprint.id, nodeId: 'first' })
		await waitFor(
			'the node to complete',
			async () => (await core.nodes(runId))['first']?.state === 'completed',
		)

		// Without a relay nothing else moves, and nothing is lost: both rows are in the outbox.
		expect(await core.outbox(runId)).toEqual(['first', 'second'])
		expect(await statusOf(runId)).toBe('running')
	})

	it('drops a message for a run or a node that does not exist, or is not ready, and goes on', async () => {
		const blueprint = flow(name('guide'), [['first', 'second']])
		const adapter = adapterOf(
			{ blueprints: { [blueprint.id]: blueprint }, registry },
			{ relay: false, maxInARow: 1 },
		)
		await adapter.start()
		const { runId } = await startRun(core.sql, { blueprint: blueprint.id })

		await send(adapter.queue, { runId: 'nobody', blueprintId: blueprint.id, nodeId: 'first' })
		await send(adapter.queue, { runId, blueprintId: blueprint.id, nodeId: 'nothing' })
		await send(adapter.queue, { runId, blueprintId: blueprint.id, nodeId: 'second' })
		await send(adapter.queue, { runId, blueprintId: blueprint.id, nodeId: 'first' })

		await waitFor(
			'the ready node to complete',
			async () => (await core.nodes(runId))['first']?.state === 'completed',
		)
		expect((await core.nodes(runId))['second']?.state).toBe('ready')
		expect(await core.violations()).toEqual([])
	})

	it('takes a createFlow builder as well as a blueprint', async () => {
		const id = name('built')
		const built = createFlow(id)
			.node('a', async () => ({ output: 20 }))
			.node('b', async ({ input }) => ({ output: Number(input) + 1 }))
			.edge('a', 'b')
		const adapter = adapterOf({ blueprints: { [id]: built } })
		await adapter.start()
		const { runId } = await startRun(core.sql, { blueprint: id })

		const { payload } = await waitForWorkflow(core.sql, runId, END_MS)
		expect(payload?.context['b']).toBe(21)
	})
})

describe('the engine behind it', () => {
	it('decides nothing by the coordination store', async () => {
		const refuse = async (): Promise<never> => {
			throw new Error('Redis is gone')
		}
		const store: ICoordinationStore = {
			increment: refuse,
			setIfNotExist: refuse,
			extendTTL: refuse,
			delete: refuse,
			get: refuse,
		}
		const blueprint = flow(
			name('joins'),
			[
				['a', 'all'],
				['b', 'all'],
				['all', 'any'],
				['b', 'any'],
			],
			{ any: { config: { joinStrategy: 'any' } } },
		)
		const adapter = adapterOf(
			{ blueprints: { [blueprint.id]: blueprint }, registry },
			{ coordinationStore: store },
		)
		await adapter.start()
		const { runId } = await startRun(core.sql, { blueprint: blueprint.id })

		expect((await waitForWorkflow(core.sql, runId, END_MS)).status).toBe('completed')
	})

	it('publishes nothing with its relay switched off; any other relay does', async () => {
		const blueprint = flow(name('relayed'), [['a', 'b']])
		const adapter = adapterOf(
			{ blueprints: { [blueprint.id]: blueprint }, registry },
			{ relay: false, maxInARow: 1 },
		)
		await adapter.start()
		const { runId } = await startRun(core.sql, { blueprint: blueprint.id })

		const broker = createRabbitMqBroker({ url: amqpUrl, queues: [adapter.queue], logger: noLogger })
		opened.push(() => broker.close())
		const relay = createRelay({
			db: core.sql,
			broker,
			doorbell: noDoorbell,
			logger: noLogger,
			queue: adapter.queue,
		})
		expect(await statusOf(runId)).toBe('running')
		await waitFor('the run to end by ticks of that relay', async () => {
			await relay.tick()
			return (await statusOf(runId)) === 'completed'
		})
		expect(relay.counts().published).toBe(2)
	})

	it('hands itself to its nodes as dependencies.adapter, beside what the caller gave', async () => {
		let seen: unknown
		const blueprint = flow(name('dependent'), [], { only: { uses: 'look' } })
		const adapter = adapterOf({
			blueprints: { [blueprint.id]: blueprint },
			registry: {
				look: async ({ dependencies }: { dependencies: Record<string, unknown> }) => {
					seen = { adapter: dependencies['adapter'], given: dependencies['given'] }
					return {}
				},
			},
			dependencies: { given: 42 },
		})
		await adapter.start()
		const { runId } = await startRun(core.sql, { blueprint: blueprint.id })
		await waitForWorkflow(core.sql, runId, END_MS)

		expect(seen).toEqual({ adapter, given: 42 })
	})

	it('gives a job that a subclass handles to the queue, and keeps the base class from orchestrating', async () => {
		class Subclass extends RabbitMqAdapter {
			handle = (job: JobPayload): Promise<void> => this.handleJob(job)
			process = (): void => this.processJobs()
			joins = (): Promise<boolean> => this.isReadyForFanIn()
			finish = (): Promise<void> => this.publishFinalResult()
			contextOf = (runId: string) => this.createContext(runId)
		}
		const blueprint = flow(name('subclassed'), [], { only: {} })
		const adapter = new Subclass({
			runtimeOptions: { blueprints: { [blueprint.id]: blueprint }, registry, logger },
			amqpUrl,
			databaseUrl: core.url,
			queueName: queueOfOwn(),
			relay: false,
		})
		opened.push(() => adapter.stop())
		await adapter.start()
		const { runId } = await startRun(core.sql, { blueprint: blueprint.id, input: { greeting: 'hello' } })

		await adapter.handle({ runId, blueprintId: blueprint.id, nodeId: 'only' })
		expect((await waitForWorkflow(core.sql, runId, END_MS)).status).toBe('completed')
		expect(await adapter.contextOf(runId).get('greeting')).toBe('hello')
		expect(() => adapter.process()).toThrow(/no use for processJobs/)
		await expect(adapter.joins()).rejects.toThrow(/no use for isReadyForFanIn/)
		await expect(adapter.finish()).rejects.toThrow(/no use for publishFinalResult/)
	})

	it("tells its event bus of jobs in Flowcraft's words, and the runtime's of nodes", async () => {
		const jobs: FlowcraftEvent[] = []
		const nodes: FlowcraftEvent[] = []
		const blueprint = flow(name('observed'), [['good', 'bad']], { bad: { uses: 'break' } })
		const adapter = adapterOf(
			{
				blueprints: { [blueprint.id]: blueprint },
				registry: {
					...registry,
					break: async () => {
						throw new Error('broken')
					},
				},
				eventBus: { emit: (event) => void nodes.push(event) },
			},
			{
				// Of a node that a worker goes on with nothing is enqueued.
				maxInARow: 1,
				eventBus: {
					emit(event) {
						jobs.push(event)
						throw new Error('an observer that breaks')
					},
				},
			},
		)
		await adapter.start()
		const { runId } = await startRun(core.sql, { blueprint: blueprint.id })
		expect((await waitForWorkflow(core.sql, runId, END_MS)).status).toBe('failed')

		const job = { runId, blueprintId: blueprint.id }
		const ofRun = () => jobs.filter(({ payload }) => 'runId' in payload && payload.runId === runId)
		expect(await waitFor('all events', ofRun, { until: ({ length }) => length === 4 })).toEqual(
			expect.arrayContaining([
				{ type: 'job:enqueued', payload: { ...job, nodeId: 'good', queueName: adapter.queue } },
				{
					type: 'job:processed',
					payload: { ...job, nodeId: 'good', duration: expect.any(Number), success: true },
				},
				{ type: 'job:enqueued', payload: { ...job, nodeId: 'bad', queueName: adapter.queue } },
				{
					type: 'job:failed',
					payload: { ...job, nodeId: 'bad', error: expect.objectContaining({ message: 'broken' }) },
				},
			]),
		)
		expect(nodes.map(({ type }) => type)).toEqual([
			'node:start',
			'node:finish',
			'node:start',
			'node:error',
		])
	})

	it('given a URL, comes back by itself when the connection to RabbitMQ is lost', async () => {
		const proxy = await startProxy(amqpUrl)
		opened.push(() => proxy.close())
		const blueprint = flow(name('reconnected'), [['a', 'b']])
		const adapter = adapterOf(
			{ blueprints: { [blueprint.id]: blueprint }, registry },
			{ amqpUrl: proxy.url },
		)
		await adapter.start()
		const before = await startRun(core.sql, { blueprint: blueprint.id })
		expect((await waitForWorkflow(core.sql, before.runId, END_MS)).status).toBe('completed')

		proxy.cut()
		const after = await startRun(core.sql, { blueprint: blueprint.id })
		expect((await waitForWorkflow(core.sql, after.runId, END_MS)).status).toBe('completed')

		await adapter.stop()
		expect(
			await waitFor('its connections to end', () => proxy.connections, {
				until: (count) => count === 0,
			}),
		).toBe(0)
	})

	it("never closes the caller's connection", async () => {
		const connection = await ownConnection()
		const adapter = adapterOf({ registry }, { amqpConnection: connection })
		await adapter.start()
		await adapter.stop()

		const channel = await connection.createChannel()
		await expect(channel.close()).resolves.toBeUndefined()
	})
})

describe('resumeWithAction', () => {
	it('takes an action and an output, as Flowcraft documents it', async () => {
		const blueprint = approval()
		const adapter = adapterOf({ blueprints: { [blueprint.id]: blueprint }, registry })
		await adapter.start()
		const { runId } = await startRun(core.sql, { blueprint: blueprint.id })
		await awaiting(runId, 1)

		expect(await adapter.resumeWithAction(runId, 'approve', { reviewer: 'Ada' })).toEqual(
			new Set(['ask']),
		)
		const { status, payload } = await waitForWorkflow(core.sql, runId, END_MS)
		expect(status).toBe('completed')
		expect(payload?.context).toMatchObject({ ask: { reviewer: 'Ada' }, yes: 'done' })
		expect(payload?.context).not.toHaveProperty('no')
	})

	it('takes an object that names the node, and has to where several wait', async () => {
		const id = name('two-waits')
		const blueprint = flow(id, [], { one: { uses: 'wait' }, two: { uses: 'wait' } })
		const adapter = adapterOf({ blueprints: { [id]: blueprint }, registry })
		await adapter.start()
		const { runId } = await startRun(core.sql, { blueprint: id })
		await awaiting(runId, 2)

		await expect(adapter.resumeWithAction(runId, 'approve')).rejects.toThrow(ConflictError)
		expect(await adapter.resumeWithAction(runId, { nodeId: 'two', output: 2 })).toEqual(new Set(['two']))
		// The other one is now the only one.
		await awaiting(runId, 1)
		expect(await adapter.resumeWithAction(runId)).toEqual(new Set(['one']))
		expect((await waitForWorkflow(core.sql, runId, END_MS)).payload?.context).toMatchObject({ two: 2 })
	})

	it('works on an adapter that was never started', async () => {
		const blueprint = approval()
		const workflows = { blueprints: { [blueprint.id]: blueprint }, registry }
		const worker = adapterOf(workflows)
		await worker.start()
		const { runId } = await startRun(core.sql, { blueprint: blueprint.id })
		await awaiting(runId, 1)

		const door = adapterOf(workflows, { queueName: worker.queue })
		await door.resumeWithAction(runId, 'reject')
		expect((await waitForWorkflow(core.sql, runId, END_MS)).payload?.context).toMatchObject({
			no: 'done',
		})
	})

	it('writes the output as the serializer of the runtime does', async () => {
		const serializer = {
			serialize: (data: Record<string, unknown>) =>
				JSON.stringify(data, (_, value: unknown) =>
					typeof value === 'bigint' ? { big: String(value) } : value,
				),
			deserialize: (text: string) =>
				JSON.parse(text, (_, value: unknown) =>
					typeof value === 'object' && value !== null && 'big' in value
						? BigInt(String(value.big))
						: value,
				) as Record<string, unknown>,
		}
		let seen: unknown
		const blueprint = flow(name('serialized'), [['ask', 'after']], {
			ask: { uses: 'wait' },
			after: { uses: 'look' },
		})
		const adapter = adapterOf({
			blueprints: { [blueprint.id]: blueprint },
			serializer,
			registry: {
				look: async ({ input }) => {
					seen = input
					return {}
				},
			},
		})
		await adapter.start()
		const { runId } = await startRun(core.sql, { blueprint: blueprint.id })
		await awaiting(runId, 1)
		await adapter.resumeWithAction(runId, { output: 12n })
		await waitForWorkflow(core.sql, runId, END_MS)

		expect(seen).toBe(12n)
	})

	it('rejects what it does not understand, a run that does not exist, and one where nothing waits', async () => {
		const blueprint = flow(name('busy'), [], { only: {} })
		await core.register(blueprint)
		const { runId } = await startRun(core.sql, { blueprint: blueprint.id })
		const adapter = adapterOf({ registry })

		await expect(adapter.resumeWithAction('nobody', 'approve')).rejects.toThrow(NotFoundError)
		await expect(adapter.resumeWithAction(runId, 'approve')).rejects.toThrow(
			/Nothing waits in run .* which is running/,
		)
		const unknown = { approved: true } as unknown as { action: string }
		await expect(adapter.resumeWithAction(runId, unknown)).rejects.toThrow(
			/\/approved is unknown; expected nodeId, action and output/,
		)
		const wrong = { action: 7, nodeId: ['a'] } as unknown as { action: string }
		await expect(adapter.resumeWithAction(runId, wrong)).rejects.toThrow(InvalidInputError)
	})
})

describe('registerWebhookEndpoint', () => {
	it('gives a node a URL whose request ends its wait, the same one until it is used', async () => {
		const urls: string[] = []
		const blueprint: WorkflowBlueprint = {
			id: name('endpoint'),
			nodes: [{ id: 'hook', uses: 'hook' }],
			edges: [],
		}
		const adapter = adapterOf(
			{
				blueprints: { [blueprint.id]: blueprint },
				registry: {
					hook: async ({ dependencies }) => {
						const runId = dependencies.runtime.executionId
						const { url, event } = await (
							dependencies['adapter'] as RabbitMqAdapter
						).registerWebhookEndpoint(runId, 'hook')
						urls.push(url)
						await dependencies.workflowState.markAsAwaiting('hook', { eventName: event })
						return {}
					},
				},
			},
			{ publicUrl: 'https://flows.example.com' },
		)
		await adapter.start()
		const { runId } = await startRun(core.sql, { blueprint: blueprint.id })
		await waitFor('the run to wait', async () => (await statusOf(runId)) === 'awaiting')
		const again = await adapter.registerWebhookEndpoint(runId, 'hook')
		expect(urls).toEqual([again.url])
		const token = /^https:\/\/flows\.example\.com\/webhooks\/([\w-]{43})$/.exec(again.url)?.[1] ?? ''

		await receiveWebhook(core.sql, token, { text: 'hello', headers: {} })
		await waitFor('the run to end', async () => (await statusOf(runId)) === 'completed')
		expect((await adapter.registerWebhookEndpoint(runId, 'hook')).url).not.toBe(again.url)
	})
})

describe('start and stop', () => {
	const workersOn = (queue: string) =>
		core.rows<{ stopped: boolean }>(
			'select stopped_at is not null as stopped from flowcraft_workers where queues = array[$1]',
			queue,
		)

	it('start a second time changes nothing', async () => {
		const adapter = adapterOf({ registry })
		await Promise.all([adapter.start(), adapter.start()])
		await adapter.start()

		expect(await workersOn(adapter.queue)).toEqual([{ stopped: false }])
	})

	it('stop before a start, and a second time, does nothing', async () => {
		const adapter = adapterOf({ registry })
		await adapter.stop()
		await adapter.start()
		await Promise.all([adapter.stop(), adapter.stop()])
		await adapter.stop()

		expect(await workersOn(adapter.queue)).toEqual([{ stopped: true }])
	})

	it('starts anew after a stop, but not while it stops', async () => {
		const blueprint = flow(name('restarted'), [['a', 'b']])
		const adapter = adapterOf({ blueprints: { [blueprint.id]: blueprint }, registry })
		await adapter.start()
		const stopped = adapter.stop()
		await expect(adapter.start()).rejects.toThrow(
			'The adapter is stopping: await stop() before starting it again.',
		)
		await stopped
		await adapter.start()

		const { runId } = await startRun(core.sql, { blueprint: blueprint.id })
		expect((await waitForWorkflow(core.sql, runId, END_MS)).status).toBe('completed')
	})

	it('lets a running node end before it stops', async () => {
		const begun = gate()
		const end = gate()
		const blueprint = flow(name('drained'), [], { slow: { uses: 'slow' } })
		const adapter = adapterOf({
			blueprints: { [blueprint.id]: blueprint },
			registry: {
				slow: async () => {
					begun.open()
					await end.opened
					return { output: 'done' }
				},
			},
		})
		await adapter.start()
		const { runId } = await startRun(core.sql, { blueprint: blueprint.id })
		await begun.opened
		const stopped = adapter.stop()
		end.open()
		await stopped

		expect(await statusOf(runId)).toBe('completed')
	})

	it('rejects a start on a database without tables, and starts once they are there', async () => {
		const empty = await freshDatabase({ migrated: false })
		opened.push(() => empty.drop())
		const adapter = adapterOf({ registry }, { databaseUrl: empty.url })

		await expect(adapter.start()).rejects.toThrow(/no tables of flowcraft-outbox/)
		await migrate(empty.url)
		await adapter.start()
	})

	it('rejects a start with a faulty blueprint and leaves nothing open', async () => {
		const blueprint = { ...flow(name('faulty'), [['a', 'b']]), nodes: [{ id: 'a', uses: 'work' }] }
		const adapter = adapterOf({ blueprints: { [blueprint.id]: blueprint }, registry })

		await expect(adapter.start()).rejects.toThrow(InvalidInputError)
		expect(
			await core.rows(
				"select pid from pg_stat_activity where datname = current_database() and application_name in ('flowcraft-worker', 'flowcraft-adapter')",
			),
		).toEqual([])
	})

	it('waits for Postgres, until it is stopped', async () => {
		const proxy = await startProxy(core.url)
		opened.push(() => proxy.close())
		proxy.refuse()
		const patient = adapterOf({ registry }, { databaseUrl: proxy.url })
		const started = patient.start()
		const weary = adapterOf({ registry }, { databaseUrl: proxy.url })
		const given = weary.start()
		await weary.stop()
		await given

		await proxy.accept()
		await started
		expect(await workersOn(patient.queue)).toEqual([{ stopped: false }])
		expect(await workersOn(weary.queue)).toEqual([])
	})

	it('holds no connection to Postgres after a stop', async () => {
		const own = await freshDatabase()
		onTestFinished(() => own.drop())
		const adapter = adapterOf({ registry }, { databaseUrl: own.url })
		await adapter.start()
		await adapter.stop()

		const look = createDatabase(own.url, { max: 1, applicationName: 'test' })
		opened.push(() => look.close())
		const others = () =>
			look.sql`select application_name from pg_stat_activity where datname = current_database() and application_name <> 'test'`
		expect(await waitFor('connections to end', others, { until: (rows) => rows.length === 0 })).toEqual(
			[],
		)
	})
})

describe('options', () => {
	const valid = {
		runtimeOptions: {},
		amqpUrl: 'amqp://127.0.0.1',
		databaseUrl: 'postgres://127.0.0.1/none',
	}
	const make = (options: object) => () => new RabbitMqAdapter({ ...valid, ...options })

	it.each([
		['a pg client', { pgClient: {}, databaseUrl: undefined }, /pgClient is not taken: pass databaseUrl/],
		[
			'a client as databaseUrl',
			{ databaseUrl: () => {} },
			/databaseUrl must be a URL like postgres:.* not a client/,
		],
		['no databaseUrl', { databaseUrl: undefined }, /databaseUrl must be a URL/],
		[
			'a databaseUrl of something else',
			{ databaseUrl: 'mysql://secret@127.0.0.1/x' },
			/databaseUrl must be a URL/,
		],
		[
			'neither connection nor URL of RabbitMQ',
			{ amqpUrl: undefined },
			/exactly one of amqpConnection and amqpUrl/,
		],
		['both', { amqpConnection: {} }, /exactly one of amqpConnection and amqpUrl/],
		[
			'a promise of a connection',
			{ amqpUrl: undefined, amqpConnection: Promise.resolve() },
			/amqpConnection must be .* await it first/,
		],
		['a faulty amqpUrl', { amqpUrl: 'http://127.0.0.1' }, /amqpUrl must be a URL like amqp:/],
		['no runtimeOptions', { runtimeOptions: undefined }, /runtimeOptions must be an object/],
		['a queue name with spaces', { queueName: 'my jobs' }, /queueName must consist of/],
		['an empty queue name', { queueName: '' }, /queueName must consist of/],
		[
			'another context table',
			{ contextTableName: 'contexts' },
			/contextTableName cannot be "contexts": the table is named flowcraft_contexts/,
		],
		[
			'another status table',
			{ statusTableName: 'x; drop table y' },
			/statusTableName cannot be "x; drop table y"/,
		],
		['no concurrency', { concurrency: 0 }, /concurrency must be a whole number from 1/],
		['a short lease', { leaseMs: 10 }, /leaseMs must be a whole number of ms, at least 500/],
		['half a millisecond', { stalledMs: 0.5 }, /stalledMs must be a whole number of ms/],
	])('refuses %s', (_, options, message) => {
		expect(make(options)).toThrow(message)
	})

	it('reports all faults together, and no password', () => {
		const faulty = make({ databaseUrl: 'mysql://user:secret@host/x', queueName: 'my jobs', drainMs: -1 })
		expect(faulty).toThrow(TypeError)
		expect(faulty).toThrow(/databaseUrl .*; queueName .*; drainMs /)
		expect(faulty).not.toThrow(/secret/)
	})
})

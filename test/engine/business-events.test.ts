/** What a node publishes: with its result, or not at all. */
import type { NodeContext, NodeResult, RuntimeDependencies, WorkflowBlueprint } from 'flowcraft'
import { afterEach, describe, expect, test } from 'vitest'
import { cancelRun } from '../../src/run/cancel.js'
import { resumeRun } from '../../src/run/resume.js'
import { noDoorbell } from '../../src/ports/doorbell.js'
import { type Logger, noLogger } from '../../src/ports/logger.js'
import type { OutboundMessage } from '../../src/ports/broker.js'
import { createInProcessBroker } from '../../worker/broker/in-process.js'
import type { DurableDependencies } from '../../worker/execution/durable-dependencies.js'
import { relayMetrics } from '../../worker/relay/metrics.js'
import { createRelay } from '../../worker/relay/relay.js'
import { startEngine, type TestEngine, type TestEngineOptions } from '../support/engine.js'
import { waitFor } from '../support/wait-for.js'

type Context = NodeContext<RuntimeDependencies, DurableDependencies>

let engine: TestEngine
let events: OutboundMessage[] = []
afterEach(async () => {
	await engine.stop()
	events = []
})

const broker = () =>
	createInProcessBroker({ queues: ['flowcraft-jobs'], onEvent: (event) => events.push(event) })

async function begin(
	node: Partial<WorkflowBlueprint['nodes'][number]>,
	work: (context: Context) => Promise<NodeResult | void>,
	options: TestEngineOptions = {},
): Promise<void> {
	const blueprint = { id: 'b', nodes: [{ id: 'n', uses: 'work', ...node }], edges: [] }
	engine = await startEngine({
		broker: broker(),
		...options,
		workflows: {
			...options.workflows,
			blueprints: { b: blueprint },
			registry: { work: async (context: Context) => (await work(context)) ?? {} },
		},
	})
}

const kept = () =>
	engine.rows<{ routing_key: string; failures: number; last_error: string | null }>(
		`select routing_key, failures, last_error from flowcraft_outbox where kind = 'event' order by id`,
	)

describe('an event that a node publishes', () => {
	test('reaches its exchange with the body, the headers and the id that it was given', async () => {
		await begin({}, async ({ dependencies }) => ({
			output: dependencies.publish(
				'orders',
				'order.paid',
				{ order: 7, note: 'ü"\u0000' },
				{ headers: { tenant: 't1' }, priority: 3 },
			),
		}))
		const traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'
		const run = await engine.run({ blueprint: 'b', traceparent })
		await waitFor('the event', () => events.length)
		expect(events).toEqual([
			{
				messageId: run.context['n'],
				exchange: 'orders',
				routingKey: 'order.paid',
				body: '{"order":7,"note":"ü\\"\\u0000"}',
				headers: {
					tenant: 't1',
					runId: run.runId,
					nodeId: 'n',
					attempt: '1',
					blueprintId: 'b',
					traceparent,
				},
				priority: 3,
			},
		])
		await waitFor('the row to go', kept, { until: (rows) => rows.length === 0 })
		expect(relayMetrics(engine.relay)).toMatchObject({
			outbox_events_published_total: 1,
			outbox_events_failed_total: 0,
		})
	})

	test('has the body that a custom serializer writes, without the wrapping of stored values', async () => {
		await begin({}, async ({ dependencies }) => void dependencies.publish('x', 'k', { at: 1n }), {
			workflows: {
				serializer: {
					serialize: (value) =>
						JSON.stringify(value, (_, each: unknown) =>
							typeof each === 'bigint' ? `${each}n` : each,
						),
					deserialize: (text) => JSON.parse(text) as Record<string, unknown>,
				},
			},
		})
		await engine.run({ blueprint: 'b' })
		await waitFor('the event', () => events.length)
		expect(events[0]?.body).toBe('{"at":"1n"}')
	})

	test('goes with a failed attempt; only those of the attempt that completes are published', async () => {
		await begin({ config: { maxRetries: 3, retryDelay: 1 } }, async ({ dependencies }) => {
			dependencies.publish('x', `attempt.${dependencies.attempt}`, {})
			if (dependencies.attempt < 3) throw new Error('not yet')
		})
		await engine.run({ blueprint: 'b' })
		await waitFor('an event', () => events.length)
		expect(events.map(({ routingKey }) => routingKey)).toEqual(['attempt.3'])
		// It is handed on before its row goes.
		await waitFor('the row to go', async () => (await kept()).length === 0)
	})

	test('is in no commit of a failure, so a fallback publishes only its own', async () => {
		const blueprint = {
			id: 'b',
			nodes: [
				{ id: 'n', uses: 'work', config: { fallback: 'f' } },
				{ id: 'f', uses: 'rescue' },
			],
			edges: [],
		}
		engine = await startEngine({
			broker: broker(),
			workflows: {
				blueprints: { b: blueprint },
				registry: {
					work: async ({ dependencies }: Context) => {
						dependencies.publish('x', 'lost', {})
						throw new Error('No')
					},
					rescue: async ({ dependencies }: Context) => {
						dependencies.publish('x', 'rescued', {})
						return {}
					},
				},
			},
		})
		expect((await engine.run({ blueprint: 'b' })).status).toBe('completed')
		await waitFor('an event', () => events.length)
		expect(events.map(({ routingKey }) => routingKey)).toEqual(['rescued'])
	})

	test('is never published when the run is cancelled while the node runs', async () => {
		let release = (): void => {}
		const released = new Promise<void>((resolve) => {
			release = resolve
		})
		let published = false
		await begin({}, async ({ dependencies }) => {
			dependencies.publish('x', 'k', {})
			published = true
			await released
		})
		const runId = await engine.start({ blueprint: 'b' })
		await waitFor('the node', () => published)
		await cancelRun(engine.database.sql, runId)
		release()
		await engine.stopWorkers()
		await engine.relay.tick()
		expect(events).toEqual([])
		expect(await kept()).toEqual([])
	})

	test('stays when its run is cancelled after its node has committed', async () => {
		const blueprint = {
			id: 'b',
			nodes: [
				{ id: 'n', uses: 'work' },
				{ id: 'w', uses: 'wait' },
			],
			edges: [{ source: 'n', target: 'w' }],
		}
		const work = async ({ dependencies }: Context) => {
			dependencies.publish('x', 'k', {})
			return {}
		}
		engine = await startEngine({
			broker: createInProcessBroker({ queues: ['flowcraft-jobs'] }),
			workflows: { blueprints: { b: blueprint }, registry: { work } },
		})
		const runId = await engine.start({ blueprint: 'b' })
		await waitFor('a try to publish it', kept, { until: (rows) => (rows[0]?.failures ?? 0) > 0 })
		expect(await cancelRun(engine.database.sql, runId)).toMatchObject({ status: 'cancelled' })
		expect(await kept()).toHaveLength(1)
	})

	test('goes out when its node begins to wait, and not again when the wait ends', async () => {
		await begin({}, async ({ dependencies }) => {
			dependencies.publish('x', 'asked', {})
			await dependencies.workflowState.markAsAwaiting('n')
			return { output: 'asked' }
		})
		const runId = await engine.start({ blueprint: 'b' })
		await waitFor('the event', () => events.length)
		await resumeRun(engine.database.sql, runId)
		expect((await engine.end(runId)).context['n']).toBe('asked')
		await engine.relay.tick()
		expect(events.map(({ routingKey }) => routingKey)).toEqual(['asked'])
		expect(await kept()).toEqual([])
	})

	test('that could never be published fails its node at once, with a sentence that says why', async () => {
		const cases: [string, (publish: DurableDependencies['publish']) => unknown][] = [
			['its routing key has more than 255 bytes', (publish) => publish('x', 'ü'.repeat(128), {})],
			['its exchange has characters that cannot be sent', (publish) => publish('x\u0000', 'k', {})],
			[
				"the header 'runId' is not free to choose",
				(publish) => publish('x', 'k', {}, { headers: { runId: 'mine' } }),
			],
			["the header 'CC' is not free", (publish) => publish('x', 'k', {}, { headers: { CC: 'q' } })],
			[
				'its headers have 16389 bytes',
				(publish) => publish('x', 'k', {}, { headers: { large: 'x'.repeat(16 * 1024) } }),
			],
			['its priority is no whole number', (publish) => publish('x', 'k', {}, { priority: 10 })],
			['it has 4194306 bytes', (publish) => publish('x', 'k', 'x'.repeat(4 * 1024 * 1024))],
			['it contains a BigInt', (publish) => publish('x', 'k', { one: 1n })],
		]
		await begin({ config: { maxRetries: 3, retryDelay: 1 } }, async ({ context, dependencies }) => {
			const number = (await context.get('number')) as number
			cases[number]?.[1]((...event) => dependencies.publish(...event))
		})
		for (const [number, [why]] of cases.entries()) {
			const run = await engine.run({ blueprint: 'b', input: { number } })
			expect(run.errors?.[0]).toMatchObject({ attempt: 1, message: expect.stringContaining(why) })
		}
		expect(await kept()).toEqual([])
	})

	test('cannot be published once the node has ended', async () => {
		let late: (() => string) | undefined
		await begin({}, async ({ dependencies }) => {
			late = () => dependencies.publish('x', 'k', {})
		})
		await engine.run({ blueprint: 'b' })
		expect(() => late?.()).toThrow(/after the node had ended/)
	})
})

describe('events that nobody takes', () => {
	test('wait in the outbox, are counted, logged once per exchange and round, and keep no job waiting', async () => {
		const warnings: { message: string; fields: Record<string, unknown> }[] = []
		const log = (message: string, fields: Record<string, unknown> = {}) =>
			void warnings.push({ message, fields })
		const quiet = (): void => {}
		const logger: Logger = { debug: quiet, info: quiet, warn: log, error: log }
		await begin(
			{},
			async ({ dependencies }) => {
				for (let n = 0; n < 10; n++) dependencies.publish('nowhere', `k${n}`, {})
			},
			{ logger, broker: createInProcessBroker({ queues: ['flowcraft-jobs'] }) },
		)
		await engine.run({ blueprint: 'b' })
		const rows = await waitFor('all tries', kept, {
			until: (all) => all.length === 10 && all.every(({ failures }) => failures > 0),
		})
		expect(rows[0]?.last_error).toBe('unroutable: there is no exchange "nowhere" in this process')
		expect(relayMetrics(engine.relay)['outbox_events_failed_total']).toBeGreaterThanOrEqual(10)
		expect(warnings.filter(({ fields }) => fields['exchange'] === 'nowhere')[0]?.fields).toMatchObject({
			events: 10,
			runId: expect.any(String),
		})
		expect((await engine.run({ blueprint: 'b' })).status).toBe('completed')
	})

	test('are published by a later relay under the ids that they were given', async () => {
		const ids: string[] = []
		await begin(
			{},
			async ({ dependencies }) => {
				for (let n = 0; n < 3; n++) ids.push(dependencies.publish('x', `k${n}`, {}))
			},
			{ manualRelay: true, broker: createInProcessBroker({ queues: ['flowcraft-jobs'] }) },
		)
		const runId = await engine.start({ blueprint: 'b' })
		await engine.relay.tick()
		await engine.end(runId)
		await engine.relay.tick()
		expect(await kept()).toMatchObject([{ failures: 1 }, { failures: 1 }, { failures: 1 }])
		await engine.rows('update flowcraft_outbox set due_at = clock_timestamp()')
		const later = broker()
		const relay = createRelay({
			db: engine.database.sql,
			broker: later,
			doorbell: noDoorbell,
			logger: noLogger,
		})
		await relay.tick()
		expect(events.map(({ messageId }) => messageId).sort()).toEqual([...ids].sort())
		expect(await kept()).toEqual([])
		await later.close()
	})
})

test('an exchange that gives no verdict keeps the jobs waiting no longer than its own events', async () => {
	// As a queue of the user's without a leader does: neither a confirm nor a refusal comes.
	let answer = (): void => {}
	const silent = new Promise<void>((resolve) => {
		answer = resolve
	})
	await begin({}, async ({ dependencies }) => void dependencies.publish('silent', 'k', {}), {
		broker: createInProcessBroker({ queues: ['flowcraft-jobs'], onEvent: () => silent }),
	})
	await engine.run({ blueprint: 'b' })
	for (let n = 0; n < 5; n++) expect((await engine.run({ blueprint: 'b' })).status).toBe('completed')
	expect(await kept()).toHaveLength(6)
	answer()
	await waitFor('the events', kept, { until: (rows) => rows.length === 0 })
})

/** The client against the real functions, with networks and servers that fail. */
import { createFlow } from 'flowcraft'
import { afterAll, beforeAll, describe, expect, expectTypeOf, test } from 'vitest'
import { createApp } from '../../functions/app.js'
import { type FunctionsServer, serveFunctions } from '../../functions/serve.js'
import {
	type AwaitingNode,
	type Client,
	ClientError,
	type ClientOptions,
	ConflictError,
	ConnectionError,
	createClient,
	defineBlueprint,
	ForbiddenError,
	InvalidRequestError,
	type LiveEvent,
	type NodeRun,
	NotFoundError,
	ProblemError,
	RateLimitedError,
	type Run,
	type RunError,
	type RunSummary,
	UnauthorizedError,
	UnexpectedAnswerError,
} from '../../src/client/index.js'
import { type Doorbell, noDoorbell } from '../../src/ports/doorbell.js'
import type * as server from '../../src/index.js'
import { startEngine, type TestEngine } from '../support/engine.js'
import { startProxy } from '../support/tcp-proxy.js'
import { waitFor } from '../support/wait-for.js'

interface Order {
	sku: string
	pieces: number
	total?: number
}

const order = createFlow<Order>('order')
	.node('price', async ({ context }) => {
		const total = Number(await context.get('pieces')) * 5
		await context.set('total', total)
		return { output: total }
	})
	.node('ship', async () => ({ output: 'shipped' }))
	.edge('price', 'ship')

const review = defineBlueprint({
	id: 'review',
	nodes: [
		{ id: 'approval', uses: 'wait' },
		{ id: 'publish', uses: 'answer' },
	],
	edges: [{ source: 'approval', target: 'publish' }],
})
const broken = defineBlueprint({ id: 'broken', nodes: [{ id: 'only', uses: 'breaks' }], edges: [] })
const called = defineBlueprint({
	id: 'called',
	nodes: [{ id: 'for', uses: 'wait', params: { eventName: 'call' } }],
	edges: [],
})
const slow = defineBlueprint({
	id: 'slow',
	nodes: [
		{ id: 'one', uses: 'emits' },
		{ id: 'two', uses: 'emits' },
		{ id: 'three', uses: 'emits' },
	],
	edges: [
		{ source: 'one', target: 'two' },
		{ source: 'two', target: 'three' },
	],
})

/** What lets the node of a run that has emitted go on. */
const gates = new Map<string, () => void>()

/** Who listens at the server: each stream does. */
const listening = new Set<unknown>()
const doorbell: Doorbell = {
	...noDoorbell,
	listen(listener) {
		listening.add(listener)
		return () => listening.delete(listener)
	},
}

let engine: TestEngine
let functions: FunctionsServer
let client: Client

beforeAll(async () => {
	engine = await startEngine({
		workflows: {
			blueprints: { order, review, broken, called, slow },
			registry: {
				answer: async ({ input }) => ({ output: input }),
				breaks: async () => {
					throw new TypeError('No luck')
				},
				emits: async ({ dependencies }) => {
					for (let i = 0; i < 5; i++) await dependencies.emit(i)
					await new Promise<void>((resolve) => gates.set(dependencies.runtime.executionId, resolve))
					return {}
				},
			},
		},
	})
	const app = createApp({ db: engine.database, doorbell })
	functions = await serveFunctions({ app, host: '127.0.0.1', port: 0, graceMs: 0 })
	client = createClient({ url: functions.url })
})
afterAll(async () => {
	await functions.stop()
	await engine.stop()
})

/** A client whose requests go through `send`, which may lose them or their answers. */
const losing = (
	send: (request: () => Promise<Response>, url: string) => Promise<Response>,
	options: Partial<ClientOptions> = {},
): Client =>
	createClient({
		url: functions.url,
		retry: { minPauseMs: 1, maxPauseMs: 5 },
		...options,
		fetch: (url, init) => send(() => fetch(url, init), url),
	})

test.each(['foo', '', 'localhost:3000', 'ftp://host', 'http://'])(
	"a client for '%s' is not made: nothing would ever answer there",
	(url) => {
		expect(() => createClient({ url })).toThrow(new TypeError(`url: '${url}' is no http(s) URL`))
	},
)

describe('runs', () => {
	test('are started, watched to their end and listed with the types of their blueprint', async () => {
		const orders = client.for(order)
		const { runId, status } = await orders.start({ input: { sku: 'a-1', pieces: 3 }, tags: ['client'] })
		expect(status).toBe('running')
		const run = await orders.wait(runId)
		expectTypeOf(run.result!.context.total).toEqualTypeOf<number | undefined>()
		expect(run).toMatchObject({ runId, status: 'completed', result: { context: { total: 15 } } })
		expect(await orders.get(runId)).toEqual(run)
		expect((await orders.list()).runs.map((listed) => listed.runId)).toContain(runId)
		expect((await client.list({ tag: 'client', status: ['completed', 'failed'] })).runs).toHaveLength(1)
		expect(
			(await client.nodes(runId, { withOutput: true })).nodes.map(({ nodeId, output }) => [
				nodeId,
				output,
			]),
		).toEqual([
			['price', 15],
			['ship', 'shipped'],
		])
		expect((await orders.run({ input: { pieces: 1 } })).result?.context.total).toBe(5)
	})

	test('come from all pages of a list, one page at a time', async () => {
		const runIds: string[] = []
		for (let i = 0; i < 5; i++) runIds.push((await client.start(order, { tags: ['paged'] })).runId)
		let requests = 0
		const counting = losing((request) => {
			requests += 1
			return request()
		})
		const listed: string[] = []
		for await (const { runId } of counting.list({ tag: 'paged', limit: 2 })) listed.push(runId)
		expect(listed).toEqual(runIds.toReversed())
		expect(requests).toBe(3)
		for await (const { runId } of counting.list({ tag: 'paged', limit: 2 })) {
			expect(runId).toBe(runIds[4])
			break
		}
		expect(requests).toBe(4)
		const page = await counting.list({ tag: 'paged', limit: 4 })
		expect((await counting.list({ tag: 'paged', limit: 4, cursor: page.nextCursor! })).runs).toHaveLength(
			1,
		)
	})

	test('are steered', async () => {
		const reviews = client.for(review)
		const { runId } = await reviews.start()
		const awaiting = await waitFor('the wait', () => reviews.get(runId), {
			until: (run) => run.status === 'awaiting',
		})
		expectTypeOf(awaiting.awaiting![0]!.nodeId).toEqualTypeOf<'approval' | 'publish'>()
		expect((await client.pause(runId)).status).toBe('paused')
		expect((await client.unpause(runId)).status).toBe('awaiting')
		const resumed = await reviews.resume(runId, { nodeId: 'approval', output: { by: 'me' } })
		expect(resumed).toMatchObject({ runId, nodeId: 'approval' })
		expect((await reviews.wait(runId)).result?.context).toMatchObject({ publish: { by: 'me' } })

		const failed = await client.for(broken).run()
		expect([failed.status, failed.errors?.[0]]).toEqual([
			'failed',
			expect.objectContaining({ nodeId: 'only', message: 'No luck' }),
		])
		expect(await client.retry(failed.runId, { nodeId: 'only' })).toMatchObject({ nodeIds: ['only'] })
		expect((await client.wait(failed.runId)).status).toBe('failed')

		const { runId: other } = await client.start('called')
		await waitFor('the wait', async () => (await client.get(other)).status === 'awaiting')
		expect(await client.sendEvent('call', { payload: 1 })).toMatchObject({
			woken: [{ runId: other }],
			kept: false,
		})
		expect((await client.wait(other)).status).toBe('completed')

		const { runId: third } = await client.start('review')
		expect((await client.cancel(third, { reason: 'No more' })).status).toBe('cancelled')
		expect((await client.get(third)).reason).toBe('No more')
	})
})

describe('failures', () => {
	test('of the request are errors by what the caller can do, and carry the problem', async () => {
		const secret = 'x'.repeat(16)
		const guarded = await serveFunctions({
			app: createApp({ db: engine.database, apiKeys: [{ name: 'reader', secret, scopes: ['read'] }] }),
			host: '127.0.0.1',
			port: 0,
		})
		try {
			const { runId } = await client.start('review')
			const cases: [() => Promise<unknown>, typeof ProblemError, number][] = [
				[() => client.get('nothing'), NotFoundError, 404],
				[() => client.start(''), InvalidRequestError, 400],
				[() => client.resume(runId, { nodeId: 'publish' }), ConflictError, 409],
				[() => createClient({ url: guarded.url }).get(runId), UnauthorizedError, 401],
				[
					() => createClient({ url: guarded.url, apiKey: async () => secret }).cancel(runId),
					ForbiddenError,
					403,
				],
			]
			for (const [call, type, status] of cases) {
				const error = await call().then(
					() => undefined,
					(thrown: unknown) => thrown,
				)
				expect(error).toBeInstanceOf(type)
				expect(error).toBeInstanceOf(ClientError)
				expect(error).toMatchObject({
					name: type.name,
					status,
					problem: { status, title: expect.any(String) },
				})
			}
			await expect(client.start('')).rejects.toMatchObject({
				problem: { errors: [{ in: 'body', path: '/blueprint', message: 'must not be empty' }] },
			})
		} finally {
			await guarded.stop()
		}
	})

	test('of the network do not start a run twice', async () => {
		let lost = 0
		const unlucky = losing(async (request) => {
			const response = await request()
			if (lost++ < 3) throw new TypeError('fetch failed')
			return response
		})
		const { runId } = await unlucky.start('order', { input: { pieces: 2 }, tags: ['once'] })
		expect(lost).toBe(4)
		expect((await client.list({ tag: 'once' })).runs.map((run) => run.runId)).toEqual([runId])
	})

	test('of the network end a call that must not be sent twice, and that may have been carried out', async () => {
		const { runId } = await client.start('called')
		await waitFor('the wait', async () => (await client.get(runId)).status === 'awaiting')
		let sent = 0
		const unlucky = losing(async (request) => {
			sent += 1
			await request()
			throw new TypeError('fetch failed', { cause: new Error('connection reset') })
		})
		await expect(unlucky.sendEvent('call')).rejects.toThrow(ConnectionError)
		expect(sent).toBe(1)
		expect((await client.wait(runId)).status).toBe('completed')
	})

	test('are told, and so is their end', async () => {
		const told: (string | undefined)[] = []
		let lost = 0
		const unlucky = losing(
			async (request) => {
				if (lost++ < 3)
					throw new TypeError('fetch failed', { cause: new Error('connection refused') })
				return request()
			},
			{ onTrouble: (problem) => told.push(problem) },
		)
		await unlucky.list()
		expect(told).toEqual(['connection refused', undefined])
	})

	test('are waited out when the server says for how long, whatever was sent', async () => {
		const limited = await serveFunctions({
			app: createApp({ db: engine.database, callerLimit: { requests: 1, perMs: 1_000 } }),
			host: '127.0.0.1',
			port: 0,
		})
		try {
			const statuses: number[] = []
			const counting = losing(
				async (_request, url) => {
					const response = await fetch(url.replace(functions.url, limited.url), {
						method: 'POST',
						headers: { 'content-type': 'application/json' },
						body: '{}',
					})
					statuses.push(response.status)
					return response
				},
				{ url: functions.url },
			)
			for (let i = 0; i < 3; i++) await counting.sendEvent(`limited-${i}`)
			expect(statuses.filter((status) => status === 202)).toHaveLength(3)
			expect(statuses).toContain(429)
			// The server says a second: nobody asked in vain again and again.
			expect(statuses.length).toBeLessThan(10)
			const hasty = createClient({ url: limited.url, retry: { forMs: 0 } })
			await expect(Promise.all([1, 2, 3].map(() => hasty.list()))).rejects.toThrow(RateLimitedError)
		} finally {
			await limited.stop()
		}
	})

	test('are given up after a while, earlier where nothing has ever answered', async () => {
		const nowhere = 'http://127.0.0.1:1'
		const retry = { minPauseMs: 1, maxPauseMs: 20 }
		const brief = createClient({ url: nowhere, retry: { ...retry, forMs: 100 } })
		await expect(brief.list()).rejects.toThrow(ConnectionError)
		const patient = createClient({
			url: nowhere,
			retry: { ...retry, forMs: Infinity, firstAnswerMs: 100 },
		})
		await expect(patient.list()).rejects.toThrow(`Nothing answers at ${nowhere}`)
	})

	test('of another server are no answers', async () => {
		const odd = losing(async () => new Response('<html>', { status: 200 }))
		await expect(odd.get('x')).rejects.toThrow(UnexpectedAnswerError)
		const missing = losing(async () => new Response('Not here', { status: 404 }))
		await expect(missing.get('x')).rejects.toThrow(UnexpectedAnswerError)
	})

	test('and waits end with the reason of the caller’s signal', async () => {
		const { runId } = await client.start('review')
		for (const call of [
			(signal: AbortSignal) => client.wait(runId, { signal }),
			(signal: AbortSignal) => createClient({ url: 'http://127.0.0.1:1' }).start('order', { signal }),
			async (signal: AbortSignal) => {
				for await (const event of client.events(runId, { signal })) expect(event.id).toBeDefined()
			},
		]) {
			const abort = new AbortController()
			const ended = call(abort.signal)
			const reason = new Error('Enough')
			setTimeout(() => abort.abort(reason), 50)
			await expect(ended).rejects.toBe(reason)
		}
		await expect(client.get(runId, { signal: AbortSignal.abort(new Error('Never')) })).rejects.toThrow(
			'Never',
		)
	})
})

describe('events', () => {
	test('are told while they happen, each once, over connections that break and streams that end early', async () => {
		const hasty = await serveFunctions({
			app: createApp({ db: engine.database, streamMs: 30 }),
			host: '127.0.0.1',
			port: 0,
		})
		const breaking = await startProxy(hasty.url)
		try {
			const { runId } = await client.start('slow')
			const events: LiveEvent[] = []
			const resilient = createClient({ url: breaking.url, retry: { minPauseMs: 1, maxPauseMs: 20 } })
			for await (const event of resilient.events(runId)) {
				events.push(event)
				if (events.length % 3 === 0) breaking.cut()
				if (event.type === 'node:emit' && event.payload.seq === 5) {
					const open = await waitFor('the node at its gate', () => gates.get(runId))
					gates.delete(runId)
					open()
				}
			}
			const all: LiveEvent[] = []
			for await (const event of client.events(runId)) all.push(event)
			expect(events).toEqual(all)
			expect(events.at(-1)).toMatchObject({ type: 'workflow:finish', payload: { status: 'completed' } })
			expect(
				events
					.filter(({ type }) => type === 'node:emit')
					.map(({ payload }) => (payload as { data?: number }).data),
			).toEqual(Array.from({ length: 15 }, (_, i) => i % 5))
			const rest: LiveEvent[] = []
			for await (const event of client.events(runId, { after: all[3]!.id })) rest.push(event)
			expect(rest).toEqual(all.slice(4))
			for await (const event of client.events(runId, { after: all.at(-1)!.id }))
				expect(event).toBeUndefined()
		} finally {
			await breaking.close()
			await hasty.stop()
		}
	})

	test('of an unknown run are a problem, and leaving them early leaves nothing open', async () => {
		await expect(client.events('nothing').next()).rejects.toThrow(NotFoundError)
		const { runId } = await client.start('review')
		for await (const event of client.events(runId)) {
			expect(event.type).toBe('workflow:start')
			expect(listening.size).toBe(1)
			break
		}
		await waitFor('the server to have heard of it', () => listening.size === 0)
	})
})

describe('types', () => {
	test('are those of the blueprint where it carries them', () => {
		const orders = client.for(order)
		const reviews = client.for(review)
		type StartOf<T> = T extends { start(options?: infer O): unknown } ? NonNullable<O> : never
		expectTypeOf<StartOf<typeof orders>['input']>().toEqualTypeOf<Partial<Order> | undefined>()
		expectTypeOf<Parameters<typeof reviews.resume>[1]>().toExtend<
			{ nodeId?: 'approval' | 'publish' } | undefined
		>()
		const calls = [
			// @ts-expect-error an order has no colour
			() => client.start(order, { input: { colour: 'red' } }),
			// @ts-expect-error pieces are a number
			() => orders.start({ input: { pieces: 'three' } }),
			// @ts-expect-error there is no such node
			() => reviews.resume('x', { nodeId: 'aproval' }),
			// @ts-expect-error there is no such node
			() => reviews.retry('x', { nodeId: 'ship' }),
			() => client.for<Order, 'price'>('order').retry('x', { nodeId: 'price' }),
			() =>
				defineBlueprint({
					id: 'x',
					nodes: [{ id: 'a', uses: 'a' }],
					// @ts-expect-error an edge to nowhere
					edges: [{ source: 'a', target: 'b' }],
				}),
			() => client.start('order', { input: { anything: 1 } }),
		]
		expect(calls).toHaveLength(7)
	})

	test('of answers are those that the server gives', () => {
		expectTypeOf<RunSummary>().toEqualTypeOf<server.RunSummary>()
		expectTypeOf<RunError>().toEqualTypeOf<server.RunError>()
		expectTypeOf<AwaitingNode>().toEqualTypeOf<server.AwaitingNode>()
		expectTypeOf<Omit<NodeRun, 'output' | 'attempts'>>().toEqualTypeOf<
			Omit<server.NodeRun, 'outputJson' | 'attempts'>
		>()
		expectTypeOf<NodeRun['attempts'][number]>().toEqualTypeOf<server.SupersededAttempt>()
		expectTypeOf<Omit<Run, 'result'>>().toEqualTypeOf<Omit<server.Run, 'contextJson'>>()
		expectTypeOf<LiveEvent['type']>().toExtend<server.WatchedEvent['type']>()
	})
})

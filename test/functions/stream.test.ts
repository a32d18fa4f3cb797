/** `GET /runs/:id/stream`, as clients read it. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { NodeContext } from 'flowcraft'
import { createApp } from '../../functions/app.js'
import { serveFunctions } from '../../functions/serve.js'
import { createDatabase } from '../../src/db/client.js'
import type { Doorbell, Ring } from '../../src/ports/doorbell.js'
import type { DurableDependencies } from '../../worker/execution/durable-dependencies.js'
import { startEngine, type TestEngine } from '../support/engine.js'
import { waitFor } from '../support/wait-for.js'
import { ask } from './api.js'
import { line, readEvents, rest, type Told } from './server-sent-events.js'

/** A gate that nodes wait at, by run. */
const gates = new Map<string, () => void>()
const atGate = ({ dependencies, signal }: NodeContext): Promise<void> =>
	new Promise((resolve) => {
		gates.set(dependencies.runtime.executionId, resolve)
		signal?.addEventListener('abort', () => resolve())
	})
const openGate = async (runId: string): Promise<void> => {
	const open = await waitFor('the node to be at its gate', () => gates.get(runId))
	gates.delete(runId)
	open()
}

const listening = new Set<(ring: Ring) => void>()
const doorbell: Doorbell = {
	ring: (ring) => listening.forEach((listener) => listener(ring)),
	listen(listener) {
		listening.add(listener)
		return () => listening.delete(listener)
	},
	async close() {},
}

const durable = ({ dependencies }: NodeContext): DurableDependencies =>
	dependencies as unknown as DurableDependencies

let engine: TestEngine
let app: ReturnType<typeof createApp>
beforeAll(async () => {
	engine = await startEngine({
		workflows: {
			registry: {
				echo: async () => ({ output: 1 }),
				gate: async (context) => {
					await atGate(context)
					return {}
				},
				tokens: async (context) => {
					const { emit, attempt } = durable(context)
					for (const token of ['Once', ' upon', ' a time']) void emit({ token, attempt })
					await atGate(context)
					if (attempt === 1) throw new Error('Interrupted')
					return { output: 'Once upon a time' }
				},
				floods: async (context) => {
					const { emit } = durable(context)
					for (let i = 1; i <= 10_010; i++) await emit(i)
					expect(() => void emit(10n)).not.toThrow()
					return {}
				},
				unstorable: async (context) => {
					void durable(context).emit(10n)
					return {}
				},
			},
			blueprints: {
				gated: {
					id: 'gated',
					nodes: [
						{ id: 'before', uses: 'echo' },
						{ id: 'gate', uses: 'gate' },
					],
					edges: [{ source: 'before', target: 'gate' }],
				},
				story: {
					id: 'story',
					nodes: [{ id: 'tell', uses: 'tokens', config: { maxRetries: 2, retryDelay: 1 } }],
					edges: [],
				},
				flood: { id: 'flood', nodes: [{ id: 'f', uses: 'floods' }], edges: [] },
				unstorable: { id: 'unstorable', nodes: [{ id: 'u', uses: 'unstorable' }], edges: [] },
			},
		},
	})
	app = createApp({ db: engine.database, doorbell })
})
afterAll(() => engine.stop())

const open = (
	runId: string,
	headers: Record<string, string> = {},
	search = '',
): Response | Promise<Response> => app.request(`/runs/${runId}/stream${search}`, { headers })

test('tells what happens while it happens, and ends after the run’s end', async () => {
	const runId = await engine.start({ blueprint: 'gated' })
	const response = await open(runId)
	expect(response.status).toBe(200)
	expect(response.headers.get('content-type')).toBe('text/event-stream; charset=utf-8')
	expect(response.headers.get('cache-control')).toBe('no-store')
	const events = readEvents(response)
	const told: string[] = []
	for await (const event of events) {
		if (event.data === undefined) continue
		told.push(line(event))
		// Nobody opens it before: so this was told while it was so.
		if (event.data.type === 'node:start' && event.data.payload.nodeId === 'gate') await openGate(runId)
	}
	expect(told).toEqual([
		'1 workflow:start',
		'2 node:start before',
		'3 node:finish before',
		'4 node:start gate',
		'5 node:finish gate',
		'6 workflow:finish completed',
		'end completed',
	])
})

test('what it tells of the run and its nodes is what GET /runs/:id/events tells', async () => {
	const { runId } = await engine.run({ blueprint: 'flood' })
	const listed = (await ask(app, 'GET', `/runs/${runId}/events`)).body.events
	const streamed = (await rest(readEvents(await open(runId)))).map(({ data }) => data)
	expect(streamed.filter(({ type }) => type !== undefined && type !== 'node:emit')).toEqual(listed)
})

test('goes on behind Last-Event-ID, or `after`, without a gap and without repeating anything', async () => {
	const runId = await engine.start({ blueprint: 'story' })
	await openGate(runId)
	await openGate(runId)
	await engine.end(runId)
	const all = await rest(readEvents(await open(runId)))
	const ids = all.map(({ id }) => id).filter((id) => id !== undefined)
	expect(new Set(ids).size).toBe(all.length - 1)
	for (const [at, id] of ids.slice(0, -1).entries()) {
		expect(await rest(readEvents(await open(runId, { 'Last-Event-ID': id })))).toEqual(all.slice(at + 1))
		expect(await rest(readEvents(await open(runId, {}, `?after=${id}`)))).toEqual(all.slice(at + 1))
	}
	// Nothing is left, and nothing will come: browsers are told not to come back.
	expect((await open(runId, { 'Last-Event-ID': ids.at(-1) ?? '' })).status).toBe(204)
})

test('ends with the time that the server or the client gives it, and goes on from there', async () => {
	const runId = await engine.start({ blueprint: 'gated' })
	const hurried = createApp({ db: engine.database, streamMs: 1 })
	const told: Told[] = []
	for (const app of [hurried, hurried]) {
		const after = told.at(-1)?.id
		const headers: Record<string, string> = after === undefined ? {} : { 'Last-Event-ID': after }
		await waitFor('more to be there', async () => {
			const rows = await engine.rows(
				'select from flowcraft_nodes where run_id = $1 and claimed_at is not null',
				runId,
			)
			return rows.length === 2
		})
		told.push(
			...(await rest(readEvents(await app.request(`/runs/${runId}/stream?wait=20s`, { headers })))),
		)
	}
	expect(told.map(line)).toEqual([
		'1 workflow:start',
		'2 node:start before',
		'3 node:finish before',
		'4 node:start gate',
	])
	await openGate(runId)
	await engine.end(runId)
	expect(
		(await rest(readEvents(await open(runId, { 'Last-Event-ID': '4' }, '?wait=1ms')))).map(line),
	).toEqual(['5 node:finish gate', '6 workflow:finish completed', 'end completed'])
})

describe('a client that goes away leaves nothing behind', () => {
	let opened: number
	let closed: number
	beforeEach(() => {
		opened = closed = 0
	})
	const ownDatabase = (): ReturnType<typeof createApp> =>
		createApp({
			doorbell,
			db: () => {
				const database = createDatabase(engine.url, { max: 1 })
				opened += 1
				return {
					...database,
					close: async () => {
						await database.close()
						closed += 1
					},
				}
			},
		})
	test('when its connection breaks', async () => {
		const runId = await engine.start({ blueprint: 'gated' })
		const server = await serveFunctions({ app: ownDatabase(), host: '127.0.0.1', port: 0, graceMs: 200 })
		try {
			const abort = new AbortController()
			const response = await fetch(`${server.url}/runs/${runId}/stream`, { signal: abort.signal })
			const events = readEvents(response)
			await events.next()
			expect([listening.size, opened, closed]).toEqual([1, 1, 0])
			abort.abort()
			await expect(rest(events)).rejects.toThrow(/abort/i)
			await waitFor(
				'the database to be closed and nobody to listen',
				() => closed === 1 && listening.size === 0,
			)
		} finally {
			await openGate(runId)
			await server.stop()
		}
	})

	test('when the host only tells so, and does not cancel the body', async () => {
		const runId = await engine.start({ blueprint: 'gated' })
		const abort = new AbortController()
		const app = ownDatabase()
		const response = await app.request(`/runs/${runId}/stream`, { signal: abort.signal })
		expect([response.status, opened, closed]).toEqual([200, 1, 0])
		abort.abort()
		await waitFor(
			'the database to be closed and nobody to listen',
			() => closed === 1 && listening.size === 0,
		)
		await openGate(runId)
	})
})

test('a stream counts as a request that is under way, until it ends', async () => {
	const runId = await engine.start({ blueprint: 'gated' })
	const small = createApp({ db: engine.database, maxRequests: 1 })
	const response = await small.request(`/runs/${runId}/stream`)
	expect((await ask(small, 'GET', '/runs')).status).toBe(503)
	await response.body?.cancel()
	await waitFor('others to be admitted', async () => (await ask(small, 'GET', '/runs')).status === 200)
	await openGate(runId)
})

test('a server that stops ends its streams', async () => {
	const runId = await engine.start({ blueprint: 'gated' })
	const server = await serveFunctions({ app, host: '127.0.0.1', port: 0, graceMs: 600_000 })
	const events = readEvents(await fetch(`${server.url}/runs/${runId}/stream`))
	await events.next()
	await server.stop()
	expect((await rest(events)).map(line)).not.toContain('end completed')
	await openGate(runId)
})

test('problems are told before the stream begins', async () => {
	expect((await open('nothing')).status).toBe(404)
	const { runId } = await engine.run({ blueprint: 'flood' })
	for (const [headers, search, place] of [
		[{ 'Last-Event-ID': '999999' }, '', 'header /Last-Event-ID'],
		[{ 'Last-Event-ID': 'x' }, '', 'header /Last-Event-ID'],
		[{}, '?after=999999', 'query /after'],
		[{}, '?wait=long', 'query /wait'],
	] as const) {
		const response = await open(runId, headers, search)
		expect(response.status).toBe(400)
		const { errors } = (await response.json()) as { errors: { in: string; path: string }[] }
		expect(errors.map((fault) => `${fault.in} ${fault.path}`)).toEqual([place])
	}
	expect(
		(
			await createApp({
				db: engine.database,
				apiKeys: [{ name: 'k', secret: 'x'.repeat(16), scopes: ['start'] }],
			}).request(`/runs/${runId}/stream`)
		).status,
	).toBe(401)
})

describe('what a node emits', () => {
	test('is told while it runs, with its attempt and its number', async () => {
		const runId = await engine.start({ blueprint: 'story' })
		const told: Told[] = []
		for await (const event of readEvents(await open(runId))) {
			if (event.data === undefined) continue
			told.push(event)
			// It can only be told now: the node waits for us.
			if (event.data.payload?.seq === 3) await openGate(runId)
		}
		expect(
			told.map(({ data }) =>
				[data.type, data.payload?.attempt, data.payload?.seq, data.payload?.data?.token]
					.join(' ')
					.trim(),
			),
		).toEqual([
			'workflow:start',
			'node:start',
			'node:emit 1 1 Once',
			'node:emit 1 2  upon',
			'node:emit 1 3  a time',
			'node:retry 1',
			'node:start',
			'node:emit 2 1 Once',
			'node:emit 2 2  upon',
			'node:emit 2 3  a time',
			'node:finish',
			'workflow:finish',
			'',
		])
		expect(told.find(({ data }) => data.type === 'node:emit')?.data).toEqual({
			type: 'node:emit',
			payload: {
				nodeId: 'tell',
				attempt: 1,
				crashes: 0,
				seq: 1,
				blueprintId: 'story',
				executionId: runId,
				data: { token: 'Once', attempt: 1 },
			},
			at: expect.any(String),
			generation: '0',
			attempt: 1,
		})
	})

	test('is bounded for each execution of a node, and says so where it ends', async () => {
		const { runId, status } = await engine.run({ blueprint: 'flood' })
		expect(status).toBe('completed')
		const emits = (await rest(readEvents(await open(runId)))).filter(
			({ data }) => data.type === 'node:emit',
		)
		expect(emits.slice(0, -1).map(({ data }) => data.payload.data)).toEqual(
			Array.from({ length: 10_000 }, (_, i) => i + 1),
		)
		expect(emits.at(-1)?.data.payload).toMatchObject({ seq: 10_001, truncated: true })
		// Kept together, not one by one.
		const rows = await engine.rows(
			`select from flowcraft_stream_events where run_id = $1 and what = 'emit'`,
			runId,
		)
		expect(rows.length).toBeLessThan(1_000)
	})

	test('fails the node at its call if it cannot be stored', async () => {
		const { status, errors } = await engine.run({ blueprint: 'unstorable' })
		expect([status, errors?.[0]?.message]).toEqual(['failed', expect.stringContaining('BigInt')])
	})
})

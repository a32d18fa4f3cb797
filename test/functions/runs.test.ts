import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Ring } from '../../src/ports/doorbell.js'
import { type Answer, ask, startApi, type TestApi } from './api.js'
import { createApp } from '../../functions/app.js'
import { waitFor } from '../support/wait-for.js'

let api: TestApi
const rings: Ring[] = []

beforeAll(async () => {
	const doorbell = {
		ring: (ring: Ring) => void rings.push(ring),
		listen: () => () => {},
		close: async () => {},
	}
	api = await startApi({ doorbell })
})
afterAll(() => api.stop())

const start = async (body: object = {}, headers: Record<string, string> = {}): Promise<Answer> =>
	api.post('/runs', { blueprint: 'idle', ...body }, headers)
const startedId = async (body: object = {}): Promise<string> => (await start(body)).body.runId

describe('POST /runs', () => {
	test('answers 202 with the id and where to watch the run', async () => {
		const answer = await start({ input: { a: 1 }, tags: ['x'] })
		expect(answer.status).toBe(202)
		expect(answer.body).toEqual({ runId: expect.any(String), status: 'running' })
		expect(answer.headers.get('location')).toBe(`/runs/${answer.body.runId}`)
		expect(answer.headers.get('content-type')).toBe('application/json')
	})

	test('writes status, context, start nodes and outbox rows', async () => {
		const before = await api.rowCounts()
		await start({ input: { a: 1, b: [2] } })
		const after = await api.rowCounts()
		const added = Object.fromEntries(
			Object.entries(after).map(([table, count]) => [table, count - (before[table] ?? 0)]),
		)
		expect(added).toMatchObject({
			statuses: 1,
			contexts: 2,
			nodes: 1,
			outbox: 1,
			blueprints: 0,
			idempotency_keys: 0,
		})
	})

	test('rings the doorbell, but not for a repeated start', async () => {
		rings.length = 0
		await start({}, { 'idempotency-key': 'ring' })
		expect(rings).toEqual([{ type: 'outbox' }])
		await start({}, { 'idempotency-key': 'ring' })
		expect(rings).toHaveLength(1)
	})

	test('hands a valid traceparent on, and ignores another', async () => {
		const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
		const valid = await start({}, { traceparent })
		const invalid = await start(
			{},
			{ traceparent: '00-00000000000000000000000000000000-b7ad6b7169203331-01' },
		)
		expect([valid.status, invalid.status]).toEqual([202, 202])
		const stored = async (runId: string): Promise<unknown> =>
			(await api.rows('select traceparent from flowcraft_outbox where run_id = $1', runId))[0]?.[
				'traceparent'
			]
		expect(await stored(valid.body.runId)).toBe(traceparent)
		expect(await stored(invalid.body.runId)).toBeNull()
	})

	test('starts the version that was asked for, by its name or its hash', async () => {
		const of = (uses: string, version: string): object => ({
			nodes: [{ id: 'n', uses }],
			metadata: { version },
		})
		const first = await api.put('/blueprints/versioned', of('one', '1'))
		await api.put('/blueprints/versioned', of('two', '2'))
		const versionOf = async (version?: string): Promise<string> => {
			const started = await api.post('/runs', {
				blueprint: 'versioned',
				...(version === undefined ? {} : { version }),
			})
			return (await api.get(`/runs/${started.body.runId}`)).body.version
		}
		expect([await versionOf(), await versionOf('1'), await versionOf(first.body.hash)]).toEqual([
			'2',
			'1',
			'1',
		])
		expect((await api.post('/runs', { blueprint: 'versioned', version: '3' })).status).toBe(404)
	})
})

describe('Idempotency-Key', () => {
	test('a repeated start answers the same body and says that it is a repetition', async () => {
		const first = await start({ input: { a: 1, b: 2 } }, { 'idempotency-key': 'same' })
		const again = await start({ input: { b: 2, a: 1 } }, { 'idempotency-key': 'same' })
		expect(first.headers.get('idempotency-replayed')).toBeNull()
		expect([again.status, again.text]).toEqual([first.status, first.text])
		expect(again.headers.get('location')).toBe(first.headers.get('location'))
		expect(again.headers.get('idempotency-replayed')).toBe('true')
	})

	test('the repeated answer does not change when the run has ended', async () => {
		const first = await start({}, { 'idempotency-key': 'ended' })
		await api.post(`/runs/${first.body.runId}/cancel`)
		expect((await start({}, { 'idempotency-key': 'ended' })).text).toBe(first.text)
	})

	test('two starts at once with one key begin one run', async () => {
		const { statuses = 0 } = await api.rowCounts()
		const answers = await Promise.all(
			Array.from({ length: 8 }, () => start({}, { 'idempotency-key': 'at once' })),
		)
		expect(new Set(answers.map(({ text }) => text)).size).toBe(1)
		expect(answers.map(({ status }) => status)).toEqual(Array(8).fill(202))
		expect(answers.filter(({ headers }) => headers.has('idempotency-replayed'))).toHaveLength(7)
		expect((await api.rowCounts())['statuses']).toBe(statuses + 1)
	})

	test('two different starts at once with one key: one begins a run, the other is refused', async () => {
		const answers = await Promise.all(
			['a', 'b'].map((tag) => start({ tags: [tag] }, { 'idempotency-key': 'either' })),
		)
		expect(answers.map(({ status }) => status).sort()).toEqual([202, 409])
	})

	test.each([
		['another input', { input: { a: 2 } }],
		['other tags', { input: { a: 1 }, tags: ['x'] }],
		['another version', { input: { a: 1 }, version: 'nope' }],
	])('the same key with %s is refused with 409, and nothing is written', async (_what, other) => {
		await start({ input: { a: 1 } }, { 'idempotency-key': 'reused' })
		const before = await api.rowCounts()
		const answer = await start(other, { 'idempotency-key': 'reused' })
		expect(answer.status).toBe(409)
		expect(answer.body).toMatchObject({
			type: '/docs#conflict',
			status: 409,
			detail: expect.stringContaining("'reused'"),
		})
		expect(await api.rowCounts()).toEqual(before)
	})

	test('a start that was refused leaves its key free', async () => {
		expect(
			(await api.post('/runs', { blueprint: 'missing' }, { 'idempotency-key': 'freed' })).status,
		).toBe(404)
		expect((await start({}, { 'idempotency-key': 'freed' })).status).toBe(202)
	})

	test('keys of different API keys never meet', async () => {
		const apiKeys = ['ada', 'ben'].map((name) => ({
			name,
			secret: `${name}-secret-0123456789`,
			scopes: ['start'] as const,
		}))
		const app = createApp({ db: api.database, apiKeys })
		const startAs = (name: string, tag: string): Promise<Answer> =>
			ask(app, 'POST', '/runs', {
				body: { blueprint: 'idle', tags: [tag] },
				headers: { authorization: `Bearer ${name}-secret-0123456789`, 'idempotency-key': 'shared' },
			})
		const [ada, ben, again] = [
			await startAs('ada', 'x'),
			await startAs('ben', 'y'),
			await startAs('ada', 'x'),
		]
		expect([ada.status, ben.status]).toEqual([202, 202])
		expect(ben.body.runId).not.toBe(ada.body.runId)
		expect(again.body.runId).toBe(ada.body.runId)
	})
})

describe('GET /runs/:id', () => {
	test('shows a running run without a result', async () => {
		const runId = await startedId({ tags: ['t'] })
		const { status, body } = await api.get(`/runs/${runId}`)
		expect(status).toBe(200)
		expect(body).toEqual({
			runId,
			blueprint: 'idle',
			version: expect.stringMatching(/^[0-9a-f]{32}$/),
			status: 'running',
			tags: ['t'],
			createdAt: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
			updatedAt: expect.any(String),
		})
	})

	test('gives every value of the context back as it came, whatever its key', async () => {
		const input =
			'{"z":1,"a":{"z":1,"a":2},"10":"ten","9":"nine","__proto__":{"polluted":true},"constructor":null,"toString":[],"it\'s \\"so\\" $1":"\\u00e9\\ud83d\\ude00","":"","_outputs.ghost":-0.5e-7}'
		const { body } = await api.post('/runs', `{"blueprint":"idle","input":${input}}`)
		await api.post(`/runs/${body.runId}/cancel`)
		const { text } = await api.get(`/runs/${body.runId}`)
		const context = JSON.parse(text).result.context
		const { _executionId: executionId, ...rest } = context
		expect(executionId).toBe(body.runId)
		const sorted = (value: object): [string, unknown][] =>
			Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))
		expect(sorted(rest)).toEqual(sorted(JSON.parse(input)))
		// Inside a value nothing is reordered either.
		expect(text).toContain('"a":{"z":1,"a":2}')
		expect(text).toContain('"__proto__":{"polluted":true}')
	})

	test('waits for the end, and answers as soon as it has come', async () => {
		const runId = await startedId()
		const waiting = api.get(`/runs/${runId}?wait=20s`)
		await api.post(`/runs/${runId}/cancel`, { reason: 'no longer needed' })
		const { body } = await waiting
		expect(body).toMatchObject({
			status: 'cancelled',
			reason: 'no longer needed',
			result: { status: 'cancelled' },
		})
		expect(body.finishedAt).toBe(body.updatedAt)
	})

	test('answers after the time that was asked for if the run has not ended', async () => {
		const runId = await startedId()
		const startedAt = performance.now()
		const { body } = await api.get(`/runs/${runId}?wait=300ms`)
		const elapsedMs = performance.now() - startedAt
		expect(body.status).toBe('running')
		expect(elapsedMs).toBeGreaterThanOrEqual(290)
		expect(elapsedMs).toBeLessThan(2000)
	})

	test('stops looking when the client has gone', async () => {
		const looked: string[] = []
		const { sql } = api.database
		const unsafe: typeof sql.unsafe = (...args) => {
			looked.push(args[0])
			return sql.unsafe(...args)
		}
		const app = createApp({
			db: {
				...api.database,
				sql: new Proxy(sql, {
					get: (target, name) => (name === 'unsafe' ? unsafe : Reflect.get(target, name)),
				}),
			},
		})
		const client = new AbortController()
		const answer = app.request(
			new Request(`http://x/runs/${await startedId()}?wait=30s`, { signal: client.signal }),
		)
		await waitFor('a look', () => looked.length > 0)
		client.abort()
		await answer
		const looks = looked.length
		await delay(700)
		expect(looked).toHaveLength(looks)
	})

	test.each(['0', '0s', '0.05', '50ms', '0.001m'])('understands wait=%s', async (wait) => {
		expect((await api.get(`/runs/${await startedId()}?wait=${wait}`)).status).toBe(200)
	})

	test('of an unknown run answers 404, also when asked to wait', async () => {
		for (const path of [
			'/runs/unknown',
			'/runs/unknown?wait=20s',
			'/runs/%2e%2e%2fx',
			"/runs/'; drop table x",
		]) {
			const answer = await api.get(path)
			expect([path, answer.status]).toEqual([path, 404])
			expect(answer.body).toMatchObject({ type: '/docs#not-found', title: 'Not found', status: 404 })
			expect(answer.headers.get('content-type')).toBe('application/problem+json')
		}
	})
})

describe('GET /runs', () => {
	test('filters by status, blueprint and tag', async () => {
		const tag = 'filtered'
		const running = await startedId({ tags: [tag, 'r'] })
		const cancelled = await startedId({ tags: [tag] })
		await api.post(`/runs/${cancelled}/cancel`)
		const ids = async (filter: string): Promise<string[]> =>
			(await api.get(`/runs?tag=${tag}&${filter}`)).body.runs.map((run: { runId: string }) => run.runId)
		expect(await ids('')).toEqual([cancelled, running])
		expect(await ids('status=running')).toEqual([running])
		expect(await ids('status=running&status=cancelled')).toEqual([cancelled, running])
		expect(await ids('status=running,cancelled')).toEqual([cancelled, running])
		expect(await ids('status=failed')).toEqual([])
		expect(await ids('blueprint=idle&status=cancelled')).toEqual([cancelled])
		expect(await ids('blueprint=other')).toEqual([])
		expect(await ids('parent=nobody')).toEqual([])
	})

	test('takes parameters without a value as not given', async () => {
		const runId = await startedId({ tags: ['empty'] })
		const { status, body } = await api.get('/runs?status=&blueprint=&tag=empty&parent=&limit=&cursor=')
		expect([status, body.runs.map((run: { runId: string }) => run.runId)]).toEqual([200, [runId]])
	})

	test('a page has the asked number of runs, newest first, without their results', async () => {
		for (let i = 0; i < 3; i++) await startedId({ tags: ['page'] })
		const { body } = await api.get('/runs?tag=page&limit=2')
		expect(body.runs).toHaveLength(2)
		expect(body.runs[0].createdAt >= body.runs[1].createdAt).toBe(true)
		expect(body.runs[0]).not.toHaveProperty('result')
		const { body: last } = await api.get(`/runs?tag=page&limit=2&cursor=${body.nextCursor}`)
		expect(last.runs).toHaveLength(1)
		expect(last).not.toHaveProperty('nextCursor')
	})

	test('turning pages shows each run once, whatever starts meanwhile', async () => {
		const tag = 'paged'
		const expected: string[] = []
		for (let i = 0; i < 7; i++) expected.unshift(await startedId({ tags: [tag] }))
		const seen: string[] = []
		let cursor: string | undefined
		do {
			const { body } = await api.get(
				`/runs?tag=${tag}&limit=2${cursor === undefined ? '' : `&cursor=${cursor}`}`,
			)
			seen.push(...body.runs.map((run: { runId: string }) => run.runId))
			cursor = body.nextCursor
			await startedId({ tags: [tag] })
		} while (cursor !== undefined)
		expect(seen).toEqual(expected)
	})
})

describe('POST /runs/:id/cancel', () => {
	test('cancels, with or without a reason, and again without effect', async () => {
		const runId = await startedId()
		rings.length = 0
		const first = await api.post(`/runs/${runId}/cancel`)
		const reason = 'Cancelled on request'
		expect([first.status, first.body]).toEqual([200, { runId, status: 'cancelled', reason }])
		expect(rings).toContainEqual({ type: 'cancelled', runIds: [runId] })
		expect(rings).toContainEqual({ type: 'ended', runIds: [runId] })
		rings.length = 0
		const again = await api.post(`/runs/${runId}/cancel`, { reason: 'again' })
		expect([again.status, again.body]).toEqual([200, first.body])
		expect(rings).toEqual([])
		expect((await api.get(`/runs/${runId}`)).body.reason).toBe(reason)
	})

	test('of an unknown run answers 404', async () => {
		expect((await api.post('/runs/unknown/cancel')).status).toBe(404)
	})
})

describe('POST /runs/:id/resume', () => {
	test('is refused with 409 when nothing waits', async () => {
		const runId = await startedId()
		for (const body of [undefined, {}, { nodeId: 'only' }]) {
			const answer = await api.post(`/runs/${runId}/resume`, body)
			expect([answer.status, answer.body.type]).toEqual([409, '/docs#conflict'])
		}
		expect((await api.post('/runs/unknown/resume', {})).status).toBe(404)
	})
})

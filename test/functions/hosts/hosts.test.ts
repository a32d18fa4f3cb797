/** One suite over HTTP for all hosts, each running what is deployed there, in its own runtime, on a real Postgres. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startEngine, type TestEngine } from '../../support/engine.js'
import { startProxy, type TcpProxy } from '../../support/tcp-proxy.js'
import { waitFor } from '../../support/wait-for.js'
import type { Answer, SendOptions } from '../api.js'
import { type Host, HOSTS, type RunningHost } from './hosts.js'

const KEY = 'hosts-0123456789abcdef'
const READER = 'reader-0123456789abcdef'
const DEADLINE_MS = 8_000
/** No answer may take longer while the database is away: the deadline, and a lot for a busy machine. */
const PATIENCE_MS = 40_000

/** Of one host, one test after the other. */
const IN_ORDER = { concurrent: false, timeout: 90_000 }

let engine: TestEngine
/** URLs that webhook nodes gave out, by run. */
const webhookUrls = new Map<string, string>()

beforeAll(async () => {
	engine = await startEngine({
		workflows: {
			registry: {
				seven: async () => ({ output: 7 }),
				double: async ({ input }) => ({ output: Number(input) * 2 }),
				echo: async ({ input }) => ({ output: input }),
				send: async ({ input, dependencies }) => {
					webhookUrls.set(String(dependencies.runtime.executionId), (input as { url: string }).url)
					return {}
				},
			},
			blueprints: {
				doubled: {
					id: 'doubled',
					nodes: [
						{ id: 'first', uses: 'seven' },
						{ id: 'second', uses: 'double' },
					],
					edges: [{ source: 'first', target: 'second' }],
				},
				approval: {
					id: 'approval',
					nodes: [
						{ id: 'approve', uses: 'wait' },
						{ id: 'yes', uses: 'echo' },
						{ id: 'no', uses: 'echo' },
					],
					edges: [
						{ source: 'approve', target: 'yes', action: 'yes' },
						{ source: 'approve', target: 'no' },
					],
				},
				hooked: {
					id: 'hooked',
					nodes: [
						{ id: 'hook', uses: 'webhook' },
						{ id: 'send', uses: 'send' },
						{ id: 'answer', uses: 'wait', params: { webhookNodeId: 'hook' } },
					],
					edges: [
						{ source: 'hook', target: 'send' },
						{ source: 'send', target: 'answer' },
					],
				},
			},
		},
	})
})
afterAll(() => engine.stop())

// Hosts at the same time: they mostly wait.
describe.concurrent.each(HOSTS)('$name', (host: Host) => {
	let running: RunningHost
	let proxy: TcpProxy

	beforeAll(async () => {
		proxy = await startProxy(engine.url)
		running = await host.start({
			DATABASE_URL: proxy.url,
			DATABASE_POOL_SIZE: '2',
			DATABASE_DEADLINE_MS: String(DEADLINE_MS),
			API_KEYS: `all:${KEY},reader:${READER}:read`,
			BODY_LIMIT_BYTES: '20000',
		})
	})
	afterAll(async () => {
		await running?.process.kill()
		await proxy?.close()
	})

	async function send(method: string, path: string, options: SendOptions = {}): Promise<Answer> {
		const { body, headers } = options
		const response = await fetch(`${running.url}${path}`, {
			method,
			headers: {
				authorization: `Bearer ${KEY}`,
				...(body === undefined ? {} : { 'content-type': 'application/json' }),
				...headers,
			},
			...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
			signal: AbortSignal.timeout(60_000),
		})
		const text = await response.text()
		return {
			status: response.status,
			headers: response.headers,
			text,
			body: /json/.test(response.headers.get('content-type') ?? '') ? JSON.parse(text) : undefined,
		}
	}
	const get = (path: string): Promise<Answer> => send('GET', path)
	const post = (path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Answer> =>
		send('POST', path, { body, headers })

	async function start(blueprint: string, more: object = {}): Promise<string> {
		const started = await post('/runs', { blueprint, ...more })
		expect([started.status, started.text]).toEqual([202, expect.stringContaining('runId')])
		return started.body.runId
	}
	const awaiting = (runId: string): Promise<unknown> =>
		waitFor('the run to wait', async () => (await get(`/runs/${runId}`)).body.status === 'awaiting')

	test('is alive and ready, and describes itself', IN_ORDER, async () => {
		expect((await get('/healthz')).body).toEqual({ status: 'ok' })
		expect((await get('/readyz')).body).toEqual({ status: 'ready' })
		expect((await get('/openapi.json')).body.openapi).toBe('3.1.0')
		const docs = await get('/docs')
		expect([docs.status, docs.headers.get('content-type')]).toEqual([200, 'text/html; charset=utf-8'])
	})

	test('starts a run, waits for its end, and tells its result', IN_ORDER, async () => {
		const started = await post('/runs', { blueprint: 'doubled', input: { ü: [1, null, '€'] } })
		expect(started.status).toBe(202)
		expect(started.headers.get('location')).toBe(`/runs/${started.body.runId}`)
		const ended = await get(`/runs/${started.body.runId}?wait=50s`)
		expect(ended.body).toMatchObject({
			status: 'completed',
			result: { context: { '_outputs.second': 14, ü: [1, null, '€'] } },
		})
	})

	test('starts a run once, however often the start is repeated with its key', IN_ORDER, async () => {
		const key = { 'idempotency-key': crypto.randomUUID() }
		const first = await post('/runs', { blueprint: 'doubled' }, key)
		const again = await post('/runs', { blueprint: 'doubled' }, key)
		expect([again.status, again.body]).toEqual([202, first.body])
		expect(again.headers.get('idempotency-replayed')).toBe('true')
		const other = await post('/runs', { blueprint: 'approval' }, key)
		expect([other.status, other.body.type]).toEqual([409, '/docs#conflict'])
	})

	test('lists runs by tag, in pages', IN_ORDER, async () => {
		const tag = `${host.name} &?#%`
		const ids = [await start('approval', { tags: [tag] }), await start('approval', { tags: [tag] })]
		const first = await get(`/runs?tag=${encodeURIComponent(tag)}&limit=1`)
		expect(first.body.runs).toEqual([expect.objectContaining({ runId: ids[1], tags: [tag] })])
		const second = await get(
			`/runs?tag=${encodeURIComponent(tag)}&limit=1&cursor=${encodeURIComponent(first.body.nextCursor)}`,
		)
		expect(second.body).toEqual({ runs: [expect.objectContaining({ runId: ids[0] })] })
	})

	test('resumes a run', IN_ORDER, async () => {
		const runId = await start('approval')
		await awaiting(runId)
		const resumed = await post(`/runs/${runId}/resume`, { action: 'yes', output: { by: 'ada' } })
		expect([resumed.status, resumed.body]).toEqual([200, { runId, nodeId: 'approve', status: 'running' }])
		const { body } = await get(`/runs/${runId}?wait=50s`)
		expect(body).toMatchObject({ status: 'completed', result: { context: { yes: { by: 'ada' } } } })
		expect((await post(`/runs/${runId}/resume`)).status).toBe(409)
	})

	test('cancels a run', IN_ORDER, async () => {
		const runId = await start('approval')
		await awaiting(runId)
		const cancelled = await post(`/runs/${runId}/cancel`, { reason: 'no more' })
		expect([cancelled.status, cancelled.body]).toEqual([200, { runId, status: 'cancelled' }])
		expect((await get(`/runs/${runId}`)).body).toMatchObject({ status: 'cancelled', reason: 'no more' })
	})

	test('takes a webhook’s request, without a key, once', IN_ORDER, async () => {
		const runId = await start('hooked')
		const url = await waitFor('the webhook’s URL', () => webhookUrls.get(runId))
		const { pathname } = new URL(url)
		const call = { body: '{"paid": true}', headers: { authorization: '', 'x-shop': 'a' } }
		const taken = await send('POST', pathname, call)
		expect([taken.status, taken.body]).toEqual([202, { received: true }])
		expect((await send('POST', pathname, call)).status).toBe(410)
		const { body } = await get(`/runs/${runId}?wait=50s`)
		expect(body).toMatchObject({
			status: 'completed',
			result: {
				context: {
					answer: { json: { paid: true }, text: '{"paid": true}', headers: { 'x-shop': 'a' } },
				},
			},
		})
	})

	test('answers a wait that is over before the run with the run as it is', IN_ORDER, async () => {
		const runId = await start('approval')
		const { status, body } = await get(`/runs/${runId}?wait=300ms`)
		expect([status, body.runId]).toEqual([200, runId])
		expect(['running', 'awaiting']).toContain(body.status)
	})

	test('refuses bad input with every fault', IN_ORDER, async () => {
		const broken = await post('/runs', '{"blueprint":')
		expect([broken.status, broken.body.type]).toEqual([400, '/docs#malformed-json'])
		expect(broken.headers.get('content-type')).toBe('application/problem+json')
		const faulty = await post('/runs', { blueprint: 7, tags: 'x', surprise: 1 })
		expect(faulty.status).toBe(400)
		expect(faulty.body.errors.map((fault: { path: string }) => fault.path).sort()).toEqual([
			'/blueprint',
			'/surprise',
			'/tags',
		])
		expect((await post('/runs', { blueprint: 'doubled', input: { x: 'y'.repeat(30_000) } })).status).toBe(
			413,
		)
		expect((await post('/runs', { blueprint: 'nothing like that' })).status).toBe(404)
		expect((await get('/runs/no-such-run')).status).toBe(404)
		expect((await get('/nothing')).status).toBe(404)
		expect((await send('DELETE', '/runs')).status).toBe(405)
	})

	test('asks for a key, and for what it may do', IN_ORDER, async () => {
		expect((await send('GET', '/runs', { headers: { authorization: '' } })).status).toBe(401)
		const reader = { authorization: `Bearer ${READER}` }
		expect((await send('GET', '/runs', { headers: reader })).status).toBe(200)
		expect((await post('/runs', { blueprint: 'doubled' }, reader)).status).toBe(403)
	})

	test('serves many requests at once', IN_ORDER, async () => {
		const runs = await Promise.all(Array.from({ length: 10 }, () => start('doubled')))
		expect(new Set(runs).size).toBe(10)
		const answers = await Promise.all(runs.map((runId) => get(`/runs/${runId}?wait=50s`)))
		expect(answers.map(({ body }) => body.status)).toEqual(runs.map(() => 'completed'))
	})

	async function expectUnavailable(request: Promise<Answer>): Promise<void> {
		const startedAt = performance.now()
		const answer = await request
		expect([answer.status, answer.body?.type]).toEqual([503, '/docs#unavailable'])
		expect(answer.headers.get('content-type')).toBe('application/problem+json')
		expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0)
		expect(answer.text).not.toMatch(/ECONN|stack|postgres:\/\/|127\.0\.0\.1/)
		expect(performance.now() - startedAt).toBeLessThan(PATIENCE_MS)
	}
	const isBack = (): Promise<unknown> =>
		waitFor('the host to serve again', async () => (await get('/readyz')).status === 200)

	test.each([
		['refuses connections', () => [proxy.refuse(), proxy.cut()]],
		['accepts connections and never answers', () => [proxy.cut(), proxy.blackhole()]],
		['falls silent on open connections', () => [proxy.blackhole()]],
	])(
		'answers 503 while Postgres %s, and serves again when it is back',
		IN_ORDER,
		async (_how, breakDown) => {
			await isBack()
			breakDown()
			try {
				const requests = [
					() => post('/runs', { blueprint: 'doubled' }),
					() => get('/runs/x?wait=20s'),
					() => get('/readyz'),
				]
				// One after the other they would take their time.
				await Promise.all(
					requests.slice(0, host.concurrent ? 3 : 1).map((ask) => expectUnavailable(ask())),
				)
				expect((await get('/healthz')).status).toBe(200)
				expect((await post('/runs', '{')).status).toBe(400)
			} finally {
				// What went through while bytes vanished is garbage.
				proxy.cut()
				proxy.resume()
				await proxy.accept()
			}
			await isBack()
			await start('doubled')
		},
	)
})

/** One suite over HTTP for all hosts, each running what is deployed there, in its own runtime, on a real Postgres. */
import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createClient } from '../../../src/client/index.js'
import { createDatabase } from '../../../src/db/client.js'
import type { DurableDependencies } from '../../../worker/execution/durable-dependencies.js'
import { startEngine, type TestEngine } from '../../support/engine.js'
import { startProxy, type TcpProxy } from '../../support/tcp-proxy.js'
import { waitFor } from '../../support/wait-for.js'
import type { Answer, SendOptions } from '../api.js'
import { line, readEvents, rest, type Told } from '../server-sent-events.js'
import { type Host, HOSTS, type RunningHost } from './hosts.js'

const KEY = 'hosts-0123456789abcdef'
const READER = 'reader-0123456789abcdef'
const DEADLINE_MS = 8_000
const POOL_SIZE = 2
/** Below what the tests leave behind, if anything is left behind; above what they ask for at once. */
const MAX_REQUESTS = 20
/** No answer may take longer while the database is away: the deadline, and a lot for a busy machine. */
const PATIENCE_MS = 40_000

/** workerd notices that a client has gone when it writes to it, at the latest with what keeps a stream alive. */
const NOTICED_WITHIN_MS = 40_000

/** Of one host, one test after the other. */
const IN_ORDER = { concurrent: false, timeout: 90_000 }

let engine: TestEngine
/** URLs that webhook nodes gave out, by run. */
const webhookUrls = new Map<string, string>()
/** What lets the node of a run that waits at its gate go on, by run. */
const gates = new Map<string, () => void>()

async function openGate(runId: string): Promise<void> {
	const open = await waitFor('the node to be at its gate', () => gates.get(runId))
	open()
}

/** A login of one's own on the database of the engine, which can be shut out. */
interface Login {
	readonly name: string
	/** With the address and the database of `url`. */
	at(url: string): string
	/** Postgres has no connection for it any more, or has again. */
	admit(connections: number): Promise<unknown>
	drop(): Promise<void>
}

async function createLogin(): Promise<Login> {
	const name = `host_${randomBytes(6).toString('hex')}`
	// Each statement is a transaction; two that change the rights of one table at once would fail.
	const oneAtATime = 'select pg_advisory_xact_lock(1)'
	await engine.database.sql.unsafe(`
		${oneAtATime};
		create role ${name} login password '${name}';
		grant select, insert, update, delete on all tables in schema public to ${name};
		grant usage on all sequences in schema public to ${name}`)
	return {
		name,
		at(url) {
			const own = new URL(url)
			own.username = own.password = name
			return own.href
		},
		admit: (connections) =>
			engine.database.sql.unsafe(`alter role ${name} connection limit ${connections}`),
		drop: async () =>
			void (await engine.database.sql.unsafe(
				`${oneAtATime}; drop owned by ${name}; drop role ${name}`,
			)),
	}
}

/** Locks a run as a statement that takes its time would: whoever writes to it waits. Returns what lets them go on. */
async function holdRun(runId: string): Promise<() => Promise<void>> {
	const holder = createDatabase(engine.url, { max: 1 })
	let letGo = (): void => {}
	const released = new Promise<void>((resolve) => {
		letGo = resolve
	})
	const held = await new Promise<{ readonly over: Promise<unknown> }>((resolve, reject) => {
		const over = holder.sql.begin(async (tx) => {
			await tx`select from flowcraft_statuses where run_id = ${runId} for update`
			resolve({ over })
			await released
		})
		over.catch(reject)
	})
	return async () => {
		letGo()
		await held.over
		await holder.close()
	}
}

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
				speak: async ({ input, dependencies }) => {
					await (dependencies as unknown as DurableDependencies).emit({ token: 'Once' })
					await new Promise<void>((resolve) =>
						gates.set(String(dependencies.runtime.executionId), resolve),
					)
					return { output: input }
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
				told: {
					id: 'told',
					nodes: [
						{ id: 'first', uses: 'seven' },
						{ id: 'speak', uses: 'speak' },
					],
					edges: [{ source: 'first', target: 'speak' }],
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
	let login: Login

	beforeAll(async () => {
		proxy = await startProxy(engine.url)
		login = await createLogin()
		running = await host.start({
			DATABASE_URL: login.at(proxy.url),
			DATABASE_POOL_SIZE: String(POOL_SIZE),
			DATABASE_DEADLINE_MS: String(DEADLINE_MS),
			MAX_REQUESTS: String(MAX_REQUESTS),
			API_KEYS: `all:${KEY},reader:${READER}:read`,
			BODY_LIMIT_BYTES: '20000',
		})
	})
	afterAll(async () => {
		await running?.process.kill()
		await proxy?.close()
		await login?.drop()
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
		expect([cancelled.status, cancelled.body]).toEqual([
			200,
			{ runId, status: 'cancelled', reason: 'no more' },
		])
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

	async function* streamed(
		runId: string,
		{ after, search = '' }: { readonly after?: string | undefined; readonly search?: string } = {},
	): AsyncGenerator<Told> {
		const response = await fetch(`${running.url}/runs/${runId}/stream${search}`, {
			headers: {
				authorization: `Bearer ${KEY}`,
				...(after === undefined ? {} : { 'last-event-id': after }),
			},
			signal: AbortSignal.timeout(60_000),
		})
		expect([response.status, response.headers.get('content-type')]).toEqual([
			200,
			'text/event-stream; charset=utf-8',
		])
		yield* readEvents(response)
	}
	const TOLD = [
		'1 workflow:start',
		'2 node:start first',
		'3 node:finish first',
		'4 node:start speak',
		'5 node:emit speak',
		'6 node:finish speak',
		'7 workflow:finish completed',
		'end completed',
	]
	const SAID_AT_GATE = TOLD.indexOf('5 node:emit speak') + 1

	test(
		'tells of a run while it goes on, goes on behind Last-Event-ID, and ends with it',
		IN_ORDER,
		async () => {
			const runId = await start('told')
			const told: Told[] = []
			if (host.streams) {
				for await (const event of streamed(runId)) {
					if (event.data === undefined) continue
					told.push(event)
					// The node goes on when we have heard it.
					if (event.data.type === 'node:emit') await openGate(runId)
				}
			} else {
				// In pieces that are whole answers: clients come back for the next one.
				const deadline = AbortSignal.timeout(60_000)
				while (told.length < SAID_AT_GATE && !deadline.aborted)
					told.push(
						...(await rest(streamed(runId, { after: told.at(-1)?.id, search: '?wait=500ms' }))),
					)
				await openGate(runId)
				told.push(...(await rest(streamed(runId, { after: told.at(-1)?.id }))))
			}
			expect(told.map(line)).toEqual(TOLD)
			expect(await rest(streamed(runId, { after: '4' }))).toEqual(told.slice(4))
			expect(await rest(streamed(runId, { search: '?after=6' }))).toEqual(told.slice(6))
			expect(
				(await send('GET', `/runs/${runId}/stream`, { headers: { 'last-event-id': '7' } })).status,
			).toBe(204)
			expect((await send('GET', '/runs/nothing/stream')).status).toBe(404)
		},
	)

	test('serves the client: start, live events, end', IN_ORDER, async () => {
		const client = createClient({ url: running.url, apiKey: KEY })
		const { runId } = await client.start('told', { input: { ü: '€' } })
		const told: string[] = []
		for await (const event of client.events(runId)) {
			told.push(line({ id: event.id, data: event }))
			if (event.type === 'node:emit') await openGate(runId)
		}
		expect(told).toEqual(TOLD.slice(0, -1))
		const run = await client.wait(runId)
		expect(run).toMatchObject({
			status: 'completed',
			result: { context: { ü: '€', '_outputs.speak': 7 } },
		})
		const nodes: string[] = []
		for await (const { nodeId, state } of client.nodes(runId, { limit: 1 }))
			nodes.push(`${nodeId} ${state}`)
		expect(nodes).toEqual(['first completed', 'speak completed'])
		await expect(client.get('nothing')).rejects.toThrow('There is no run')
	})

	test('forgets clients that go away in the middle of an answer', IN_ORDER, async () => {
		const runId = await start('approval')
		await awaiting(runId)
		const goAway = async (path: string): Promise<void> => {
			const gone = new AbortController()
			const headers = { authorization: `Bearer ${KEY}` }
			const answer = fetch(running.url + path, { headers, signal: gone.signal })
			if (path.endsWith('/stream') && host.streams) {
				const events = readEvents(await answer)
				await events.next()
				gone.abort()
				await expect(events.next().then(() => rest(events))).rejects.toThrow(/abort/i)
			} else {
				await Promise.race([answer, new Promise((resolve) => setTimeout(resolve, 50))])
				gone.abort()
				await expect(answer).rejects.toThrow(/abort/i)
			}
		}
		// An instance that answers one after the other does not hear of it.
		const paths = host.concurrent ? ['/stream', '?wait=5s'] : []
		for (const path of paths) {
			await Promise.all(Array.from({ length: MAX_REQUESTS }, () => goAway(`/runs/${runId}${path}`)))
			await waitFor('others to be admitted', async () => (await get('/runs?limit=1')).status === 200)
			await waitFor(
				'their connections to be closed',
				async () => {
					const open = await engine.rows(
						'select from pg_stat_activity where usename = $1',
						login.name,
					)
					return open.length <= POOL_SIZE
				},
				{ deadlineMs: NOTICED_WITHIN_MS },
			)
		}
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

	/** How many of the host's statements wait for a lock. */
	async function waitingForLock(): Promise<number> {
		const stuck = await engine.rows(
			`select from pg_stat_activity where usename = $1 and wait_event_type = 'Lock'`,
			login.name,
		)
		return stuck.length
	}

	test.runIf(host.pools)(
		'answers 503 while statements that take long have all connections of its pool',
		IN_ORDER,
		async () => {
			const runId = await start('approval')
			await awaiting(runId)
			const letGo = await holdRun(runId)
			try {
				const cancels: Promise<void>[] = []
				for (let i = 0; i < POOL_SIZE; i++) {
					const cancelled = expectUnavailable(post(`/runs/${runId}/cancel`))
					cancels.push(cancelled)
					if (!host.concurrent) await cancelled
				}
				await waitFor('both to wait for the lock', async () => (await waitingForLock()) === POOL_SIZE)
				await expectUnavailable(get('/runs'))
				await Promise.all(cancels)
			} finally {
				await letGo()
			}
			await isBack()
			// What was answered with 503 may have happened: here it has.
			await waitFor(
				'the run to be cancelled',
				async () => (await get(`/runs/${runId}`)).body.status === 'cancelled',
			)
		},
	)

	test('answers 503 while Postgres has no connection left', IN_ORDER, async () => {
		await isBack()
		await login.admit(0)
		proxy.cut()
		try {
			await expectUnavailable(post('/runs', { blueprint: 'doubled' }))
			await expectUnavailable(get('/runs/x?wait=20s'))
			expect((await get('/healthz')).status).toBe(200)
		} finally {
			await login.admit(-1)
		}
		await isBack()
		await start('doubled')
	})

	// The last one: nothing is left of the host.
	test.runIf(host.stops)(
		'on SIGTERM answers those who wait, finishes what it has begun, and exits with 0',
		IN_ORDER,
		async () => {
			const [runId, held] = [await start('approval'), await start('approval')]
			await awaiting(runId)
			await awaiting(held)
			const letGo = await holdRun(held)
			const waiting = get(`/runs/${runId}?wait=50s`)
			const events = streamed(runId)
			await events.next()
			const cancelling = post(`/runs/${held}/cancel`)
			await waitFor('the cancel to be under way', async () => (await waitingForLock()) === 1)
			const stopped = running.process.stop({ deadlineMs: 30_000 })
			try {
				const answered = await waiting
				expect([answered.status, answered.body]).toEqual([
					200,
					expect.objectContaining({ runId, status: 'awaiting' }),
				])
				expect((await rest(events)).map(line)).not.toContain('end completed')
				expect(running.process.exit).toBeUndefined()
			} finally {
				await letGo()
			}
			const cancelled = await cancelling
			expect([cancelled.status, cancelled.body]).toMatchObject([
				200,
				{ runId: held, status: 'cancelled' },
			])
			expect(await stopped).toEqual({ code: 0, signal: null })
			await expect(get('/healthz')).rejects.toThrow('fetch failed')
		},
	)
})

import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createApp } from '../../functions/app.js'
import { createDatabase, type Database } from '../../src/db/client.js'
import { freshDatabase, type FreshDatabase } from '../support/services/index.js'
import { startProxy, type TcpProxy } from '../support/tcp-proxy.js'
import { waitFor } from '../support/wait-for.js'
import { type Answer, ask, IDLE_BLUEPRINT } from './api.js'

const DEADLINE_MS = 500
/** No answer may take longer: the deadline, and some time for a busy machine. */
const PATIENCE_MS = 2500

let fresh: FreshDatabase
let proxy: TcpProxy
let database: Database
let app: ReturnType<typeof createApp>
let runId: string

beforeAll(async () => {
	fresh = await freshDatabase()
	proxy = await startProxy(fresh.url)
	database = createDatabase(proxy.url, { max: 2 })
	app = createApp({ db: database, databaseDeadlineMs: DEADLINE_MS })
	// Without the short deadline: a busy machine may take longer to connect.
	const patient = createApp({ db: database })
	expect((await ask(patient, 'PUT', '/blueprints/idle', { body: IDLE_BLUEPRINT })).status).toBe(201)
	runId = (await ask(patient, 'POST', '/runs', { body: { blueprint: 'idle' } })).body.runId
})
afterAll(async () => {
	proxy.resume()
	await proxy.close()
	await database.close()
	await fresh.drop()
})

const REQUESTS: [method: string, path: string, body?: unknown][] = [
	['POST', '/runs', { blueprint: 'idle' }],
	['GET', '/runs'],
	['GET', '/runs/x'],
	['GET', '/runs/x?wait=20s'],
	['POST', '/runs/x/cancel'],
	['POST', '/runs/x/resume', {}],
	['PUT', '/blueprints/x', { nodes: IDLE_BLUEPRINT.nodes }],
	['GET', '/blueprints'],
	['GET', '/workers'],
	['GET', '/readyz'],
]

async function expectUnavailable(answer: Answer): Promise<void> {
	expect([answer.status, answer.body.type]).toEqual([503, '/docs#unavailable'])
	expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0)
	expect(answer.text).not.toMatch(/ECONN|stack|postgres:\/\/|127\.0\.0\.1/)
}

async function timed(answer: Promise<Answer>): Promise<Answer> {
	const startedAt = performance.now()
	const result = await answer
	expect(performance.now() - startedAt).toBeLessThan(PATIENCE_MS)
	return result
}

const isBack = async (): Promise<boolean> => (await ask(app, 'GET', '/readyz')).status === 200

describe.each([
	['refuses connections', () => [proxy.refuse(), proxy.cut()]],
	['accepts connections and never answers', () => [proxy.cut(), proxy.blackhole()]],
	['falls silent on open connections', () => [proxy.blackhole()]],
])('while Postgres %s', (_how, breakDown) => {
	beforeAll(async () => {
		await waitFor('the database', isBack)
		breakDown()
	})
	afterAll(async () => {
		// What went through while bytes vanished is garbage.
		proxy.cut()
		proxy.resume()
		await proxy.accept()
	})

	test.each(REQUESTS)('%s %s answers 503, and soon', async (method, path, body) => {
		await expectUnavailable(await timed(ask(app, method, path, { body })))
	})

	test('what needs no database is answered', async () => {
		for (const path of ['/healthz', '/openapi.json', '/docs'])
			expect((await ask(app, 'GET', path)).status).toBe(200)
		expect((await ask(app, 'POST', '/runs', { body: '{' })).status).toBe(400)
		expect((await ask(app, 'GET', '/nothing')).status).toBe(404)
	})
})

test('requests are served again when Postgres is back', async () => {
	proxy.refuse()
	proxy.cut()
	await expectUnavailable(await ask(app, 'POST', '/runs', { body: { blueprint: 'idle' } }))
	await proxy.accept()
	await waitFor('the database', isBack)
	const start = async (): Promise<boolean> =>
		(await ask(app, 'POST', '/runs', { body: { blueprint: 'idle' } })).status === 202
	await waitFor('a start', start)
})

test('a request that waits for a run ends with 503 when Postgres falls silent meanwhile', async () => {
	await waitFor('the database', isBack)
	const waiting = ask(app, 'GET', `/runs/${runId}?wait=60s`)
	await delay(50)
	proxy.blackhole()
	await expectUnavailable(await timed(waiting))
	proxy.cut()
	proxy.resume()
})

test('an exhausted pool is answered with 503, not with a queue', async () => {
	await waitFor('the database', isBack)
	const busy = Array.from({ length: 2 }, () => database.sql`select pg_sleep(1.5)`.execute())
	await expectUnavailable(await timed(ask(app, 'POST', '/runs', { body: { blueprint: 'idle' } })))
	await Promise.all(busy)
})

test('a database that was never migrated is told from one that is down', async () => {
	const empty = await freshDatabase({ migrated: false })
	const unmigrated = createDatabase(empty.url, { max: 1 })
	try {
		const emptyApp = createApp({ db: unmigrated })
		const ready = await ask(emptyApp, 'GET', '/readyz')
		expect([ready.status, ready.body.detail]).toEqual([
			503,
			expect.stringContaining('npm run db:migrate'),
		])
		const start = await ask(emptyApp, 'POST', '/runs', { body: { blueprint: 'idle' } })
		expect([start.status, start.body.detail]).toEqual([503, expect.stringContaining('migrate')])
	} finally {
		await unmigrated.close()
		await empty.drop()
	}
})

describe('with a database per request', () => {
	test('it is opened by the first statement, told of the host’s bindings, and closed behind the answer', async () => {
		const opened: unknown[] = []
		const closed: Promise<void>[] = []
		const perRequest = createApp({
			db(bindings) {
				opened.push(bindings)
				const own = createDatabase(fresh.url, { max: 1, fetchTypes: false })
				return { ...own, close: () => closed[closed.push(own.close()) - 1] ?? Promise.resolve() }
			},
		})
		const outliving: Promise<unknown>[] = []
		const context = {
			waitUntil: (work: Promise<unknown>) => void outliving.push(work),
			passThroughOnException() {},
			props: {},
		}
		const request = (path: string): Promise<Response> =>
			Promise.resolve(perRequest.request(path, {}, { DATABASE: 'bound' }, context))

		expect((await request('/healthz')).status).toBe(200)
		expect((await request('/runs?limit=0')).status).toBe(400)
		expect(opened).toEqual([])
		expect((await request('/runs')).status).toBe(200)
		expect((await request('/runs/missing')).status).toBe(404)
		expect(opened).toEqual([{ DATABASE: 'bound' }, { DATABASE: 'bound' }])
		expect(closed).toHaveLength(2)
		expect(outliving).toHaveLength(2)
		await Promise.all(outliving)
	})
})

test('what goes wrong inside is logged, and the answer only says where to look', async () => {
	const logged: { message: string; fields: Readonly<Record<string, unknown>> | undefined }[] = []
	const error = (message: string, fields?: Readonly<Record<string, unknown>>): void =>
		void logged.push({ message, fields })
	const broken = createApp({
		db: () => {
			throw new TypeError('secret internals')
		},
		logger: { debug() {}, info() {}, warn() {}, error },
	})
	const answer = await ask(broken, 'GET', '/runs')
	expect([answer.status, answer.body.type]).toEqual([500, '/docs#internal'])
	expect(answer.text).not.toContain('secret internals')
	expect(logged).toEqual([
		{
			message: 'A request failed',
			fields: expect.objectContaining({
				instance: answer.body.instance,
				error: new TypeError('secret internals'),
			}),
		},
	])
})

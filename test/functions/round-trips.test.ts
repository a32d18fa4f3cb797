import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { createApp } from '../../functions/app.js'
import { connectionOptions } from '../../functions/hosts/setup.js'
import { readAppConfig } from '../../functions/config.js'
import { createDatabase } from '../../src/db/client.js'
import { freshDatabase, type FreshDatabase } from '../support/services/index.js'
import { type Answer, ask, IDLE_BLUEPRINT } from './api.js'
import { type CountingProxy, startCountingProxy } from './counting-proxy.js'
import { HOSTS } from './hosts/hosts.js'

let fresh: FreshDatabase
beforeAll(async () => {
	fresh = await freshDatabase()
})
afterAll(() => fresh.drop())

type Ask = (method: string, path: string, body?: unknown, headers?: Record<string, string>) => Promise<Answer>

/** Every operation that touches the database, in an order in which each finds what it needs. */
function operationsOf(send: Ask): Record<string, () => Promise<Answer>> {
	let runId = ''
	const deadLetter = (): string => btoa(JSON.stringify([runId, 'x', '', '']))
	return {
		'PUT /blueprints/:id': () => send('PUT', '/blueprints/idle', IDLE_BLUEPRINT),
		'GET /blueprints': () => send('GET', '/blueprints'),
		'GET /blueprints/:id': () => send('GET', '/blueprints/idle'),
		'POST /runs': async () => {
			const body = { blueprint: 'idle', input: { a: 1, b: 2 }, tags: ['x'] }
			const started = await send('POST', '/runs', body, { 'idempotency-key': crypto.randomUUID() })
			runId = started.body.runId
			return started
		},
		'GET /runs/:id': () => send('GET', `/runs/${runId}`),
		'GET /runs': () => send('GET', '/runs?status=running&tag=x'),
		'GET /runs/:id/nodes': () => send('GET', `/runs/${runId}/nodes?include=output`),
		'GET /runs/:id/events': () => send('GET', `/runs/${runId}/events`),
		'POST /runs/:id/pause': () => send('POST', `/runs/${runId}/pause`),
		'POST /runs/:id/unpause': () => send('POST', `/runs/${runId}/unpause`),
		'POST /runs/:id/retry': () => send('POST', `/runs/${runId}/retry`),
		'POST /runs/:id/resume': () => send('POST', `/runs/${runId}/resume`, { output: 1 }),
		'POST /runs/:id/cancel': () => send('POST', `/runs/${runId}/cancel`),
		'POST /events/:name': () => send('POST', '/events/paid', { payload: 1 }),
		'POST /webhooks/:token': () => send('POST', `/webhooks/${'A'.repeat(43)}`, { paid: true }),
		'GET /dead-letters': () => send('GET', '/dead-letters'),
		'POST /dead-letters/:id/replay': () => send('POST', `/dead-letters/${deadLetter()}/replay`),
		'POST /dead-letters/:id/discard': () => send('POST', `/dead-letters/${deadLetter()}/discard`),
		'GET /workers': () => send('GET', '/workers'),
		'GET /readyz': () => send('GET', '/readyz'),
	}
}

interface Cost {
	readonly status: number
	readonly connections: number
	readonly roundTrips: number
	readonly statements: number
}

async function costsOf(proxy: CountingProxy, send: Ask): Promise<Record<string, Cost>> {
	const costs: Record<string, Cost> = {}
	for (const [name, operation] of Object.entries(operationsOf(send))) {
		proxy.reset()
		const { status } = await operation()
		const { connections, roundTrips, statements } = proxy
		costs[name] = { status, connections, roundTrips, statements }
	}
	return costs
}

function expectOneRoundTripEach(title: string, costs: Record<string, Cost>, connections: number): void {
	console.log(title)
	console.table(costs)
	for (const [name, cost] of Object.entries(costs))
		expect([name, cost]).toEqual([name, { ...cost, connections, roundTrips: 1, statements: 1 }])
	expect(costs['POST /runs']?.status).toBe(202)
}

async function openProxy(): Promise<CountingProxy> {
	const proxy = await startCountingProxy(fresh.url)
	onTestFinished(() => proxy.close())
	return proxy
}

/** Asks an app in this process, whose pool has one connection, as the environment has it made. */
async function appBehind(proxy: CountingProxy, env: Record<string, string> = {}): Promise<Ask> {
	const config = readAppConfig({ DATABASE_URL: proxy.url, DATABASE_POOL_SIZE: '1', ...env })
	const database = createDatabase(config.databaseUrl, connectionOptions(config))
	onTestFinished(() => database.close())
	const app = createApp({ db: database })
	// Connected.
	await ask(app, 'GET', '/readyz')
	return (method, path, body, headers = {}) => ask(app, method, path, { body, headers })
}

test('each operation costs one round trip to the database, a start with a key and an input included', async () => {
	const proxy = await openProxy()
	const send = await appBehind(proxy)
	expectOneRoundTripEach('On a connection that knows no statement yet:', await costsOf(proxy, send), 0)
	expectOneRoundTripEach('On a connection that knows them:', await costsOf(proxy, send), 0)
	expect(proxy.named).toBe(0)
})

test('behind a pooler in transaction mode too, where nothing outlasts a statement and nothing comes with a connection', async () => {
	const proxy = await openProxy()
	const send = await appBehind(proxy, { DATABASE_PREPARE: 'false' })
	await send('PUT', '/blueprints/idle', IDLE_BLUEPRINT)
	expectOneRoundTripEach('With DATABASE_PREPARE=false:', await costsOf(proxy, send), 0)
	expect([...proxy.settings].filter((name) => name !== '').sort()).toEqual([
		'application_name',
		'client_encoding',
		'database',
		'user',
	])
	expect(proxy.named).toBe(0)
})

test('on Cloudflare Workers each request costs a connection, and then one round trip', async () => {
	const host = HOSTS.find(({ name }) => name === 'Cloudflare Workers')
	const proxy = await openProxy()
	const secret = 'worker-0123456789abcdef'
	const running = await host?.start({ DATABASE_URL: proxy.url, API_KEYS: `all:${secret}` })
	if (running === undefined) throw new Error('There is no such host')
	onTestFinished(() => running.process.kill())
	const send: Ask = async (method, path, body, headers = {}) => {
		const response = await fetch(`${running.url}${path}`, {
			method,
			headers: { 'x-api-key': secret, 'content-type': 'application/json', ...headers },
			...(body === undefined ? {} : { body: JSON.stringify(body) }),
		})
		const text = await response.text()
		return { status: response.status, headers: response.headers, text, body: JSON.parse(text) }
	}
	expectOneRoundTripEach('On Cloudflare Workers:', await costsOf(proxy, send), 1)
})

/**
 * Thousands of requests that are malformed, or in order and wrong in what they mean, over a real server: no 5xx,
 * nothing written that should not be, and a server that lives on.
 */
import fc from 'fast-check'
import { Agent } from 'node:http'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createApp } from '../../functions/app.js'
import { parseApiKeys } from '../../functions/auth.js'
import type { App } from '../../functions/endpoint.js'
import { type FunctionsServer, serveFunctions } from '../../functions/serve.js'
import { listDeadLetters } from '../../src/run/dead-letters.js'
import { startEngine, type TestEngine } from '../support/engine.js'
import { testSize } from '../support/size.js'
import { waitFor } from '../support/wait-for.js'
import { type FuzzRequest, fuzzRequests, type KnownTexts } from './http-requests.js'
import { type RawAnswer, send, sendBytes } from './raw-http.js'

/** Requests that are wrong in one way or another. */
const REQUESTS = testSize('FUZZ_REQUESTS', { small: 800, full: 5000 })
const SEED = Number(process.env['FUZZ_SEED'] ?? Date.now() % 1_000_000)
/** Far above what any of these takes, however slow the machine. */
const TIMEOUT_MS = 120_000 + REQUESTS * 200

const { keys: apiKeys } = parseApiKeys('fuzz:fuzz-0123456789abcdef')
const CREDENTIALS = { authorization: 'Bearer fuzz-0123456789abcdef' }

let engine: TestEngine
let app: App
let server: FunctionsServer
let known: KnownTexts
const agent = new Agent({ keepAlive: true, maxSockets: 1 })

beforeAll(async () => {
	engine = await startEngine({
		workflows: {
			blueprints: {
				done: { id: 'done', nodes: [{ id: 'only', uses: 'echo' }], edges: [] },
				broken: { id: 'broken', nodes: [{ id: 'only', uses: 'throw' }], edges: [] },
				approval: { id: 'approval', nodes: [{ id: 'only', uses: 'wait' }], edges: [] },
				two: {
					id: 'two',
					nodes: [
						{ id: 'only', uses: 'wait' },
						{
							id: 'other',
							uses: 'wait',
							params: { eventName: 'paid', correlationKey: 'order-1' },
						},
					],
					edges: [],
				},
				hooked: {
					id: 'hooked',
					nodes: [
						{ id: 'hook', uses: 'webhook' },
						{ id: 'only', uses: 'wait', params: { webhookNodeId: 'hook' } },
					],
					edges: [{ source: 'hook', target: 'only' }],
				},
				lost: { id: 'lost', nodes: [{ id: 'only', uses: 'nobody' }], edges: [] },
				idle: { id: 'idle', nodes: [{ id: 'only', uses: 'echo' }], edges: [] },
			},
			registry: {
				echo: async () => ({ output: 'done' }),
				throw: async () => {
					throw new Error('It broke')
				},
			},
		},
		worker: { unrunnableLimitMs: 0 },
	})
	const { runId: done } = await engine.run({
		blueprint: 'done',
		idempotencyKey: 'taken',
		idempotencyScope: 'fuzz',
	})
	const { runId: broken } = await engine.run({ blueprint: 'broken' })
	const { runId: lost } = await engine.run({ blueprint: 'lost' })
	const waiting = [
		await engine.start({ blueprint: 'approval' }),
		await engine.start({ blueprint: 'two' }),
		await engine.start({ blueprint: 'hooked' }),
	]
	const hooked = waiting[2] ?? ''
	for (const runId of waiting)
		await waitFor('a wait', async () => {
			const [run] = await engine.rows<{ status: string }>(
				'select status from flowcraft_statuses where run_id = $1',
				runId,
			)
			return run?.status === 'awaiting'
		})
	const [hook] = await engine.rows<{ output: string }>(
		`select output from flowcraft_nodes where run_id = $1 and node_id = 'hook'`,
		hooked,
	)
	const token = (JSON.parse(hook?.output ?? '{}') as { url: string }).url.split('/').at(-1) ?? ''
	const { deadLetters } = await listDeadLetters(engine.database.sql)
	// From here on nothing changes by itself.
	await engine.stopWorkers()
	await engine.relay.stop()
	// Nobody runs this one: it stays as it is.
	const idle = await engine.start({ blueprint: 'idle' })

	app = createApp({ db: engine.database, apiKeys, bodyLimitBytes: 65_536 })
	server = await serveFunctions({ app, host: '127.0.0.1', port: 0 })
	known = {
		id: [
			done,
			broken,
			lost,
			idle,
			...waiting,
			'missing',
			...deadLetters.map(({ id }) => id),
			'idle',
			'done',
		],
		blueprint: ['missing', 'done', 'idle', 'Idle', 'idle '],
		blueprintId: ['idle', 'missing'],
		version: ['1.0.0', 'missing', '0'.repeat(32)],
		nodeId: ['only', 'other', 'missing', 'Only'],
		name: ['paid', 'unpaid'],
		key: ['order-1', 'order-2'],
		token: [`${token.slice(0, -1)}_`, token.toUpperCase(), 'missing', 'x'.repeat(43)],
		cursor: ['bm90IGEgY3Vyc29y', 'WyJ4Il0', 'W10', 'bnVsbA', '"', 'e30'],
		// Short: a run that never ends would be waited for.
		wait: ['0', '1ms', '0.001s', '2ms'],
		limit: ['1', '5', '0', '999999999', '200'],
		status: ['completed', 'running,failed', 'nope', ',', 'completed,'],
		include: ['output', 'outputs'],
		'Idempotency-Key': ['taken', 'free'],
		parent: [done, 'missing'],
		source: ['a', 'missing'],
		target: ['a', 'missing'],
		uses: ['echo', 'subflow', 'wait', 'nobody'],
	}
})
afterAll(async () => {
	agent.destroy()
	await server?.stop()
	await engine?.stop()
})

/** Which tables a request of an operation may change if it is accepted; any other request changes nothing at all. */
const STEERING = ['statuses', 'nodes', 'outbox', 'transitions', 'attempts', 'kept_events', 'webhooks']
const MAY_CHANGE: Readonly<Record<string, readonly string[]>> = {
	'POST /runs': ['statuses', 'contexts', 'nodes', 'outbox', 'transitions', 'idempotency_keys'],
	'POST /runs/{id}/cancel': STEERING,
	'POST /runs/{id}/resume': STEERING,
	'POST /runs/{id}/pause': STEERING,
	'POST /runs/{id}/unpause': STEERING,
	'POST /runs/{id}/retry': STEERING,
	'POST /dead-letters/{id}/replay': STEERING,
	'POST /dead-letters/{id}/discard': ['nodes'],
	'POST /events/{name}': STEERING,
	'POST /webhooks/{token}': STEERING,
	'PUT /blueprints/{id}': ['blueprints', 'blueprint_heads'],
	// What is told gets a number, which stays.
	'GET /runs/{id}/stream': ['streams', 'stream_events'],
}

/** Of each table, how many rows it has and what is in them. */
async function contents(): Promise<Record<string, string>> {
	const [row] = await engine.rows<Record<string, string>>(await contentsQuery())
	return { ...row }
}

let fingerprints: string | undefined
async function contentsQuery(): Promise<string> {
	if (fingerprints !== undefined) return fingerprints
	const tables = await engine.rows<{ name: string }>(
		`select tablename::text as name from pg_tables where schemaname = 'public' and tablename like 'flowcraft\\_%' order by 1`,
	)
	expect(tables.length).toBeGreaterThan(14)
	return (fingerprints = `select ${tables
		.map(
			({ name }) =>
				`(select count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) from ${name} t) as "${name.slice('flowcraft_'.length)}"`,
		)
		.join(', ')}`)
}

const changed = (before: Record<string, string>, after: Record<string, string>): string[] =>
	Object.keys(after).filter((table) => after[table] !== before[table])

const ACCEPTED = 'in order, and accepted'
const WRONG_IN_MEANING = 'fits the schemas, and is wrong in what it means'

function classOf(request: FuzzRequest, { status }: RawAnswer): string {
	if (status < 400) return ACCEPTED
	if (request.fitsSchemas) return WRONG_IN_MEANING
	return request.damage ?? 'does not fit the schemas'
}

test(
	`${REQUESTS} malformed requests (seed ${SEED}): no 5xx, nothing written, the server lives`,
	async () => {
		const requests = fc.sample(fuzzRequests(app, { known, credentials: CREDENTIALS }), {
			numRuns: REQUESTS * 2,
			seed: SEED,
		})
		const classes = new Map<string, number>()
		const statuses = new Map<number, number>()
		let malformed = 0
		let before = await contents()
		for (const request of requests) {
			const answer = await send(server.port, agent, request)
			const told = `seed ${SEED}: ${JSON.stringify({ ...request, body: String(request.body).slice(0, 2_000) })} → ${answer.status} ${answer.text.slice(0, 500)}`
			expect(answer.status, told).toBeLessThan(500)
			// A TRACE is refused before there is a request that an app could see.
			if (answer.status >= 400 && request.method !== 'TRACE') {
				expect(answer.headers['content-type'], told).toBe('application/problem+json')
				expect((JSON.parse(answer.text) as { status: number }).status, told).toBe(answer.status)
			}
			const after = await contents()
			const allowed = answer.status < 300 ? (MAY_CHANGE[request.operation] ?? []) : []
			expect(
				changed(before, after).filter((table) => !allowed.includes(table)),
				told,
			).toEqual([])
			before = after
			const name = classOf(request, answer)
			classes.set(name, (classes.get(name) ?? 0) + 1)
			statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1)
			if (name !== ACCEPTED) malformed += 1
			if (malformed === REQUESTS) break
		}
		const table = [...classes].sort(([, a], [, b]) => b - a)
		console.log(
			`${malformed} malformed requests, seed ${SEED}\n${table.map(([name, count]) => `${String(count).padStart(6)}  ${name}`).join('\n')}\nanswers: ${[
				...statuses,
			]
				.sort()
				.map(([status, count]) => `${status}: ${count}`)
				.join(', ')}`,
		)
		expect(malformed).toBe(REQUESTS)
		expect(classes.get(WRONG_IN_MEANING) ?? 0).toBeGreaterThan(REQUESTS * 0.3)
		const alive = await send(server.port, agent, {
			method: 'GET',
			path: '/readyz',
			headers: {},
			body: undefined,
		})
		expect(alive.status).toBe(200)
	},
	TIMEOUT_MS,
)

test('bytes that are no HTTP at all are refused or left unanswered, and the server lives', async () => {
	const head = 'POST /runs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n'
	const key = `Authorization: ${CREDENTIALS.authorization}\r\n`
	const before = await contents()
	for (const bytes of [
		'',
		'\r\n\r\n',
		'GARBAGE\r\n\r\n',
		'GET\r\n\r\n',
		'GET /runs\r\n\r\n',
		'GET /runs HTTP/9.9\r\nHost: x\r\n\r\n',
		'GET /runs HTTP/1.1\r\n\r\n',
		'GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n',
		'GET * HTTP/1.1\r\nHost: x\r\n\r\n',
		'CONNECT evil.example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n',
		'GET /runs HTTP/1.1\r\nHost: x\r\nBad Header: y\r\n\r\n',
		'GET /runs HTTP/1.1\r\nHost: a b\r\n\r\n',
		'GET /runs\u0000 HTTP/1.1\r\nHost: x\r\n\r\n',
		'GET /healthz HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n',
		`${head}Content-Length: -1\r\n\r\n`,
		`${head}Content-Length: 1e3\r\n\r\n{}`,
		`${head}Content-Length: 99999999999999999999\r\n\r\n{}`,
		`${head}${key}Content-Length: 50\r\n\r\n{"blueprint":"idle"`,
		`${head}${key}Content-Length: 2\r\nContent-Length: 20\r\n\r\n{"blueprint":"idle"}`,
		`${head}${key}Transfer-Encoding: chunked\r\nContent-Length: 20\r\n\r\n{"blueprint":"idle"}`,
		`${head}${key}Transfer-Encoding: chunked\r\n\r\nzz\r\n{"blueprint":"idle"}\r\n0\r\n\r\n`,
		`${head}${key}Transfer-Encoding: chunked\r\n\r\n14\r\n{"blueprint":`,
		Uint8Array.from({ length: 4_096 }, (_, at) => (at * 31) % 256),
	]) {
		const status = await sendBytes(server.port, bytes)
		// Nothing, or the client's fault; 501 and 505 are for methods and versions that HTTP knows and Node does not.
		if (status !== undefined && status >= 500) expect([501, 505]).toContain(status)
	}
	expect(changed(before, await contents())).toEqual([])
	const alive = await send(server.port, agent, {
		method: 'GET',
		path: '/readyz',
		headers: {},
		body: undefined,
	})
	expect(alive.status).toBe(200)
})

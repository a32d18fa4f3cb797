import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createApp } from '../../functions/app.js'
import type { Logger } from '../../src/ports/logger.js'
import { registerWebhook } from '../../src/run/webhooks.js'
import { type Answer, ask, faultPaths, startApi, type TestApi } from './api.js'

let api: TestApi
const lines: string[] = []

beforeAll(async () => {
	const log = (message: string, fields?: object): void =>
		void lines.push(`${message} ${JSON.stringify(fields)}`)
	const logger: Logger = { debug: log, info: log, warn: log, error: log }
	api = await startApi({
		logger,
		bodyLimitBytes: 2_000,
		apiKeys: [
			{ name: 'ops', secret: 'x'.repeat(16), scopes: ['operate'] },
			{ name: 'shop', secret: 'y'.repeat(16), scopes: ['start', 'read'] },
		],
	})
})
afterAll(() => api.stop())

let count = 0
async function webhook(expiresInMs?: number): Promise<{ token: string; path: string; event: string }> {
	const given = await registerWebhook(
		api.database.sql,
		'secret of the tests',
		`run-${(count += 1)}`,
		'hook',
		expiresInMs,
	)
	return { ...given, path: `/webhooks/${given.token}` }
}

/** What the wait will get, of a request that came before it. */
async function kept(event: string): Promise<any> {
	const [row] = await api.rows<{ payload: string }>(
		'select payload from flowcraft_kept_events where name = $1',
		event,
	)
	return row === undefined ? undefined : JSON.parse(JSON.parse(row.payload).output)
}

const isUsed = async (event: string): Promise<unknown> =>
	(
		await api.rows(
			"select used_at is not null as used from flowcraft_webhooks where 'webhook:' || hash = $1",
			event,
		)
	)[0]?.['used']

const problemOf = ({ status, body }: Answer): [number, string] => [status, body.type]

describe('POST /webhooks/:token', () => {
	test('takes JSON without an API key, and hands on the body, the text and the headers', async () => {
		const { path, event } = await webhook()
		const answer = await api.send('POST', path, {
			body: '{ "paid": true }',
			headers: { 'content-type': 'application/json; charset=utf-8', 'X-Signature': 'abc' },
		})
		expect(answer.status).toBe(202)
		expect(answer.body).toEqual({ received: true })
		expect(await kept(event)).toEqual({
			json: { paid: true },
			text: '{ "paid": true }',
			headers: { 'content-type': 'application/json; charset=utf-8', 'x-signature': 'abc' },
		})
	})

	test.each<[string, string, string, unknown]>([
		['a form', 'application/x-www-form-urlencoded', 'a=1&b=%20', undefined],
		['plain text', 'text/plain', 'über', undefined],
		['JSON that is declared as a form', 'application/x-www-form-urlencoded', '{"a":1}', { a: 1 }],
		['nothing', 'application/json', '', undefined],
		['a JSON null', 'application/json', 'null', null],
		[
			'a key named __proto__',
			'application/json',
			'{"__proto__":{"a":1}}',
			JSON.parse('{"__proto__":{"a":1}}'),
		],
	])('takes %s', async (_, type, text, json) => {
		const { path, event } = await webhook()
		const answer = await api.send('POST', path, { body: text, headers: { 'content-type': type } })
		expect(answer.status).toBe(202)
		const request = await kept(event)
		expect(request.text).toBe(text)
		expect(request.json).toEqual(json)
		expect(JSON.stringify(request.json)).toBe(JSON.stringify(json))
	})

	test('hands on neither credentials, nor cookies, nor what concerns the connection', async () => {
		const { path, event } = await webhook()
		await api.send('POST', path, {
			headers: {
				Authorization: 'Bearer secret',
				'X-API-Key': 'secret',
				Cookie: 'session=secret',
				'Proxy-Authorization': 'Basic secret',
				Connection: 'close, X-Hop',
				'X-Hop': 'secret',
				'Keep-Alive': 'timeout=5',
				'Transfer-Encoding': 'chunked',
				TE: 'trailers',
				Upgrade: 'h2c',
				__proto__x: 'kept',
				'X-Long': 'z'.repeat(1_000),
			},
		})
		const { headers } = await kept(event)
		expect(Object.keys(headers).sort()).toEqual(['__proto__x', 'x-long'])
	})

	test('answers 410 the second time, and once it has expired; 404 to what never was', async () => {
		const used = await webhook()
		expect((await api.post(used.path, { n: 1 })).status).toBe(202)
		const again = await api.post(used.path, { n: 2 })
		expect(problemOf(again)).toEqual([410, '/docs#gone'])
		expect((await kept(used.event)).json).toEqual({ n: 1 })

		const expired = await webhook(0)
		expect(problemOf(await api.post(expired.path, {}))).toEqual([410, '/docs#gone'])
		expect(await isUsed(expired.event)).toBe(false)

		const before = await api.rowCounts()
		for (const token of [
			'A'.repeat(43),
			'short',
			'%00',
			'..%2F..%2Fruns',
			'x'.repeat(5_000),
			used.token.toLowerCase(),
			"' or 1=1 --",
		]) {
			const answer = await api.post(`/webhooks/${token}`, {})
			expect([token, ...problemOf(answer)]).toEqual([token, 404, '/docs#not-found'])
			expect(answer.text).not.toContain(token)
		}
		expect(await api.rowCounts()).toEqual(before)
	})

	test.each<[string, string | undefined, Record<string, string>, number]>([
		['broken JSON', '{"a":', { 'content-type': 'application/json' }, 400],
		['a NUL', '"\\u0000"', { 'content-type': 'application/json' }, 400],
		['half a surrogate pair', '{"a":"\\ud800"}', { 'content-type': 'application/json' }, 400],
		['a number beyond all doubles', '[1e999]', { 'content-type': 'application/json' }, 400],
		['absurd depth', '['.repeat(500) + ']'.repeat(500), { 'content-type': 'application/json' }, 400],
		['too much', 'x'.repeat(2_001), { 'content-type': 'text/plain' }, 413],
		['something compressed', 'x', { 'content-encoding': 'gzip' }, 415],
	])('refuses %s, and can still be used', async (_, body, headers, status) => {
		const { path, event } = await webhook()
		const refused = await api.send('POST', path, { body, headers })
		expect(refused.status).toBe(status)
		expect(await isUsed(event)).toBe(false)
		expect((await api.post(path, {})).status).toBe(202)
	})

	test('refuses bytes that are no UTF-8, and can still be used', async () => {
		const { path, event } = await webhook()
		const app = createApp({ db: api.database })
		const response = await app.request(path, { method: 'POST', body: new Uint8Array([0xff, 0xfe]) })
		expect(response.status).toBe(400)
		expect(await isUsed(event)).toBe(false)
	})

	test('takes no other method, and a GET, as by a link preview, uses nothing up', async () => {
		const { path, event } = await webhook()
		const answer = await api.get(path)
		expect(problemOf(answer)).toEqual([405, '/docs#method-not-allowed'])
		expect(answer.headers.get('allow')).toBe('POST')
		expect(await isUsed(event)).toBe(false)
	})

	test('leaves no token in any log', async () => {
		const { path, token } = await webhook()
		const failing = createApp({
			db: () => {
				throw new Error('No database today')
			},
			logger: { debug: push, info: push, warn: push, error: push },
		})
		function push(message: string, fields?: object): void {
			lines.push(`${message} ${JSON.stringify(fields)}`)
		}
		lines.length = 0
		await ask(failing, 'POST', path, { body: {} })
		await api.post(path, {})
		await api.post(path, {})
		await api.get(path)
		expect(lines.length).toBeGreaterThanOrEqual(4)
		expect(lines.join('\n')).not.toContain(token)
	})
})

describe('POST /events/:name', () => {
	const ops = { authorization: `Bearer ${'x'.repeat(16)}` }

	test('keeps an event that nobody waits for, for an hour', async () => {
		const answer = await api.post('/events/order%20paid', { key: 'o-1', payload: { amount: 3 } }, ops)
		expect([answer.status, answer.body]).toEqual([202, { woken: [], kept: true }])
		const rows = await api.rows(
			"select name, key, payload, extract(epoch from expires_at - received_at)::int as seconds from flowcraft_kept_events where name = 'order paid'",
		)
		expect(rows).toEqual([
			{ name: 'order paid', key: 'o-1', payload: '{"output":"{\\"amount\\":3}"}', seconds: 3600 },
		])
	})

	test('keeps it as long as the server is told to', async () => {
		const none = createApp({ db: api.database, eventKeepMs: 0 })
		expect((await ask(none, 'POST', '/events/none')).body).toEqual({ woken: [], kept: false })
	})

	test('needs a key that may operate', async () => {
		expect((await api.post('/events/paid', {})).status).toBe(401)
		const shop = { authorization: `Bearer ${'y'.repeat(16)}` }
		expect((await api.post('/events/paid', {}, shop)).status).toBe(403)
	})

	test('names every fault', async () => {
		const answer = await api.post('/events/webhook:abc', { key: '', payload: '\ud800', more: 1 }, ops)
		expect(answer.status).toBe(400)
		expect(faultPaths(answer).sort()).toEqual(['body /key', 'body /more', 'body /payload', 'path /name'])
	})
})

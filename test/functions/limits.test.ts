/** What keeps one client from having it all: rates, sizes, requests under way; and which web pages may call at all. */
import { request as httpRequest } from 'node:http'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createApp } from '../../functions/app.js'
import { parseApiKeys } from '../../functions/auth.js'
import { clientAddress } from '../../functions/client-address.js'
import { HttpProblem } from '../../functions/problem.js'
import { createRateLimiter, parseRateLimit } from '../../functions/rate-limit.js'
import { serveFunctions } from '../../functions/serve.js'
import { waitFor } from '../support/wait-for.js'
import { ask, startApi, type TestApi } from './api.js'

let api: TestApi
beforeAll(async () => {
	api = await startApi()
})
afterAll(() => api.stop())

const { keys: apiKeys } = parseApiKeys('ada:ada-0123456789abcdef,bob:bob-0123456789abcdef')
const ADA = { authorization: 'Bearer ada-0123456789abcdef' }
const BOB = { authorization: 'Bearer bob-0123456789abcdef' }
const AN_HOUR = 3_600_000

describe('a rate limit', () => {
	function retryAfter(count: () => void): number {
		try {
			count()
			return 0
		} catch (error) {
			if (!(error instanceof HttpProblem)) throw error
			return Number(error.headers['Retry-After'])
		}
	}

	test('allows so many at once, then one for each that the time brings back, and says when', () => {
		let now = 5_000
		const count = createRateLimiter({ requests: 3, perMs: 60_000 }, () => now)
		const ask = (who = 'ada'): number => retryAfter(() => count(who))
		expect([ask(), ask(), ask(), ask()]).toEqual([0, 0, 0, 20])
		expect(ask('bob')).toBe(0)
		now += 19_000
		expect(ask()).toBe(1)
		now += 1_000
		expect([ask(), ask()]).toEqual([0, 20])
		// No more than a full bucket, however long nobody asks.
		now += 10 * AN_HOUR
		expect([ask(), ask(), ask(), ask()]).toEqual([0, 0, 0, 20])
	})

	test('remembers a bounded number of callers, the latest ones', () => {
		const count = createRateLimiter({ requests: 1, perMs: AN_HOUR }, () => 0)
		count('first')
		for (let i = 0; i < 9_999; i++) count(`caller-${i}`)
		expect(retryAfter(() => count('first'))).toBeGreaterThan(0)
		for (let i = 0; i < 10_000; i++) count(`another-${i}`)
		expect(retryAfter(() => count('first'))).toBe(0)
	})

	test.each([
		['600/m', { requests: 600, perMs: 60_000 }],
		['5/s', { requests: 5, perMs: 1_000 }],
		['1/h', { requests: 1, perMs: AN_HOUR }],
		['0/s', undefined],
		['600', undefined],
		['-1/s', undefined],
		['5/d', undefined],
		['5.5/s', undefined],
	])('is written as %s', (text, limit) => {
		expect(parseRateLimit(text)).toEqual(limit)
	})

	test('per caller: each key has its own, and the next request is a 429 that says when to come back', async () => {
		const app = createApp({ db: api.database, apiKeys, callerLimit: { requests: 2, perMs: AN_HOUR } })
		const statusOf = async (headers: Record<string, string>): Promise<number> =>
			(await ask(app, 'GET', '/runs', { headers })).status
		expect([await statusOf(ADA), await statusOf(ADA), await statusOf(ADA)]).toEqual([200, 200, 429])
		expect(await statusOf(BOB)).toBe(200)
		const before = await api.rowCounts()
		const refused = await ask(app, 'POST', '/runs', { body: { blueprint: 'idle' }, headers: ADA })
		expect([refused.status, refused.body.type]).toEqual([429, '/docs#too-many-requests'])
		expect(refused.headers.get('content-type')).toBe('application/problem+json')
		expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0)
		expect(await api.rowCounts()).toEqual(before)
		// Whoever shows no key cannot use up anybody's.
		expect([await statusOf({}), await statusOf({}), await statusOf({})]).toEqual([401, 401, 401])
	})

	test('per address: counts what comes without a key too, and leaves health alone', async () => {
		const app = createApp({
			db: api.database,
			apiKeys,
			addressLimit: { requests: 3, perMs: AN_HOUR },
			addressHeader: 'x-forwarded-for',
		})
		const statusOf = async (path: string, address: string): Promise<number> =>
			(await ask(app, 'GET', path, { headers: { 'x-forwarded-for': address } })).status
		expect(await statusOf('/runs', '10.0.0.1')).toBe(401)
		expect(await statusOf('/nothing', '10.0.0.1')).toBe(404)
		// What a client writes into the header stands before what the proxy adds.
		expect(await statusOf('/runs', '10.0.0.7, 10.0.0.1')).toBe(401)
		expect(await statusOf('/runs', '10.0.0.8, 10.0.0.1')).toBe(429)
		expect(await statusOf('/webhooks/unknown', '10.0.0.1')).toBe(429)
		expect(await statusOf('/healthz', '10.0.0.1')).toBe(200)
		expect(await statusOf('/readyz', '10.0.0.1')).toBe(200)
		expect(await statusOf('/runs', '10.0.0.2')).toBe(401)
	})

	test('per address: of the connection, where no proxy is named', async () => {
		const app = createApp({ db: api.database, addressLimit: { requests: 1, perMs: AN_HOUR } })
		const server = await serveFunctions({ app, host: '127.0.0.1', port: 0 })
		try {
			const headers = { 'x-forwarded-for': '10.0.0.1' }
			expect((await fetch(`${server.url}/docs`, { headers })).status).toBe(200)
			expect((await fetch(`${server.url}/docs`)).status).toBe(429)
		} finally {
			await server.stop()
		}
	})

	test.each([
		['203.0.113.7', '203.0.113.7'],
		['::ffff:203.0.113.7', '203.0.113.7'],
		['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
		['2001:db8:1:2::9', '2001:db8:1:2::/64'],
		['2001:DB8:1::', '2001:db8:1:0::/64'],
		['::1', '0:0:0:0::/64'],
		['fe80::1%eth0', 'fe80:0:0:0::/64'],
		['[2001:db8:1:2::9]:443', '2001:db8:1:2::/64'],
		['', undefined],
	])('knows %s as %s', (address, known) => {
		expect(clientAddress(new Headers({ 'x-real-ip': address }), undefined, 'x-real-ip')).toBe(known)
		expect(clientAddress(new Headers({ 'x-real-ip': address }), undefined)).toBeUndefined()
	})
})

describe('sizes', () => {
	test('a URL that is too long is a 414, headers that are too large a 431', async () => {
		const long = await api.get(`/runs?tag=${'x'.repeat(9_000)}`)
		expect([long.status, long.body.type]).toEqual([414, '/docs#uri-too-long'])
		const large = await api.get('/runs', { 'x-large': 'x'.repeat(17_000) })
		expect([large.status, large.body.type]).toEqual([431, '/docs#headers-too-large'])
	})

	test('the server refuses both before it has read them to their end, and lives', async () => {
		const server = await serveFunctions({
			app: createApp({ db: api.database }),
			host: '127.0.0.1',
			port: 0,
		})
		const statusOf = (path: string, headers: Record<string, string>): Promise<number | undefined> =>
			new Promise((resolve, reject) => {
				const sent = httpRequest(`${server.url}${path}`, { headers }, (response) => {
					response.resume()
					resolve(response.statusCode)
				})
				sent.on('error', reject)
				sent.end()
			})
		try {
			expect(await statusOf('/healthz', { 'x-large': 'x'.repeat(100_000) })).toBe(431)
			expect(await statusOf(`/runs/${'x'.repeat(100_000)}`, {})).toBe(431)
			expect(await statusOf('/healthz', {})).toBe(200)
		} finally {
			await server.stop()
		}
	})
})

test('requests under way are bounded: the next one is answered 503 at once, health still 200', async () => {
	const app = createApp({ db: api.database, maxRequests: 3 })
	const { runId } = (await ask(app, 'POST', '/runs', { body: { blueprint: 'idle' } })).body
	const leaving = new AbortController()
	const waiting = Array.from({ length: 3 }, async () =>
		app.request(`/runs/${runId}?wait=60s`, { signal: leaving.signal }),
	)
	try {
		const refused = await waitFor('a refusal', async () => {
			const answer = await ask(app, 'GET', `/runs/${runId}`)
			return answer.status === 503 ? answer : undefined
		})
		expect(refused.body.type).toBe('/docs#unavailable')
		expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0)
		expect((await ask(app, 'GET', '/healthz')).status).toBe(200)
	} finally {
		leaving.abort()
		await Promise.allSettled(waiting)
	}
	expect((await ask(app, 'GET', `/runs/${runId}`)).status).toBe(200)
})

describe('web pages of other origins', () => {
	const ORIGIN = 'https://app.example.com'
	const preflight = { origin: ORIGIN, 'access-control-request-method': 'POST' }
	const allowed = (headers: Headers): string | null => headers.get('access-control-allow-origin')

	test('may not call, unless they are told otherwise', async () => {
		const asked = await api.send('OPTIONS', '/runs', { headers: preflight })
		expect([asked.status, allowed(asked.headers)]).toEqual([405, null])
		expect(allowed((await api.get('/runs', { origin: ORIGIN })).headers)).toBeNull()
	})

	test('may call where their origin is on the list, and read refusals too', async () => {
		const app = createApp({ db: api.database, apiKeys, corsOrigins: [ORIGIN, 'https://b.example.com'] })
		const asked = await ask(app, 'OPTIONS', '/runs', { headers: preflight })
		expect([asked.status, allowed(asked.headers)]).toEqual([204, ORIGIN])
		expect(asked.headers.get('access-control-allow-headers')).toContain('Authorization')
		expect(asked.headers.get('access-control-allow-credentials')).toBeNull()
		for (const [headers, status] of [
			[ADA, 200],
			[{}, 401],
		] as const) {
			const answer = await ask(app, 'GET', '/runs', { headers: { ...headers, origin: ORIGIN } })
			expect([answer.status, allowed(answer.headers)]).toEqual([status, ORIGIN])
			expect(answer.headers.get('vary')).toContain('Origin')
		}
		for (const origin of ['https://evil.example.com', 'https://app.example.com.evil.com', 'null']) {
			const answer = await ask(app, 'OPTIONS', '/runs', { headers: { ...preflight, origin } })
			expect([origin, allowed(answer.headers)]).toEqual([origin, null])
		}
	})
})

test('answers cannot be taken for something else: types are not guessed, the page runs no script', async () => {
	for (const path of ['/runs', '/nothing', '/openapi.json', '/docs', '/healthz'])
		expect([path, (await api.get(path)).headers.get('x-content-type-options')]).toEqual([path, 'nosniff'])
	const policy = (await api.get('/docs')).headers.get('content-security-policy') ?? ''
	expect(policy).toContain("default-src 'none'")
	expect(policy).toContain("frame-ancestors 'none'")
	expect(policy).not.toContain('script-src')
})

import { createHash } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createApp } from '../../functions/app.js'
import { parseApiKeys } from '../../functions/auth.js'
import { SCOPES } from '../../functions/scopes.js'
import { type Answer, ask, startApi, type TestApi } from './api.js'

const SECRETS = {
	all: 'all-0123456789abcdef',
	reader: 'reader-0123456789abc',
	starter: 'starter-0123456789ab',
	operator: 'operator-0123456789a',
	admin: 'admin-0123456789abcd',
} as const

let api: TestApi
let runId: string

beforeAll(async () => {
	const { keys } = parseApiKeys(
		`all:${SECRETS.all},reader:${SECRETS.reader}:read,starter:${SECRETS.starter}:start+read,operator:${SECRETS.operator}:operate,admin:${SECRETS.admin}:admin`,
	)
	api = await startApi({ apiKeys: keys })
	runId = (await api.post('/runs', { blueprint: 'idle' }, bearer(SECRETS.all))).body.runId
})
afterAll(() => api.stop())

const bearer = (secret: string): Record<string, string> => ({ authorization: `Bearer ${secret}` })

const PROTECTED: [method: string, path: string, body?: unknown][] = [
	['GET', '/runs'],
	['GET', '/runs/x'],
	['POST', '/runs', { blueprint: 'idle' }],
	['POST', '/runs/x/cancel'],
	['POST', '/runs/x/resume', {}],
	['POST', '/runs/x/pause'],
	['POST', '/runs/x/unpause'],
	['POST', '/runs/x/retry', {}],
	['GET', '/runs/x/nodes'],
	['GET', '/runs/x/events'],
	['GET', '/dead-letters'],
	['POST', '/dead-letters/x/replay'],
	['POST', '/dead-letters/x/discard'],
	['PUT', '/blueprints/x', { nodes: [{ id: 'a', uses: 'x' }] }],
	['GET', '/blueprints'],
	['GET', '/blueprints/x'],
	['GET', '/workers'],
]

test.each(PROTECTED)('%s %s needs a key', async (method, path, body) => {
	const before = await api.rowCounts()
	const answer = await api.send(method, path, { body })
	expect([answer.status, answer.body.type]).toEqual([401, '/docs#unauthorized'])
	expect(answer.headers.get('www-authenticate')).toBe('Bearer')
	expect(await api.rowCounts()).toEqual(before)
})

test.each(['/healthz', '/readyz', '/openapi.json', '/docs'])('%s is open', async (path) => {
	expect((await api.get(path)).status).toBe(200)
})

test('the key may be sent as a bearer token or as X-API-Key', async () => {
	for (const headers of [
		bearer(SECRETS.all),
		{ authorization: `bearer  ${SECRETS.all}` },
		{ 'x-api-key': SECRETS.all },
		{ 'x-api-key': SECRETS.all, authorization: 'Basic Zm9v' },
	]) {
		expect([headers, (await api.get('/runs', headers)).status]).toEqual([headers, 200])
	}
})

test('a rejection does not tell which keys exist', async () => {
	const wrong: Record<string, string>[] = [
		{},
		bearer('nobody-0123456789abc'),
		bearer(SECRETS.all.slice(0, -1)),
		bearer(`${SECRETS.all}x`),
		bearer(SECRETS.all.toUpperCase()),
		bearer(`all:${SECRETS.all}`),
		{ authorization: 'Bearer ' },
		{ authorization: SECRETS.all },
		{ authorization: 'Basic Zm9v' },
		{ 'x-api-key': '' },
		{ 'x-api-key': 'all' },
	]
	const answers: Answer[] = []
	for (const headers of wrong) answers.push(await api.get('/runs', headers))
	expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([401]))
	expect(new Set(answers.map(({ text }) => text)).size).toBe(1)
})

test('a key does what its scopes say, and nothing else', async () => {
	const statusOf = async (secret: string, method: string, path: string, body?: unknown): Promise<number> =>
		(await api.send(method, path, { body, headers: bearer(secret) })).status
	const blueprint = { nodes: [{ id: 'a', uses: 'x' }] }
	const allowed: Record<string, number[]> = {}
	for (const [name, secret] of Object.entries(SECRETS)) {
		allowed[name] = [
			await statusOf(secret, 'GET', '/runs'),
			await statusOf(secret, 'POST', '/runs', { blueprint: 'idle' }),
			await statusOf(secret, 'POST', `/runs/${runId}/cancel`),
			await statusOf(secret, 'PUT', `/blueprints/by-${name}`, blueprint),
			await statusOf(secret, 'GET', `/runs/${runId}/nodes`),
			await statusOf(secret, 'GET', `/runs/${runId}/events`),
			await statusOf(secret, 'GET', '/dead-letters'),
			// Allowed: there is nothing of the kind, or not any more.
			await statusOf(secret, 'POST', `/runs/missing/pause`),
			await statusOf(secret, 'POST', `/runs/missing/unpause`),
			await statusOf(secret, 'POST', `/runs/missing/retry`),
			await statusOf(secret, 'POST', '/dead-letters/missing/replay'),
			await statusOf(secret, 'POST', '/dead-letters/missing/discard'),
		]
	}
	expect(allowed).toEqual({
		all: [200, 202, 200, 201, 200, 200, 200, 404, 404, 404, 404, 404],
		reader: [200, 403, 403, 403, 200, 200, 200, 403, 403, 403, 403, 403],
		starter: [200, 202, 403, 403, 200, 200, 200, 403, 403, 403, 403, 403],
		operator: [403, 403, 200, 403, 403, 403, 403, 404, 404, 404, 404, 404],
		admin: [403, 403, 403, 201, 403, 403, 403, 403, 403, 403, 403, 403],
	})
	const refused = await api.post('/runs', { blueprint: 'idle' }, bearer(SECRETS.reader))
	expect(refused.body).toMatchObject({
		type: '/docs#forbidden',
		detail: expect.stringContaining("'start'"),
	})
})

test('a key is asked for before the body is looked at', async () => {
	expect((await api.post('/runs', '{', bearer(SECRETS.reader))).status).toBe(403)
	expect((await api.post('/runs', '{')).status).toBe(401)
})

test('a key may be given by the hash of its secret alone', async () => {
	const secret = 'a-secret-that-stands-nowhere'
	const hash = createHash('sha256').update(secret).digest('hex')
	const { keys, faults } = parseApiKeys(`ops:sha256=${hash.toUpperCase()}:read`)
	expect(faults).toEqual([])
	expect(keys).toEqual([{ name: 'ops', sha256: hash, scopes: ['read'] }])
	const app = createApp({ db: api.database, apiKeys: keys })
	expect((await ask(app, 'GET', '/runs', { headers: bearer(secret) })).status).toBe(200)
	expect((await ask(app, 'PUT', '/blueprints/x', { headers: bearer(secret) })).status).toBe(403)
	// Whoever reads the configuration cannot use what stands there.
	for (const shown of [hash, `sha256=${hash}`, `ops:${hash}`])
		expect((await ask(app, 'GET', '/runs', { headers: bearer(shown) })).status).toBe(401)
})

test('API_KEYS may give a name several secrets, so that one can be replaced', () => {
	const { keys, faults } = parseApiKeys(' ci:0123456789abcdef:read+start , ci:fedcba9876543210,')
	expect(faults).toEqual([])
	expect(keys).toEqual([
		{ name: 'ci', secret: '0123456789abcdef', scopes: ['read', 'start'] },
		{ name: 'ci', secret: 'fedcba9876543210', scopes: SCOPES },
	])
})

test.each([
	['justasecretwithoutaname', 'key number 1 needs a name'],
	[':0123456789abcdef', 'key number 1 needs a name'],
	['ci:short', "the key 'ci' needs a secret of at least 16 characters"],
	['ci:0123456789abcdef:write', "the key 'ci' has a scope other than read, start, operate, admin"],
	['ci:0123456789abcdef:', "the key 'ci' has a scope other than"],
	['ci:0123456789abcdef:read:x', "the key 'ci' has more parts"],
	['ci:0123456789abcdé°', "the key 'ci' has a secret with characters that no header can carry"],
	['ci:sha256=0123456789abcdef', "the key 'ci' needs 64 hexadecimal digits behind sha256="],
	[`ci:sha256=${'0123456789abcdeg'.repeat(4)}`, "the key 'ci' needs 64 hexadecimal digits"],
	[
		`a:sha256=${'0123456789abcdef'.repeat(4)},b:sha256=${'0123456789ABCDEF'.repeat(4)}`,
		"the key 'b' has the same secret as another one",
	],
	['a:0123456789abcdef,b:0123456789abcdef', "the key 'b' has the same secret as another one"],
])('API_KEYS=%s is refused without showing a secret', (text, fault) => {
	const { faults } = parseApiKeys(text)
	expect(faults.join()).toContain(fault)
	expect(faults.join()).not.toContain('0123456789')
	expect(faults.join()).not.toContain('justasecret')
})

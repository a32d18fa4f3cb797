/** Tokens of an identity provider: one that runs here, on a port of its own, and signs with keys that it publishes. */
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { exportJWK, generateKeyPair, type JWTPayload, SignJWT } from 'jose'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { parseApiKeys } from '../../functions/auth.js'
import { createTokenVerifier, type JwtOptions } from '../../functions/jwt.js'
import { HttpProblem } from '../../functions/problem.js'
import { startApi, type TestApi } from './api.js'

const ISSUER = 'https://login.example.com/'
const AUDIENCE = 'flowcraft'

type KeyPair = Awaited<ReturnType<typeof generateKeyPair>>

/** Publishes the keys that it is given, and counts how often it is asked. */
class Provider {
	readonly #server: Server
	keys: object[] = []
	asked = 0
	status = 200

	constructor() {
		this.#server = createServer((_request, response) => {
			this.asked += 1
			response.writeHead(this.status, { 'content-type': 'application/json' })
			response.end(JSON.stringify({ keys: this.keys }))
		})
	}

	async start(): Promise<void> {
		await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve))
	}

	get jwksUrl(): string {
		return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/jwks.json`
	}

	async publish(...named: [kid: string, pair: KeyPair][]): Promise<void> {
		this.keys = await Promise.all(
			named.map(async ([kid, pair]) => ({ ...(await exportJWK(pair.publicKey)), kid, use: 'sig' })),
		)
	}

	async stop(): Promise<void> {
		this.#server.closeAllConnections()
		await new Promise((resolve) => this.#server.close(resolve))
	}
}

const provider = new Provider()
let pair: KeyPair
let other: KeyPair
let api: TestApi

const API_KEY = 'api-key-0123456789ab'

beforeAll(async () => {
	pair = await generateKeyPair('ES256', { extractable: true })
	other = await generateKeyPair('ES256', { extractable: true })
	await provider.start()
	await provider.publish(['one', pair])
	api = await startApi({ jwt: options(), apiKeys: parseApiKeys(`key:${API_KEY}`).keys })
})
afterAll(async () => {
	await api.stop()
	await provider.stop()
})

const options = (more: Partial<JwtOptions> = {}): JwtOptions => ({
	jwksUrl: provider.jwksUrl,
	issuer: ISSUER,
	audience: [AUDIENCE, 'another'],
	...more,
})

interface TokenInput {
	readonly claims?: JWTPayload
	readonly issuer?: string
	readonly audience?: string
	readonly subject?: string
	readonly expiresIn?: string
	readonly notBefore?: string
	readonly kid?: string
	readonly alg?: string
	readonly key?: KeyPair['privateKey'] | Uint8Array
}

function token(input: TokenInput = {}): Promise<string> {
	return new SignJWT({ scope: 'openid read start', ...input.claims })
		.setProtectedHeader({ alg: input.alg ?? 'ES256', kid: input.kid ?? 'one' })
		.setIssuer(input.issuer ?? ISSUER)
		.setAudience(input.audience ?? AUDIENCE)
		.setSubject(input.subject ?? 'ada')
		.setExpirationTime(input.expiresIn ?? '5m')
		.setNotBefore(input.notBefore ?? '-1m')
		.sign(input.key ?? pair.privateKey)
}

const bearer = (jwt: string): Record<string, string> => ({ authorization: `Bearer ${jwt}` })

test('a token does what its scopes say, and nothing else', async () => {
	const headers = bearer(await token())
	expect((await api.get('/runs', headers)).status).toBe(200)
	const started = await api.post('/runs', { blueprint: 'idle' }, headers)
	expect(started.status).toBe(202)
	expect((await api.post(`/runs/${started.body.runId}/cancel`, {}, headers)).status).toBe(403)
	expect((await api.put('/blueprints/x', {}, headers)).status).toBe(403)
	const none = bearer(await token({ claims: { scope: 'readonly' } }))
	expect((await api.get('/runs', none)).status).toBe(403)
})

test('API keys go on working beside tokens', async () => {
	expect((await api.get('/runs', bearer(API_KEY))).status).toBe(200)
	expect((await api.get('/runs', bearer('not-a-key.0123456789'))).status).toBe(401)
})

test('idempotency keys belong to the subject, not to an API key of the same name', async () => {
	const start = async (headers: Record<string, string>): Promise<string> =>
		(await api.post('/runs', { blueprint: 'idle' }, { ...headers, 'idempotency-key': 'same' })).body.runId
	const ofSubject = await start(bearer(await token({ subject: 'key' })))
	expect(await start(bearer(await token({ subject: 'key' })))).toBe(ofSubject)
	expect(await start(bearer(await token({ subject: 'eve' })))).not.toBe(ofSubject)
	expect(await start(bearer(API_KEY))).not.toBe(ofSubject)
})

test.each<[what: string, input: () => TokenInput]>([
	['of another issuer', () => ({ issuer: 'https://evil.example.com/' })],
	['for somebody else', () => ({ audience: 'other' })],
	['that has expired', () => ({ expiresIn: '-1m' })],
	['that is not valid yet', () => ({ notBefore: '1m' })],
	['signed by somebody else', () => ({ key: other.privateKey })],
	['under a key that nobody has published', () => ({ kid: 'unknown' })],
	['without a subject', () => ({ subject: '' })],
	['with a subject that cannot be stored', () => ({ subject: 'a\u0000' })],
	['signed with a shared secret', () => ({ alg: 'HS256', key: new TextEncoder().encode('x'.repeat(64)) })],
	[
		'signed with the public key as if that were a shared secret',
		() => ({ alg: 'HS256', key: new TextEncoder().encode(JSON.stringify(provider.keys[0])) }),
	],
])('a token %s is refused', async (_what, input) => {
	const answer = await api.get('/runs', bearer(await token(input())))
	expect([answer.status, answer.body.type]).toEqual([401, '/docs#unauthorized'])
})

test('a token that nobody has signed, or that was changed, is refused', async () => {
	const [, payload = '', signature = ''] = (await token()).split('.')
	const encode = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url')
	const forged = [
		`${encode({ alg: 'none' })}.${payload}.`,
		`${encode({ alg: 'none' })}.${payload}.${signature}`,
		`${encode({ alg: 'ES256', kid: 'one' })}.${encode({ sub: 'ada', iss: ISSUER, aud: AUDIENCE, exp: 9e9, scope: 'admin' })}.${signature}`,
		'a.b.c',
	]
	for (const jwt of forged) expect([jwt, (await api.get('/runs', bearer(jwt))).status]).toEqual([jwt, 401])
})

test('a token without an end is refused', async () => {
	const endless = await new SignJWT({ scope: 'read' })
		.setProtectedHeader({ alg: 'ES256', kid: 'one' })
		.setIssuer(ISSUER)
		.setAudience(AUDIENCE)
		.setSubject('ada')
		.sign(pair.privateKey)
	expect((await api.get('/runs', bearer(endless))).status).toBe(401)
})

test('an algorithm that is not on the list is refused, although its key is published', async () => {
	const verify = createTokenVerifier(options({ algorithms: ['RS256'] }))
	expect(await verify(await token())).toBeUndefined()
	expect((await createTokenVerifier(options())(await token()))?.name).toBe('jwt:ada')
})

test('the issuer’s clock may be off by the tolerance, and not by more', async () => {
	const verify = createTokenVerifier(options({ clockToleranceMs: 90_000 }))
	expect(await verify(await token({ expiresIn: '-1m' }))).toBeDefined()
	expect(await verify(await token({ expiresIn: '-2m' }))).toBeUndefined()
})

test('scopes are read from the claim that is configured, as a text or as a list, behind a prefix', async () => {
	const verify = createTokenVerifier(
		options({ scopesClaim: 'permissions', scopesPrefix: 'flow:', callerClaim: 'client_id' }),
	)
	const caller = await verify(
		await token({ claims: { permissions: ['flow:read', 'flow:admin', 'start', 7], client_id: 'shop' } }),
	)
	expect(caller).toEqual({ name: 'jwt:shop', scopes: new Set(['read', 'admin']) })
	expect(await verify(await token({ claims: { permissions: 'flow:operate', client_id: 'shop' } }))).toEqual(
		{
			name: 'jwt:shop',
			scopes: new Set(['operate']),
		},
	)
	expect(await verify(await token({ claims: { permissions: 'flow:read' } }))).toBeUndefined()
})

test('keys are asked for once, again for a token under a new key, and no more often than the pause allows', async () => {
	const rotating = new Provider()
	await rotating.start()
	try {
		await rotating.publish(['one', pair])
		const eager = createTokenVerifier({ ...options({ jwksCooldownMs: 0 }), jwksUrl: rotating.jwksUrl })
		const patient = createTokenVerifier({ ...options(), jwksUrl: rotating.jwksUrl })
		expect(rotating.asked).toBe(0)
		for (const verify of [eager, patient]) {
			for (let i = 0; i < 5; i++) expect(await verify(await token())).toBeDefined()
		}
		expect(rotating.asked).toBe(2)

		await rotating.publish(['two', other])
		const rotated = await token({ kid: 'two', key: other.privateKey })
		expect(await eager(rotated)).toBeDefined()
		expect(await eager(await token())).toBeUndefined()
		const asked = rotating.asked
		for (let i = 0; i < 20; i++) expect(await patient(rotated)).toBeUndefined()
		expect(rotating.asked).toBe(asked)
	} finally {
		await rotating.stop()
	}
})

test('while the issuer is away its last keys are used; who never had them answers 503, not 401', async () => {
	const flaky = new Provider()
	await flaky.start()
	try {
		await flaky.publish(['one', pair])
		const known = createTokenVerifier({ ...options({ jwksCacheMs: 0 }), jwksUrl: flaky.jwksUrl })
		expect(await known(await token())).toBeDefined()
		flaky.status = 500
		expect(await known(await token())).toBeDefined()
		const asked = flaky.asked
		for (let i = 0; i < 10; i++) expect(await known(await token())).toBeDefined()
		expect(flaky.asked).toBe(asked)
		expect(await known(await token({ key: other.privateKey }))).toBeUndefined()

		const fresh = createTokenVerifier({ ...options(), jwksUrl: flaky.jwksUrl })
		const refusal = await fresh(await token()).catch((error: unknown) => error)
		expect(refusal).toBeInstanceOf(HttpProblem)
		expect((refusal as HttpProblem).code).toBe('unavailable')
	} finally {
		await flaky.stop()
	}
})

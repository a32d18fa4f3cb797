import { expect, test } from 'vitest'
import { DEFAULT_REDACT_KEYS } from '../../src/redaction.js'
import { readAppConfig, readHostConfig, readServerConfig } from '../../functions/config.js'
import { type Environment, EnvironmentError } from '../../src/environment.js'

const DATABASE_URL = 'postgres://u:p@db/x'

function faultsOf(env: Environment): readonly string[] {
	try {
		readServerConfig(env)
		return []
	} catch (error) {
		if (!(error instanceof EnvironmentError)) throw error
		return error.faults
	}
}

test('needs nothing but the database', () => {
	expect(readServerConfig({ DATABASE_URL })).toEqual({
		databaseUrl: DATABASE_URL,
		databasePoolSize: 10,
		databaseDeadlineMs: 10_000,
		databaseQueueSize: 1000,
		databasePrepare: true,
		apiKeys: [],
		maxRequests: 5000,
		streamMs: 300_000,
		corsOrigins: [],
		redactKeys: [...DEFAULT_REDACT_KEYS],
		bodyLimitBytes: 1024 * 1024,
		eventKeepMs: 3_600_000,
		logLevel: 'info',
		host: '127.0.0.1',
		port: 3000,
	})
})

test('a variable that is set to nothing is not set', () => {
	expect(
		readServerConfig({ DATABASE_URL, PORT: '', HOST: '', API_KEYS: '', LOG_LEVEL: '', PUBLIC_URL: '' }),
	).toEqual(readServerConfig({ DATABASE_URL }))
})

test('all faults are told together, each with the name of its variable', () => {
	const faults = faultsOf({
		DATABASE_URL: 'mysql://x',
		PORT: '65536',
		HOST: 'a b',
		API_KEYS: 'ci:short',
		BODY_LIMIT_BYTES: '1MB',
		DATABASE_POOL_SIZE: '0',
		DATABASE_DEADLINE_MS: '-1',
		DATABASE_PREPARE: 'no',
		LOG_LEVEL: 'loud',
		PUBLIC_URL: 'example.com',
	})
	expect(faults.map((fault) => fault.split(' ')[0]).sort()).toEqual([
		'API_KEYS',
		'BODY_LIMIT_BYTES',
		'DATABASE_DEADLINE_MS',
		'DATABASE_POOL_SIZE',
		'DATABASE_PREPARE',
		'DATABASE_URL',
		'HOST',
		'LOG_LEVEL',
		'PORT',
		'PUBLIC_URL',
	])
	expect(faultsOf({})).toEqual([expect.stringMatching(/^DATABASE_URL is not set/)])
})

test('a fault does not show the value of a secret', () => {
	expect(faultsOf({ DATABASE_URL: 'http://user:hunter2@db', API_KEYS: 'hunter2' }).join()).not.toContain(
		'hunter2',
	)
})

test.each(['0.0.0.0', '::', '192.168.1.5', 'example.com', '127.evil.com'])(
	'listens on %s only with API keys',
	(HOST) => {
		expect(faultsOf({ DATABASE_URL, HOST })).toEqual([
			expect.stringMatching(/^API_KEYS is not set, but HOST/),
		])
		expect(faultsOf({ DATABASE_URL, HOST, API_KEYS: 'ci:0123456789abcdef' })).toEqual([])
	},
)

const JWT = {
	JWT_JWKS_URL: 'https://login.example.com/jwks.json',
	JWT_ISSUER: 'https://login.example.com/',
	JWT_AUDIENCE: 'flowcraft, another',
}

test('an issuer of tokens is as good as keys, beyond this machine too', () => {
	expect(readServerConfig({ DATABASE_URL, HOST: '0.0.0.0', ...JWT })).toMatchObject({
		apiKeys: [],
		jwt: {
			jwksUrl: 'https://login.example.com/jwks.json',
			issuer: 'https://login.example.com/',
			audience: ['flowcraft', 'another'],
			algorithms: ['RS256', 'PS256', 'ES256', 'EdDSA'],
			scopesClaim: 'scope',
			callerClaim: 'sub',
		},
	})
})

test('a list of keys without a key is no list', () => {
	expect(faultsOf({ DATABASE_URL, HOST: '0.0.0.0', API_KEYS: ' , ' })).toEqual([
		expect.stringMatching(/^API_KEYS is not set, but HOST/),
	])
})

test('of an issuer all three things are needed', () => {
	expect(faultsOf({ DATABASE_URL, JWT_ISSUER: 'x' }).map((fault) => fault.split(' ')[0])).toEqual([
		'JWT_JWKS_URL',
		'JWT_AUDIENCE',
	])
	// Half an issuer does not open the door either.
	expect(faultsOf({ DATABASE_URL, HOST: '0.0.0.0', JWT_ISSUER: 'x' }).join()).toContain('API_KEYS')
})

test.each([
	['JWT_JWKS_URL', 'http://login.example.com/jwks.json'],
	['JWT_JWKS_URL', 'http://127.evil.com/jwks.json'],
	['JWT_ALGORITHMS', 'RS256,HS256'],
	['JWT_ALGORITHMS', 'none'],
	['JWT_CLOCK_TOLERANCE_MS', '-1'],
	['RATE_LIMIT_PER_CALLER', '100'],
	['RATE_LIMIT_PER_ADDRESS', '0/s'],
	['CLIENT_ADDRESS_HEADER', 'x forwarded'],
	['CORS_ORIGINS', 'https://app.example.com/'],
	['CORS_ORIGINS', 'app.example.com'],
	['MAX_REQUESTS', '0'],
	['DATABASE_QUEUE_SIZE', '-1'],
])('%s=%s is refused', (name, value) => {
	expect(faultsOf({ DATABASE_URL, ...JWT, [name]: value })).toEqual([
		expect.stringMatching(new RegExp(`^${name} must`)),
	])
})

test('limits and origins are read', () => {
	expect(
		readAppConfig({
			DATABASE_URL,
			RATE_LIMIT_PER_CALLER: '600/m',
			RATE_LIMIT_PER_ADDRESS: '20/s',
			CLIENT_ADDRESS_HEADER: 'cf-connecting-ip',
			CORS_ORIGINS: 'https://a.example.com, http://localhost:5173',
		}),
	).toMatchObject({
		callerLimit: { requests: 600, perMs: 60_000 },
		addressLimit: { requests: 20, perMs: 1_000 },
		addressHeader: 'cf-connecting-ip',
		corsOrigins: ['https://a.example.com', 'http://localhost:5173'],
	})
})

test.each(['localhost', '127.0.0.1', '127.1.2.3', '::1'])('listens on %s without API keys', (HOST) => {
	expect(faultsOf({ DATABASE_URL, HOST })).toEqual([])
})

test('hosts that listen on no port need no HOST and PORT', () => {
	expect(
		readAppConfig({ DATABASE_URL, PUBLIC_URL: 'https://flows.example.com/', PORT: 'x' }),
	).toMatchObject({
		publicUrl: 'https://flows.example.com',
	})
})

test('a host that everybody can reach is not served without API keys', () => {
	for (const API_KEYS of [undefined, ''])
		expect(() => readHostConfig({ DATABASE_URL, API_KEYS }, 1)).toThrow(/^ {2}API_KEYS is not set/m)
	expect(readHostConfig({ DATABASE_URL, API_KEYS: 'ci:0123456789abcdef' }, 1)).toMatchObject({
		databasePoolSize: 1,
	})
})

test('the environment says how many connections a host may have, if it says so', () => {
	const env = { DATABASE_URL, API_KEYS: 'ci:0123456789abcdef', DATABASE_POOL_SIZE: '7' }
	expect(readHostConfig(env, 1).databasePoolSize).toBe(7)
	expect(readHostConfig({ ...env, DATABASE_POOL_SIZE: '' }, 2).databasePoolSize).toBe(2)
})

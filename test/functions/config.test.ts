import { expect, test } from 'vitest'
import { readAppConfig, readServerConfig } from '../../functions/config.js'
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
		apiKeys: [],
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
		LOG_LEVEL: 'loud',
		PUBLIC_URL: 'example.com',
	})
	expect(faults.map((fault) => fault.split(' ')[0]).sort()).toEqual([
		'API_KEYS',
		'BODY_LIMIT_BYTES',
		'DATABASE_DEADLINE_MS',
		'DATABASE_POOL_SIZE',
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

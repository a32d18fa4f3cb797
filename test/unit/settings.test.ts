import { describe, expect, test } from 'vitest'
import { EnvironmentError, readTogether } from '../../src/environment.js'
import {
	loadWorkflows,
	readAllInOneSettings,
	readRelaySettings,
	readWorkerSettings,
} from '../../worker/settings.js'

const faultsOf = (read: () => unknown): readonly string[] => {
	try {
		read()
	} catch (error) {
		if (error instanceof EnvironmentError) return error.faults
		throw error
	}
	return []
}

const urls = {
	DATABASE_URL: 'postgres://u:p@db/flowcraft',
	RABBITMQ_URL: 'amqp://mq',
	REDIS_URL: 'redis://cache',
}

describe('npm start', () => {
	test('is embedded without any URL, also if they are set to nothing', () => {
		expect(readAllInOneSettings({}).services).toEqual({ type: 'embedded' })
		expect(readAllInOneSettings({ DATABASE_URL: '', REDIS_URL: '' }).services).toEqual({
			type: 'embedded',
		})
	})

	test('takes all three', () => {
		expect(readAllInOneSettings(urls).services).toEqual({
			type: 'given',
			databaseUrl: urls.DATABASE_URL,
			rabbitMqUrl: urls.RABBITMQ_URL,
			redisUrl: urls.REDIS_URL,
		})
	})

	test('refuses a half-set environment with a sentence that says what is missing', () => {
		expect(faultsOf(() => readAllInOneSettings({ DATABASE_URL: urls.DATABASE_URL }))).toEqual([
			'RABBITMQ_URL and REDIS_URL are not set: npm start takes DATABASE_URL, RABBITMQ_URL and REDIS_URL together, or none of them for embedded services.',
		])
	})
})

test('every fault is reported at once, under its variable', () => {
	expect(
		faultsOf(() =>
			readWorkerSettings({
				DATABASE_URL: 'mysql://x',
				CONCURRENCY: '0',
				LEASE_MS: 'soon',
				LOG_LEVEL: 'loud',
			}),
		),
	).toEqual([
		'RABBITMQ_URL is not set, for example amqp://user:password@127.0.0.1:5672',
		'DATABASE_URL must begin with postgres:// or postgresql:// and name a host',
		'LOG_LEVEL must be one of trace, debug, info, warn, error, fatal, silent',
		'CONCURRENCY must be a whole number from 1 to 10000',
		'LEASE_MS must be a whole number from 500 to 3600000',
	])
	expect(
		faultsOf(() =>
			readTogether(
				() => readRelaySettings({ ...urls, STALLED_MS: '1' }),
				() => readRelaySettings({ ...urls, SWEEP_MS: '1' }),
			),
		),
	).toHaveLength(2)
})

test('defaults are those of the documentation', () => {
	expect(readWorkerSettings(urls)).toMatchObject({
		QUEUE_NAME: 'flowcraft-jobs',
		CONCURRENCY: 32,
		LEASE_MS: 15_000,
		METRICS_PORT: 0,
	})
	expect(readRelaySettings(urls)).toMatchObject({ STALLED_MS: 30_000 })
})

test('a workflows module that cannot be loaded is refused by name', async () => {
	await expect(loadWorkflows('./nowhere.ts')).rejects.toThrow(
		/WORKFLOWS names \/.*nowhere\.ts, which does not exist/,
	)
	await expect(loadWorkflows('./LICENSE')).rejects.toThrow(/WORKFLOWS cannot be loaded from \/.*LICENSE: /)
	await expect(loadWorkflows('./src/loop.ts')).rejects.toThrow(/exports no 'blueprints'/)
	expect(Object.keys((await loadWorkflows(undefined)).blueprints ?? {})).toContain('content-moderation')
})

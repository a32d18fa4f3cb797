import { writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { describe, expect, test } from 'vitest'
import { EnvironmentError, readTogether } from '../../src/environment.js'
import { freshFolder } from '../support/cleanup.js'
import { loadWorkflows } from '../../worker/load-workflows.js'
import { readAllInOneSettings, readRelaySettings, readWorkerSettings } from '../../worker/settings.js'

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

test('a workflows file that is not there is told with every other fault', () => {
	const faults = faultsOf(() =>
		readWorkerSettings({ ...urls, WORKFLOWS: './nowhere.ts', LEASE_MS: 'soon' }),
	)
	expect(faults).toEqual([
		expect.stringMatching(/^WORKFLOWS names \/.*nowhere\.ts, which does not exist$/),
		expect.stringMatching(/^LEASE_MS /),
	])
	expect(readWorkerSettings({ ...urls, WORKFLOWS: './LICENSE' }).WORKFLOWS).toBe(resolve('LICENSE'))
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
	await expect(loadWorkflows(resolve('LICENSE'))).rejects.toThrow(
		/WORKFLOWS cannot be loaded from \/.*LICENSE: /,
	)
	await expect(loadWorkflows(resolve('src/loop.ts'))).rejects.toThrow(/exports no 'blueprints'/)
	expect(Object.keys((await loadWorkflows(undefined)).blueprints ?? {})).toContain('content-moderation')
})

describe('a workflows module', () => {
	/** What is said of a module with this source. */
	async function faultsIn(source: string, name = 'mine.mjs'): Promise<readonly string[]> {
		const file = join(freshFolder('workflows'), name)
		writeFileSync(file, source)
		try {
			await loadWorkflows(file)
		} catch (error) {
			if (error instanceof EnvironmentError)
				return error.faults.map((fault) => fault.replaceAll(file, 'FILE'))
			throw error
		}
		return []
	}
	const node = `{ id: 'n', uses: 'wait' }`

	test.each([
		[
			`{ c: { id: 'c', nodes: [${node}], edges: [{ source: 'n', target: 'zz' }] }, good: { nodes: [${node}], edges: [] } }`,
			[`WORKFLOWS names FILE: blueprint 'c': /edges/0/target there is no node 'zz'`],
		],
		[
			`{ a: 5, b: { nodes: 5 } }`,
			[
				`WORKFLOWS names FILE: blueprint 'a': is neither a blueprint nor a createFlow builder, but number`,
				expect.stringMatching(/^WORKFLOWS names FILE: blueprint 'b': /),
			],
		],
		[
			`{ other: { id: 'c', nodes: [${node}], edges: [] } }`,
			[`WORKFLOWS names FILE: blueprint 'other': has the id 'c'; export it under its id`],
		],
		['5', [`WORKFLOWS names FILE: its 'blueprints' must be an object with each blueprint under its id`]],
		[`{ c: { nodes: [${node}], edges: [] } }`, []],
	])('is refused for what its blueprints have wrong, by their names: %s', async (blueprints, faults) => {
		expect(await faultsIn(`export const blueprints = ${blueprints}`)).toEqual(faults)
	})

	test('is refused for a registry that holds no implementation', async () => {
		expect(await faultsIn(`export const blueprints = {}; export const registry = { x: 5 }`)).toEqual([
			`WORKFLOWS names FILE: The registry's 'x' is neither a function nor a class.`,
		])
	})

	test('that throws is told with the place', async () => {
		expect(await faultsIn(`\nfunction f() {\n\tthrow new Error('No luck')\n}\nf()`)).toEqual([
			'WORKFLOWS cannot be loaded from FILE: No luck\n    at FILE:3:8',
		])
	})
})

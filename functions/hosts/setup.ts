/** What every host needs, whatever calls it: an app as the environment says, its log, and its way to Postgres. */
import { createDatabase, type Database, type DatabaseOptions } from '../../src/db/client.js'
import { createRenewingPool } from '../../src/db/renewing-pool.js'
import type { Environment } from '../../src/environment.js'
import type { Logger } from '../../src/ports/logger.js'
import { createRedactor, secretsOf } from '../../src/redaction.js'
import { createApp } from '../app.js'
import { type AppConfig, readHostConfig } from '../config.js'
import type { App } from '../endpoint.js'
import { createJsonLogger } from '../logger.js'

/**
 * The log goes to the console, without secrets: that is where hosts collect it.
 * @param fields of the process, where the host has processes
 */
export const hostLogger = (
	config: AppConfig,
	env: Environment,
	fields?: Readonly<Record<string, unknown>>,
): Logger =>
	createJsonLogger(
		'functions',
		config.logLevel,
		(line) => console.log(line),
		createRedactor({ keys: config.redactKeys, secrets: secretsOf(env) }),
		fields,
	)

/** How connections to `DATABASE_URL` are made. */
export function connectionOptions(config: AppConfig): DatabaseOptions {
	return {
		max: config.databasePoolSize,
		applicationName: 'flowcraft-functions',
		// Nobody waits longer for it.
		connectTimeoutMs: config.databaseDeadlineMs,
		// Poolers in transaction mode know neither statements by name nor settings that come with a connection.
		...(config.databasePrepare ? {} : { prepare: false, statementTimeoutMs: 0 }),
	}
}

/**
 * A pool that lives as long as its process.
 * @param maxRestMs after so long without a statement, its connections are opened anew. Default: never
 */
export const openPool = (config: AppConfig, maxRestMs?: number): Database =>
	createRenewingPool(() => createDatabase(config.databaseUrl, connectionOptions(config)), maxRestMs)

/** Opening a connection costs little beside a rest of this length; gateways forget idle ones after minutes. */
const MAX_REST_MS = 10_000

/**
 * The app for hosts that call a function in a process which they keep, and freeze between requests.
 *
 * @param poolSize connections at most, unless the environment says otherwise
 * @throws EnvironmentError
 */
export function createFrozenHostApp(env: Environment, poolSize: number): App {
	const config = readHostConfig(env, poolSize)
	return createApp({ ...config, db: openPool(config, MAX_REST_MS), logger: hostLogger(config, env) })
}

/**
 * Real servers for tests, found or started and always cleaned up.
 *
 * Shared ones are `freshDatabase()`, `rabbitMq()` and `redis()`; what a test needs for itself is a database or a
 * queue name of its own on them. Servers to be killed are private ones: `startPostgres()`, `startRabbitMq()`,
 * `startRedis()`.
 */
import { randomBytes } from 'node:crypto'
import { atDesk } from './desk.js'
import { asAdmin, createSuite, type SharedServer, type Suite, withDatabase } from './suite.js'

export { freshFolder } from '../cleanup.js'
export { startPostgres } from './postgres.js'
export { startRabbitMq } from './rabbitmq.js'
export { startRedis } from './redis.js'
export type { PrivateServer } from './server.js'

export interface FreshDatabase {
	readonly url: string
	/** Also under live connections. */
	drop(): Promise<void>
}

export interface FreshDatabaseOptions {
	/** False: an empty database, without our migrations. Default true. */
	readonly migrated?: boolean
}

/** A database of one's own on the shared Postgres. */
export async function freshDatabase(options: FreshDatabaseOptions = {}): Promise<FreshDatabase> {
	const { url, template, prefix } = await (await shared()).postgres()
	const name = `${prefix}${randomBytes(6).toString('hex')}`
	const from = options.migrated === false ? 'template0' : template
	await asAdmin(url, (sql) => sql.unsafe(`create database ${name} template ${from}`))
	return {
		url: withDatabase(url, name),
		drop: () =>
			asAdmin(
				url,
				async (sql) => void (await sql.unsafe(`drop database if exists ${name} with (force)`)),
			),
	}
}

/** The shared RabbitMQ. Booting it takes seconds; it is started before the first file that mentions this function. */
export async function rabbitMq(): Promise<SharedServer> {
	return (await shared()).rabbitMq()
}

/** The shared Redis. */
export async function redis(): Promise<SharedServer> {
	return (await shared()).redis()
}

/** For queues, exchanges and Redis keys that no other test uses. */
export function freshQueueName(): string {
	return `test-${randomBytes(6).toString('hex')}`
}

/** For programs that are not run by vitest: ends the servers that the functions above have started. @public */
export async function stopServices(): Promise<void> {
	await own?.close()
}

let own: Suite | undefined

/** In a test file the suite of vitest's main process; in any other program one in this process. */
async function shared(): Promise<Pick<Suite, 'postgres' | 'rabbitMq' | 'redis'>> {
	if (process.env['VITEST'] === undefined) return (own ??= createSuite())
	const { inject } = await import('vitest')
	return atDesk(inject('servicesUrl'))
}

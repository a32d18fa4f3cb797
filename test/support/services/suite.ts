/**
 * The servers that all test files share. Each is started when it is first asked for and once: a run of unit tests
 * starts none, a run without broker tests boots no broker.
 *
 * A server of one's own is named by TEST_DATABASE_URL, TEST_RABBITMQ_URL or TEST_REDIS_URL. The variables of the
 * application (DATABASE_URL and so on) are deliberately not looked at: the tests create and drop databases, declare
 * queues and flush, and whoever has a production URL in the shell must be able to type `npm test`.
 */
import { randomBytes } from 'node:crypto'
import { connect } from 'node:net'
import postgres, { type Sql } from 'postgres'
import { migrate } from '../../../worker/db/migrate.js'
import { installChangedSources } from '../changed-sources.js'
import { startPostgres } from './postgres.js'
import { startRabbitMq } from './rabbitmq.js'
import { startRedis } from './redis.js'
import type { PrivateServer } from './server.js'

export interface SharedPostgres {
	/** Of a role that may create databases. */
	readonly url: string
	/** A database with all migrations applied, and `src/db/sql` as it stands. Nobody is connected to it, so that it can be cloned at any time. */
	readonly template: string
	/** The names of this suite's databases start with it. */
	readonly prefix: string
}

export interface SharedServer {
	readonly url: string
}

export interface Suite {
	postgres(): Promise<SharedPostgres>
	rabbitMq(): Promise<SharedServer>
	redis(): Promise<SharedServer>
	/** The next `postgres()` applies the migrations anew: they may have changed since. */
	forgetTemplate(): void
	/** Ends what this suite has started. */
	close(): Promise<void>
}

const DATABASE_PREFIX = 'flowcraft_test_'
/** Databases that a killed run left on a server of one's own are dropped by a later one. */
const ABANDONED_MS = 24 * 3_600_000

export function createSuite(): Suite {
	const started: PrivateServer[] = []
	const start = async (
		variable: string,
		startPrivate: () => Promise<PrivateServer>,
	): Promise<SharedServer> => {
		const given = process.env[variable]
		if (given !== undefined && given !== '') {
			await checkGiven(variable, given)
			return { url: given }
		}
		const server = await startPrivate()
		started.push(server)
		return { url: server.url }
	}
	const postgresServer = once(() => start('TEST_DATABASE_URL', startPostgres))
	const rabbitMq = once(() => start('TEST_RABBITMQ_URL', startRabbitMq))
	const redis = once(() => start('TEST_REDIS_URL', startRedis))
	const prefix = `${DATABASE_PREFIX}${Date.now().toString(36)}_${randomBytes(2).toString('hex')}_`
	const makeTemplate = (): (() => Promise<string>) =>
		once(async () => {
			const { url } = await postgresServer()
			const name = `${prefix}template_${randomBytes(2).toString('hex')}`
			await asAdmin(url, async (sql) => {
				await dropAbandoned(sql)
				await sql.unsafe(`create database ${name}`)
				await migrate(withDatabase(url, name))
				await asAdmin(withDatabase(url, name), installChangedSources)
				await sql.unsafe(`alter database ${name} with allow_connections false`)
			})
			return name
		})
	let template = makeTemplate()
	/** Of a server that we leave running, without our databases. */
	let givenDatabaseUrl: string | undefined

	return {
		async postgres() {
			const { url } = await postgresServer()
			if (url === process.env['TEST_DATABASE_URL']) givenDatabaseUrl = url
			return { url, template: await template(), prefix }
		},
		rabbitMq,
		redis,
		forgetTemplate() {
			template = makeTemplate()
		},
		async close() {
			if (givenDatabaseUrl !== undefined) await asAdmin(givenDatabaseUrl, (sql) => dropAll(sql, prefix))
			await Promise.all(started.map((server) => server.remove()))
		},
	}
}

/** The same database server, another database. */
export function withDatabase(url: string, name: string): string {
	const changed = new URL(url)
	changed.pathname = `/${name}`
	return changed.href
}

export async function asAdmin<T>(url: string, work: (sql: Sql) => Promise<T>): Promise<T> {
	const sql = postgres(url, {
		max: 1,
		onnotice: () => {},
		connection: { application_name: 'flowcraft-test' },
	})
	try {
		return await work(sql)
	} finally {
		await sql.end({ timeout: 5 })
	}
}

/** Also of what failed: what cannot be started now cannot be started a second later. */
function once<T>(work: () => Promise<T>): () => Promise<T> {
	let result: Promise<T> | undefined
	return () => (result ??= work())
}

async function dropAll(sql: Sql, prefix: string): Promise<void> {
	for (const name of await ours(sql, prefix))
		await sql.unsafe(`drop database if exists ${name} with (force)`)
}

async function dropAbandoned(sql: Sql): Promise<void> {
	for (const name of await ours(sql, DATABASE_PREFIX)) {
		const createdAt = Number.parseInt(name.slice(DATABASE_PREFIX.length), 36)
		if (Date.now() - createdAt > ABANDONED_MS)
			await sql.unsafe(`drop database if exists ${name} with (force)`)
	}
}

/** Those that this role may drop. */
async function ours(sql: Sql, prefix: string): Promise<string[]> {
	const found = await sql<{ name: string }[]>`
		select datname as name from pg_database
		where starts_with(datname, ${prefix}) and pg_has_role(datdba, 'usage')`
	return found.map(({ name }) => name)
}

const DEFAULT_PORTS: Readonly<Record<string, number>> = {
	TEST_DATABASE_URL: 5432,
	TEST_RABBITMQ_URL: 5672,
	TEST_REDIS_URL: 6379,
}

async function checkGiven(variable: string, given: string): Promise<void> {
	if (!URL.canParse(given)) throw new Error(`${variable} is not a URL`)
	const { hostname, port } = new URL(given)
	const address = {
		host: hostname.replace(/^\[|\]$/g, ''),
		port: Number(port) || (DEFAULT_PORTS[variable] ?? 0),
		timeout: 10_000,
	}
	await new Promise<void>((resolve, reject) => {
		const socket = connect(address)
		const end = (problem?: string): void => {
			socket.destroy()
			if (problem === undefined) resolve()
			else
				reject(
					new Error(
						`${variable} names ${address.host}:${address.port}, which does not answer: ${problem}`,
					),
				)
		}
		socket.once('connect', () => end())
		socket.once('timeout', () => end('timed out'))
		socket.once('error', (error: NodeJS.ErrnoException) => end(error.code ?? error.message))
	})
}

/**
 * The servers of a benchmark: private ones, as durable as in production. `fsync`, `synchronous_commit` and
 * `full_page_writes` are on, quorum queues sync by nature; only the Redis that BullMQ gets keeps nothing, as the
 * comparison says. Every system gets its own empty database on the same Postgres.
 */
import { Redis } from 'ioredis'
import { randomBytes } from 'node:crypto'
import { readlink } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { migrate } from '../../worker/db/migrate.js'
import { firstProgram, onPath } from '../support/services/find.js'
import { type PrivateServer, startPostgres, startRabbitMq, startRedis } from '../support/services/index.js'
import { installChangedSources } from '../support/changed-sources.js'
import { asAdmin, withDatabase } from '../support/services/suite.js'

const SETTINGS = {
	fsync: 'on',
	synchronous_commit: 'on',
	full_page_writes: 'on',
	wal_level: 'replica',
	shared_buffers: '512MB',
	// So that checkpoints come by time and not in the middle of a short measurement.
	max_wal_size: '4GB',
	checkpoint_timeout: '15min',
	max_connections: 300,
	autovacuum: 'on',
	'pg_stat_statements.max': 10_000,
	'pg_stat_statements.track': 'top',
}

/** Where the time inside our functions goes: their statements one by one, those that take 5 ms with their plans. */
const PROFILE_SETTINGS = {
	'pg_stat_statements.track': 'all',
	'auto_explain.log_min_duration': '5ms',
	'auto_explain.log_nested_statements': 'on',
	'auto_explain.log_analyze': 'on',
	'auto_explain.log_buffers': 'on',
	'auto_explain.log_timing': 'off',
	logging_collector: 'on',
	log_filename: 'postgres.log',
	log_file_mode: '0644',
}

const template = 'bench_template'

export interface LabDatabase {
	readonly url: string
	drop(): Promise<void>
}

export interface Lab {
	readonly postgres: PrivateServer
	readonly rabbitMq: PrivateServer
	readonly redis: PrivateServer
	/** The program beside the Postgres that runs, or on the PATH. */
	readonly pgbench: string | undefined
	/** With our migrations, or empty. */
	createDatabase(options?: { readonly migrated?: boolean }): Promise<LabDatabase>
	close(): Promise<void>
}

export async function openLab(options: { readonly profileFolder: string | undefined }): Promise<Lab> {
	const { profileFolder } = options
	const [postgres, rabbitMq, redis] = await Promise.all([
		startPostgres({
			settings: {
				...SETTINGS,
				...(profileFolder === undefined ? {} : { ...PROFILE_SETTINGS, log_directory: profileFolder }),
			},
		}),
		startRabbitMq(),
		startRedis(),
	])
	await keepNothing(redis.url)
	await countStatements(postgres, profileFolder !== undefined)
	await asAdmin(postgres.url, (sql) => sql.unsafe(`create database ${template}`))
	await migrate(withDatabase(postgres.url, template))
	// So that a change of a function can be measured before it has become a migration.
	await asAdmin(withDatabase(postgres.url, template), installChangedSources)
	return {
		postgres,
		rabbitMq,
		redis,
		pgbench: await findPgbench(postgres.pid),
		async createDatabase({ migrated = true } = {}) {
			const name = `bench_${randomBytes(4).toString('hex')}`
			await asAdmin(postgres.url, (sql) =>
				sql.unsafe(`create database ${name} template ${migrated ? template : 'template0'}`),
			)
			return {
				url: withDatabase(postgres.url, name),
				drop: () =>
					asAdmin(
						postgres.url,
						async (sql) =>
							void (await sql.unsafe(`drop database if exists ${name} with (force)`)),
					),
			}
		},
		async close() {
			await Promise.all([postgres.remove(), rabbitMq.remove(), redis.remove()])
		},
	}
}

/** pg_stat_statements, and auto_explain for a profile, where this Postgres has them: not all that are installed do. */
async function countStatements(postgres: PrivateServer, isProfile: boolean): Promise<void> {
	const available = await asAdmin(postgres.url, async (sql) => {
		const found = await sql`select from pg_available_extensions where name = 'pg_stat_statements'`
		return found.length > 0
	})
	if (!available) return
	await asAdmin(postgres.url, (sql) =>
		sql.unsafe(
			`alter system set shared_preload_libraries = pg_stat_statements${isProfile ? ', auto_explain' : ''}`,
		),
	)
	await postgres.restart()
	await asAdmin(postgres.url, (sql) => sql.unsafe('create extension pg_stat_statements'))
}

async function keepNothing(url: string): Promise<void> {
	const client = new Redis(url)
	client.on('error', () => {})
	try {
		await client.config('SET', 'save', '')
		await client.config('SET', 'appendonly', 'no')
	} finally {
		client.disconnect()
	}
}

async function findPgbench(postgresPid: number): Promise<string | undefined> {
	const program = await readlink(`/proc/${postgresPid}/exe`).catch(() => undefined)
	return firstProgram([
		...(program === undefined ? [] : [join(dirname(program), 'pgbench')]),
		...onPath('pgbench'),
	])
}

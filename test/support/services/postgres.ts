import type { ChildProcess } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { chown, mkdir, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import postgres from 'postgres'
import { createCluster, freePort, launch, openCluster, shutDown } from '../../../worker/embedded/cluster.js'
import { embeddedPrograms, type PostgresPrograms } from '../../../worker/embedded/programs.js'
import { forgetProcess, freshFolder, reapProcess } from '../cleanup.js'
import { startContainer } from './docker.js'
import { findServer, firstProgram, onPath, versions } from './find.js'
import { type PrivateServer, SIGNALS_THAT_END } from './server.js'

export interface StartPostgresOptions {
	readonly dataDir?: string
	readonly port?: number
	/** Over the tests' own settings, for example `{ fsync: 'off' }`. */
	readonly settings?: Readonly<Record<string, string | number>>
}

/** As in production where it matters (fsync is on), and room for many test processes. */
const SETTINGS = { max_connections: 200, shared_buffers: '128MB', max_wal_size: '512MB', timezone: 'UTC' }

/** Recovery after a kill included. */
const READY_DEADLINE_MS = 60_000

/**
 * A Postgres whose superuser `postgres` needs no password; the URL names the database `postgres`.
 * `kill` hits the server's first process; the others notice and follow within milliseconds.
 */
export async function startPostgres(options: StartPostgresOptions = {}): Promise<PrivateServer> {
	const found = await findServer({
		name: 'Postgres',
		variable: 'TEST_DATABASE_URL',
		find: findPrograms,
		aptPackage: 'postgresql',
	})
	const settings = { ...SETTINGS, ...options.settings }
	if (found.kind === 'docker') {
		return startContainer({
			image: 'postgres',
			containerPort: 5432,
			env: { POSTGRES_HOST_AUTH_METHOD: 'trust' },
			args: Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
			url: urlOf,
			ask,
			...(options.port === undefined ? {} : { port: options.port }),
		})
	}

	const folder = options.dataDir ?? freshFolder('postgres')
	await mkdir(folder, { recursive: true, mode: 0o711 })
	const cluster = await openCluster(found.programs, folder, join(folder, 'data'))
	const { owner } = cluster.identity
	await mkdir(cluster.dataDir, { recursive: true, mode: 0o700 })
	if ((await readdir(cluster.dataDir)).length === 0) {
		if (owner !== undefined) await chown(cluster.dataDir, owner.uid, owner.gid)
		await createCluster(cluster, { sync: false })
	}
	const port = options.port ?? (await freePort())
	const url = urlOf(port)
	let server: { pid: number; child: ChildProcess; gone: Promise<void> } | undefined

	const start = async (): Promise<void> => {
		const deadline = Date.now() + READY_DEADLINE_MS
		for (; ; await delay(20)) {
			const launched = await launch(cluster, {
				port,
				settings,
				deadlineMs: READY_DEADLINE_MS,
				// To quit at once and in order: SIGKILL would leave its shared memory behind.
				onSpawn: (pid) => reapProcess(pid, 'SIGQUIT'),
			})
			if (launched.status === 'ready') {
				const { pid, child } = launched
				const gone = new Promise<void>((resolve) => {
					if (child.exitCode !== null || child.signalCode !== null) resolve()
					else child.once('exit', () => resolve())
				}).then(() => forgetProcess(pid))
				server = { pid, child, gone }
				return
			}
			// What a killed server leaves behind lets go after a moment.
			if (Date.now() > deadline)
				throw new Error(`Postgres cannot start: ${launched.status}. Its log:\n${log()}`)
		}
	}
	const isRunning = (): boolean =>
		server !== undefined && server.child.exitCode === null && server.child.signalCode === null
	/** Whoever waits for its end is not to end before it, which an unreferenced child would let happen. */
	const gone = async (): Promise<void> => {
		server?.child.ref()
		await server?.gone
	}
	const stop = async (): Promise<void> => {
		if (server === undefined || !isRunning()) return
		await shutDown(server.pid, 30_000)
		await gone()
	}
	const log = (): string => readFileSync(cluster.logFile, 'utf8').split('\n').slice(-60).join('\n')
	await start()

	return {
		url,
		port,
		get pid() {
			return isRunning() ? (server?.pid ?? 0) : 0
		},
		async kill(signal = 'SIGKILL') {
			if (server === undefined || !isRunning()) return
			process.kill(server.pid, signal)
			if (SIGNALS_THAT_END.includes(signal)) await gone()
		},
		stop,
		async restart() {
			await stop()
			await start()
		},
		async remove() {
			if (server !== undefined && isRunning()) {
				process.kill(server.pid, 'SIGQUIT')
				process.kill(server.pid, 'SIGCONT')
				await gone()
			}
			if (options.dataDir === undefined)
				await rm(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 })
		},
		log,
	}
}

const urlOf = (port: number): string => `postgres://postgres@127.0.0.1:${port}/postgres`

async function ask(url: string): Promise<void> {
	const client = postgres(url, { max: 1, connect_timeout: 2, onnotice: () => {} })
	try {
		await client`select 1`
	} finally {
		await client.end({ timeout: 1 })
	}
}

/** Installed servers first, the newest of them: npm's programs always run, so these are what would go untested. */
async function findPrograms(): Promise<PostgresPrograms | undefined> {
	const folders = [
		...(await versions('/usr/lib/postgresql', /^\d+$/)),
		...(await versions('/usr', /^pgsql-\d+$/)),
	]
	const postgresProgram = await firstProgram([
		...folders.map((folder) => join(folder, 'bin/postgres')),
		...onPath('postgres'),
	])
	if (postgresProgram === undefined) return embeddedPrograms()
	return { postgres: postgresProgram, initdb: join(postgresProgram, '../initdb') }
}

/**
 * The Postgres of `npm start` on a machine that has none: the real server, its data kept in a folder.
 *
 * - Everything that was committed survives any death of Node or of the server (fsync is on).
 * - Only one Node process uses a folder at a time. Who does is decided by Postgres itself: the owner holds an
 *   advisory lock, which ends with its session, so that nothing stale can be left behind.
 * - If Node dies, its server goes on as an orphan. The next start finds it, owns it, stops it and starts its own.
 * - If the server dies, it is started again on the same port.
 *
 * In the folder: `postgres/` (the data), `postgres-password`, `postgres.log`.
 */
import type { ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
	chmod,
	chown,
	link,
	mkdir,
	mkdtemp,
	readFile,
	readdir,
	realpath,
	rename,
	rm,
	stat,
	truncate,
	writeFile,
} from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import postgres, { type Sql } from 'postgres'
import { runLoop } from '../../src/loop.js'
import type { Logger } from '../../src/ports/logger.js'
import {
	type Cluster,
	createCluster,
	freePort,
	giveTo,
	isAlive,
	isFree,
	lastPort,
	launch,
	openCluster,
	readPostmaster,
	runsOn,
	shutDown,
} from './cluster.js'
import { embeddedPrograms } from './programs.js'

export interface EmbeddedPostgresOptions {
	/** Created if it does not exist. */
	readonly dataDir: string
	readonly log: Logger
}

export interface EmbeddedPostgres {
	/** Of the database `flowcraft`, user and password included. The port stays the same over restarts if it can. */
	readonly url: string
	/** Shuts the server down and resolves when everything is on disk. Idempotent. */
	stop(): Promise<void>
}

/** Its message is one sentence for whoever typed `npm start`. */
export class EmbeddedPostgresError extends Error {
	override readonly name = 'EmbeddedPostgresError'
}

const DATABASE = 'flowcraft'
/** Any constant; the lock is taken in the database `postgres`, where nobody else takes any. */
const OWNER_LOCK = 356_927_239
/** Whoever was just killed has lost its lock by then. */
const OWNER_PATIENCE_MS = 1_000
/** Recovery after a crash, or another process that is just starting or stopping. */
const START_DEADLINE_MS = 60_000
const WATCH_MS = 500
const LOG_LIMIT_BYTES = 5_000_000
/** No `initdb` takes so long: its folder was left behind. */
const ABANDONED_MS = 10 * 60_000

/** A modest server: about 100 MB when idle. What protects data is left as it is. */
const SETTINGS = {
	max_connections: 100,
	shared_buffers: '64MB',
	max_wal_size: '256MB',
	min_wal_size: '32MB',
	// No replicas of this one.
	wal_level: 'minimal',
	max_wal_senders: 0,
	max_worker_processes: 4,
	// Costs more than it saves on short statements.
	jit: 'off',
	timezone: 'UTC',
	log_min_messages: 'warning',
}

/**
 * Starts a server on the folder, or on a new one.
 *
 * @throws EmbeddedPostgresError if the programs are not installed, another process uses the folder, or the server
 * does not start.
 */
export async function startEmbeddedPostgres({
	dataDir,
	log,
}: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
	const home = await prepareFolder(dataDir)
	const cluster = await open(home)
	const password = await readOrMakePassword(home)
	await createIfMissing(cluster, home, password)
	await checkVersion(cluster, home)

	const server = new Server(cluster, home, password, log)
	await server.start()
	return { url: server.url(DATABASE), stop: () => server.stop() }
}

class Server {
	readonly #cluster: Cluster
	readonly #home: string
	readonly #password: string
	readonly #log: Logger
	#port = 0
	#child: ChildProcess | undefined
	/** The session that holds the owner's lock, while it does. */
	#owner: Sql | undefined
	#stopped: Promise<void> | undefined
	#watch: ReturnType<typeof runLoop> | undefined

	constructor(cluster: Cluster, home: string, password: string, log: Logger) {
		this.#cluster = cluster
		this.#home = home
		this.#password = password
		this.#log = log
	}

	url(database: string, port = this.#port): string {
		return `postgres://postgres:${this.#password}@127.0.0.1:${port}/${database}`
	}

	async start(): Promise<void> {
		this.#port = (await lastPort(this.#cluster.dataDir)) ?? (await freePort())
		try {
			await this.#run({ mayMove: true })
		} catch (error) {
			await this.stop()
			throw error
		}
		process.once('exit', this.#onExit)
		this.#watch = runLoop({
			tick: () => this.#watchOnce(),
			minIdleMs: WATCH_MS,
			maxIdleMs: WATCH_MS,
			onError: (error, failuresInARow) =>
				this.#log.error('embedded Postgres does not come back', { error, failuresInARow }),
		})
		this.#log.info('embedded Postgres is ready', {
			port: this.#port,
			dataDir: this.#home,
			postgresPid: this.#child?.pid,
		})
	}

	stop(): Promise<void> {
		this.#stopped ??= (async () => {
			await this.#watch?.stop()
			process.off('exit', this.#onExit)
			const pid = this.#child?.pid
			if (pid !== undefined && this.#isRunning()) await shutDown(pid)
			await this.#owner?.end({ timeout: 0 })
		})()
		return this.#stopped
	}

	/** Without `stop`, as after an uncaught error, at least tell the server to shut down. */
	readonly #onExit = (): void => {
		if (this.#isRunning()) this.#child?.kill('SIGINT')
	}

	#isRunning(): boolean {
		return this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null
	}

	async #watchOnce(): Promise<number> {
		if (!this.#isRunning()) {
			this.#log.warn('embedded Postgres ended by itself, starting it again', {
				port: this.#port,
				logFile: this.#cluster.logFile,
			})
			await this.#run({ mayMove: false })
		} else if (this.#owner === undefined) {
			await this.#takeOwnership()
		}
		return 0
	}

	/** Brings our own server up on the folder, out of whatever state the folder is in. */
	async #run({ mayMove }: { mayMove: boolean }): Promise<void> {
		const { dataDir } = this.#cluster
		const deadline = Date.now() + START_DEADLINE_MS
		for (; ; await delay(50)) {
			const other = await readPostmaster(dataDir)
			const held = other !== undefined && (await runsOn(dataDir, other.pid))
			if (held && Date.now() > deadline) {
				throw new EmbeddedPostgresError(
					`A Postgres server that does not answer (process ${other.pid}) holds ${dataDir}; stop it and start again.`,
				)
			}
			if (held && !(other.ready && (await this.#stopOrphan(other.pid, other.port)))) continue
			// The number now belongs to a stranger, and Postgres, who only asks whether it is in use, would not start.
			// If there were a server after all, its shared memory would still keep a second one out.
			if (!held && other !== undefined && isAlive(other.pid))
				await rm(join(dataDir, 'postmaster.pid'), { force: true })
			if (mayMove && !(await isFree(this.#port))) this.#port = await freePort()

			const launched = await this.#launch(Math.max(deadline - Date.now(), 1_000))
			if (launched.status === 'ready') {
				this.#child = launched.child
				await this.#takeOwnership()
				return
			}
			if (Date.now() > deadline) {
				throw new EmbeddedPostgresError(
					launched.status === 'port in use'
						? `Port ${this.#port}, which the Postgres in ${this.#home} used before, is taken by another program.`
						: `What is left of a Postgres server that was killed holds ${dataDir}; end its processes and start again.`,
				)
			}
		}
	}

	async #launch(deadlineMs: number): ReturnType<typeof launch> {
		const { logFile } = this.#cluster
		const size = await stat(logFile).then(
			(found) => found.size,
			() => 0,
		)
		if (size > LOG_LIMIT_BYTES) await truncate(logFile)
		try {
			return await launch(this.#cluster, { port: this.#port, settings: SETTINGS, deadlineMs })
		} catch (error) {
			throw new EmbeddedPostgresError(
				`The Postgres in ${this.#home} did not start (its log is ${logFile}): ${messageOf(error)}\nSet DATABASE_URL to use another one.`,
			)
		}
	}

	/** False if it does not answer: it may be starting, or stopping. */
	async #stopOrphan(pid: number, port: number): Promise<boolean> {
		const session = await this.#tryToOwn(port)
		if (session === 'not answering') return false
		if (session === 'taken') throw this.#inUse()
		this.#log.warn('stopping the embedded Postgres that an earlier process left behind', {
			postgresPid: pid,
			port,
		})
		await shutDown(pid)
		await session.end({ timeout: 0 })
		return true
	}

	/** Makes this process the owner of the server that it has just started, and the database, if it is missing. */
	async #takeOwnership(): Promise<void> {
		const session = await this.#tryToOwn(this.#port)
		if (session === 'taken') {
			// Another process that started at the same moment took our server for an orphan; it will stop it.
			this.#child = undefined
			throw this.#inUse()
		}
		if (session === 'not answering')
			throw new EmbeddedPostgresError(`The Postgres in ${this.#home} started but does not answer.`)
		this.#owner = session
		const [found] = await session`select from pg_database where datname = ${DATABASE}`
		if (found === undefined) await session.unsafe(`create database ${DATABASE}`)
	}

	/** A session that holds the owner's lock of the server on this port. */
	async #tryToOwn(port: number): Promise<Sql | 'taken' | 'not answering'> {
		const session: Sql = postgres(this.url('postgres', port), {
			max: 1,
			fetch_types: false,
			idle_timeout: 0,
			// The default ends the session, and with it the lock, after less than an hour and a half.
			max_lifetime: null,
			connect_timeout: 5,
			onnotice: () => {},
			onclose: () => {
				if (this.#owner !== session) return
				this.#owner = undefined
				void session.end({ timeout: 0 })
			},
			connection: { application_name: 'flowcraft-owner' },
		})
		const deadline = Date.now() + OWNER_PATIENCE_MS
		try {
			for (;;) {
				const [row] = await session<
					{ owned: boolean }[]
				>`select pg_try_advisory_lock(${OWNER_LOCK}) as owned`
				if (row?.owned === true) return session
				if (Date.now() > deadline) break
				await delay(50)
			}
		} catch (error) {
			await session.end({ timeout: 0 })
			if ((error as { code?: string }).code !== '28P01') return 'not answering'
			throw new EmbeddedPostgresError(
				`The password in ${join(this.#home, 'postgres-password')} is not the one of the data beside it; restore the file, or delete the whole folder to start anew.`,
			)
		}
		await session.end({ timeout: 0 })
		return 'taken'
	}

	#inUse(): EmbeddedPostgresError {
		return new EmbeddedPostgresError(
			`Another process is using ${this.#home}; stop it first, set DATA_DIR to another folder, or set DATABASE_URL.`,
		)
	}
}

/** The folder's real path. Closed to others, except that the server, who may be another user, can pass through it. */
async function prepareFolder(dataDir: string): Promise<string> {
	try {
		await makeFolder(resolve(dataDir))
		const home = await realpath(dataDir)
		if (process.getuid?.() === 0) await chmod(home, (await stat(home)).mode | 0o011)
		return home
	} catch (error) {
		throw new EmbeddedPostgresError(
			`The data cannot be kept in ${dataDir}: ${error instanceof Error ? error.message : String(error)}. Set DATA_DIR to another folder.`,
			{ cause: error },
		)
	}
}

/**
 * With those that it lies in. Not by `mkdir` with `recursive`, which never ends where the file system answers ENOENT although
 * the parent is there, as /proc does.
 */
async function makeFolder(path: string): Promise<void> {
	const parent = dirname(path)
	if (parent !== path && !(await isFolder(parent))) await makeFolder(parent)
	await mkdir(path, { mode: 0o700 }).catch(async (error: unknown) => {
		// It is there, or another process was faster.
		if (!(await isFolder(path))) throw error
	})
}

const isFolder = (path: string): Promise<boolean> =>
	stat(path).then(
		(found) => found.isDirectory(),
		() => false,
	)

async function open(home: string): Promise<Cluster> {
	const programs = await embeddedPrograms()
	if (programs === undefined) {
		throw new EmbeddedPostgresError(
			'There is no embedded Postgres in this installation (it comes with the development dependencies, for the usual platforms); set DATABASE_URL.',
		)
	}
	try {
		return await openCluster(programs, home, join(home, 'postgres'))
	} catch (error) {
		throw new EmbeddedPostgresError(
			`The embedded Postgres cannot run here; set DATABASE_URL. ${messageOf(error)}`,
		)
	}
}

/** Written whole or not at all, and by one process only, before the data that it opens. */
async function readOrMakePassword(home: string): Promise<string> {
	const file = join(home, 'postgres-password')
	const existing = await readFile(file, 'utf8').catch(() => undefined)
	if (existing !== undefined) return existing.trim()
	const draft = `${file}.${randomBytes(4).toString('hex')}`
	await writeFile(draft, `${randomBytes(24).toString('hex')}\n`, { mode: 0o600, flush: true })
	// Fails if another process was faster: then its password counts.
	await link(draft, file).catch(() => {})
	await rm(draft)
	return (await readFile(file, 'utf8')).trim()
}

/** The data appears under its name in one step, when it is complete, however many processes try and die trying. */
async function createIfMissing(cluster: Cluster, home: string, password: string): Promise<void> {
	const { dataDir, identity } = cluster
	await removeAbandoned(home)
	if (await exists(join(dataDir, 'PG_VERSION'))) return giveTo(identity, dataDir)

	const draft = await mkdtemp(join(home, 'creating-'))
	try {
		const draftData = join(draft, 'data')
		const passwordFile = join(draft, 'password')
		await mkdir(draftData, { mode: 0o700 })
		await writeFile(passwordFile, `${password}\n`, { mode: 0o600 })
		for (const path of identity.owner === undefined ? [] : [draft, draftData, passwordFile]) {
			await chown(path, identity.owner?.uid ?? 0, identity.owner?.gid ?? 0)
		}
		await createCluster({ ...cluster, dataDir: draftData }, { passwordFile, sync: true })
		await rename(draftData, dataDir).catch(async (error: unknown) => {
			if (!(await exists(join(dataDir, 'PG_VERSION')))) throw error
		})
	} catch (error) {
		throw new EmbeddedPostgresError(
			`The embedded Postgres could not create its data in ${home}; set DATABASE_URL to use another one. ${messageOf(error)}`,
		)
	} finally {
		await rm(draft, { recursive: true, force: true })
	}
}

async function removeAbandoned(home: string): Promise<void> {
	for (const name of await readdir(home)) {
		if (!name.startsWith('creating-')) continue
		const age = await stat(join(home, name)).then(
			(found) => Date.now() - found.mtimeMs,
			() => 0,
		)
		if (age > ABANDONED_MS) await rm(join(home, name), { recursive: true, force: true })
	}
}

async function checkVersion(cluster: Cluster, home: string): Promise<void> {
	const version = (await readFile(join(cluster.dataDir, 'PG_VERSION'), 'utf8')).trim()
	if (version === String(cluster.major)) return
	throw new EmbeddedPostgresError(
		`The data in ${home} were written by Postgres ${version} and this is Postgres ${cluster.major}; delete the folder to start anew, or serve it with its own version and set DATABASE_URL.`,
	)
}

const exists = (path: string): Promise<boolean> =>
	stat(path).then(
		() => true,
		() => false,
	)

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))

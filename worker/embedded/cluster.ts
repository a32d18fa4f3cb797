/**
 * The verbs of one Postgres data folder (a "cluster" in its own words): create it, start a server on it, ask who
 * runs on it, stop that one. Knows nothing of who owns the folder or why; `postgres.ts` does.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { chown, lchown, open, readFile, readlink, readdir, stat } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import type { PostgresPrograms } from './programs.js'
import { findIdentity, type Identity } from './unprivileged.js'

const run = promisify(execFile)

export interface Cluster {
	readonly programs: PostgresPrograms
	readonly identity: Identity
	/** Of the programs. */
	readonly major: number
	/** PGDATA, an absolute path without symbolic links. */
	readonly dataDir: string
	/** Where the server writes its log. */
	readonly logFile: string
}

/** Decides as whom to run. `folder` is an existing one above `dataDir`. */
export async function openCluster(
	programs: PostgresPrograms,
	folder: string,
	dataDir: string,
): Promise<Cluster> {
	const { identity, version } = await findIdentity(programs.postgres, folder)
	const major = Number(/(\d+)/.exec(version)?.[1])
	return { programs, identity, major, dataDir, logFile: join(folder, 'postgres.log') }
}

export interface CreateOptions {
	/** Of the superuser `postgres`. Without one, everybody on this machine may connect. */
	readonly passwordFile?: string
	/** Whether the new files must survive a power cut. Costs about half a second. */
	readonly sync: boolean
}

/** Creates the data folder. `dataDir` exists, is empty and belongs to the identity. */
export async function createCluster(cluster: Cluster, options: CreateOptions): Promise<void> {
	const { programs, identity, major, dataDir } = cluster
	const args = [
		`--pgdata=${dataDir}`,
		'--username=postgres',
		'--encoding=UTF8',
		// The same order of text on every machine, and no dependence on the locales that it has.
		...(major >= 17
			? ['--locale=C', '--locale-provider=builtin', '--builtin-locale=C.UTF-8']
			: ['--locale=C']),
		...(options.passwordFile === undefined
			? ['--auth=trust']
			: ['--auth=scram-sha-256', `--pwfile=${options.passwordFile}`]),
		...(options.sync ? [] : ['--no-sync']),
	]
	const [command, ...rest] = [...identity.prefix, programs.initdb, ...args]
	await run(command ?? programs.initdb, rest, {
		...identity.ids,
		cwd: '/',
		env: environment(),
		timeout: 120_000,
	})
}

/** Makes the identity the owner of everything under `path`, if it is not already. */
export async function giveTo(identity: Identity, path: string): Promise<void> {
	const { owner } = identity
	if (owner === undefined) return
	const { uid, gid } = await stat(path)
	if (uid === owner.uid && gid === owner.gid) return
	for (const entry of await readdir(path, { recursive: true }))
		await lchown(join(path, entry), owner.uid, owner.gid)
	// The folder itself comes last, so that a run that is cut short starts over.
	await chown(path, owner.uid, owner.gid)
}

export interface LaunchOptions {
	readonly port: number
	readonly settings: Readonly<Record<string, string | number>>
	/** Give up after so long, in ms; recovery after a crash takes its time. */
	readonly deadlineMs: number
	/** Told of the process the moment it exists. */
	readonly onSpawn?: (pid: number) => void
}

/** Why a server did not start, as a value where the caller can do something about it. */
export type Launched =
	| { readonly status: 'ready'; readonly child: ChildProcess; readonly pid: number }
	/** Another server, or what is left of one, holds the folder. */
	| { readonly status: 'folder in use' }
	| { readonly status: 'port in use' }

/**
 * Starts a server and waits until it takes connections. It listens on 127.0.0.1 only. It leads a session of its
 * own, so that Ctrl-C in a terminal does not stop it before its clients have finished.
 *
 * @throws with the end of the server's log, if it ends or stays silent.
 */
export async function launch(cluster: Cluster, options: LaunchOptions): Promise<Launched> {
	const { programs, identity, dataDir, logFile } = cluster
	const settings = { listen_addresses: '127.0.0.1', unix_socket_directories: '', ...options.settings }
	const args = ['-D', dataDir, '-p', String(options.port)]
	for (const [name, value] of Object.entries(settings)) args.push('-c', `${name}=${value}`)
	const [command, ...rest] = [...identity.prefix, programs.postgres, ...args]

	// A file and not a pipe: a server that outlives this process goes on writing to it.
	const log = openSync(logFile, 'a', 0o600)
	const logStart = (await stat(logFile)).size
	const child = spawn(command ?? programs.postgres, rest, {
		...identity.ids,
		cwd: '/',
		env: environment(),
		detached: true,
		stdio: ['ignore', log, log],
	})
	closeSync(log)
	child.unref()
	if (child.pid !== undefined) options.onSpawn?.(child.pid)
	let spawnError: Error | undefined
	child.on('error', (error) => {
		spawnError = error
	})

	const deadline = Date.now() + options.deadlineMs
	while (child.exitCode === null && child.signalCode === null && spawnError === undefined) {
		const postmaster = await readPostmaster(dataDir)
		if (child.pid !== undefined && postmaster?.pid === child.pid && postmaster.ready) {
			return { status: 'ready', child, pid: child.pid }
		}
		if (Date.now() > deadline) {
			child.kill('SIGQUIT')
			throw new Error(
				`Postgres was not ready after ${options.deadlineMs} ms.\n${await tail(logFile, logStart)}`,
			)
		}
		await delay(15)
	}
	if (spawnError !== undefined) throw spawnError
	const said = await tail(logFile, logStart)
	if (/lock file "postmaster.pid"|pre-existing shared memory block/.test(said))
		return { status: 'folder in use' }
	if (/could not bind|could not create any TCP\/IP sockets/.test(said)) return { status: 'port in use' }
	throw new Error(
		`Postgres ended while it started (${child.signalCode ?? `exit code ${child.exitCode}`}).\n${said}`,
	)
}

export interface Postmaster {
	readonly pid: number
	readonly port: number
	readonly ready: boolean
}

/** What `postmaster.pid` says. It may be stale: see `runsOn`. */
export async function readPostmaster(dataDir: string): Promise<Postmaster | undefined> {
	const text = await readFile(join(dataDir, 'postmaster.pid'), 'utf8').catch(() => undefined)
	if (text === undefined) return undefined
	// Lines: pid, data folder, start time, port, socket folder, listen address, shared memory, status.
	const lines = text.split('\n')
	const pid = Number(lines[0])
	if (!Number.isInteger(pid) || pid <= 0) return undefined
	return { pid, port: Number(lines[3]), ready: lines[7]?.trim() === 'ready' }
}

/** The port of the last server on this folder, running or not. */
export async function lastPort(dataDir: string): Promise<number | undefined> {
	const options = await readFile(join(dataDir, 'postmaster.opts'), 'utf8').catch(() => '')
	const port = /"-p" "(\d+)"/.exec(options)?.[1]
	return port === undefined ? undefined : Number(port)
}

/** Whether process `pid` lives and is a Postgres server on this folder, not one that got the number later. */
export async function runsOn(dataDir: string, pid: number): Promise<boolean> {
	if (!isAlive(pid)) return false
	try {
		// A server's working directory is its data folder.
		if (process.platform === 'linux') return (await readlink(`/proc/${pid}/cwd`)) === dataDir
		if (process.platform === 'win32') return true
		return (await run('ps', ['-o', 'command=', '-p', String(pid)])).stdout.includes(dataDir)
	} catch {
		return false
	}
}

/** False for a zombie too: in containers whose first process is not an init, orphans stay zombies for ever. */
export function isAlive(pid: number): boolean {
	try {
		process.kill(pid, 0)
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code !== 'EPERM') return false
	}
	try {
		return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
	} catch {
		return process.platform !== 'linux'
	}
}

/**
 * Fast shutdown: connections are closed, everything is written, `pid` has ended when this resolves. After
 * `deadlineMs` it is told to quit at once, which costs the next start a recovery and no data.
 */
export async function shutDown(pid: number, deadlineMs = 20_000): Promise<void> {
	for (const [signal, patienceMs] of [
		['SIGINT', deadlineMs],
		['SIGQUIT', 5_000],
		['SIGKILL', 5_000],
	] as const) {
		try {
			process.kill(pid, signal)
		} catch {
			return
		}
		const deadline = Date.now() + patienceMs
		while (Date.now() < deadline) {
			if (!isAlive(pid)) return
			await delay(15)
		}
	}
}

/** Below the ports that systems give to outgoing connections: nobody takes it while a server restarts. */
export async function freePort(): Promise<number> {
	for (;;) {
		const port = 15_000 + Math.floor(Math.random() * 16_000)
		if (await isFree(port)) return port
	}
}

export function isFree(port: number): Promise<boolean> {
	return new Promise((resolve) => {
		const server = createServer()
		server.once('error', () => resolve(false))
		server.listen({ port, host: '127.0.0.1', exclusive: true }, () => server.close(() => resolve(true)))
	})
}

/** Nothing of the caller's: PG* variables would redirect it, and locales would translate what is read here. */
function environment(): NodeJS.ProcessEnv {
	return {
		PATH: process.env['PATH'],
		TMPDIR: process.env['TMPDIR'],
		SystemRoot: process.env['SystemRoot'],
		LC_ALL: 'C',
		TZ: 'UTC',
	}
}

async function tail(file: string, from: number): Promise<string> {
	const handle = await open(file, 'r')
	try {
		const { size } = await handle.stat()
		const start = Math.max(from, size - 4_000)
		const buffer = Buffer.alloc(size - start)
		await handle.read(buffer, 0, buffer.length, start)
		return buffer.toString('utf8').trim()
	} finally {
		await handle.close()
	}
}

import { Redis } from 'ioredis'
import { freePort } from '../../../worker/embedded/cluster.js'
import { freshFolder } from '../cleanup.js'
import { nameOf, type RunningProcess, spawnProgram } from '../process.js'
import { startContainer } from './docker.js'
import { findServer, firstProgram, onPath } from './find.js'
import { rm } from 'node:fs/promises'
import { answers, type PrivateServer } from './server.js'

export interface StartRedisOptions {
	readonly dataDir?: string
	readonly port?: number
}

const READY_DEADLINE_MS = 20_000

/** A Redis as most people run it: `stop` keeps what was written, `kill` loses it. */
export async function startRedis(options: StartRedisOptions = {}): Promise<PrivateServer> {
	const found = await findServer({
		name: 'Redis',
		variable: 'TEST_REDIS_URL',
		find: () => firstProgram([...onPath('redis-server'), ...onPath('valkey-server')]),
		aptPackage: 'redis-server',
	})
	if (found.kind === 'docker') {
		return startContainer({
			image: 'redis',
			containerPort: 6379,
			url: urlOf,
			ask,
			...(options.port === undefined ? {} : { port: options.port }),
		})
	}

	const port = options.port ?? (await freePort())
	const dataDir = options.dataDir ?? freshFolder('redis')
	const url = urlOf(port)
	let server: RunningProcess | undefined

	const start = async (): Promise<void> => {
		const started = spawnProgram({
			name: 'redis-server',
			command: found.programs,
			args: [
				'--port',
				String(port),
				'--bind',
				'127.0.0.1',
				'--dir',
				dataDir,
				'--save',
				'3600 1',
				'--appendonly',
				'no',
				'--daemonize',
				'no',
			],
			cwd: dataDir,
		})
		server = started
		try {
			await answers(
				() => ask(url),
				READY_DEADLINE_MS,
				() => started.exit !== undefined,
			)
		} catch (error) {
			await started.kill()
			throw new Error(`Redis does not answer (${nameOf(started.exit)}). It said:\n${started.tail()}`, {
				cause: error,
			})
		}
	}
	await start()

	return {
		url,
		port,
		get pid() {
			return server === undefined || server.exit !== undefined ? 0 : server.pid
		},
		kill: async (signal) => server?.kill(signal),
		stop: async () => void (await server?.stop()),
		async restart() {
			await server?.stop()
			await start()
		},
		async remove() {
			await server?.kill()
			if (options.dataDir === undefined) await rm(dataDir, { recursive: true, force: true })
		},
		log: () => server?.tail() ?? '',
	}
}

const urlOf = (port: number): string => `redis://127.0.0.1:${port}`

async function ask(url: string): Promise<void> {
	const client = new Redis(url, { lazyConnect: true, retryStrategy: () => null, connectTimeout: 2_000 })
	client.on('error', () => {})
	try {
		await client.connect()
		await client.ping()
	} finally {
		client.disconnect()
	}
}

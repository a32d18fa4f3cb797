/** A server in a Docker container, on machines that have no programs for it. The container is the data folder. */
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { freePort } from '../../../worker/embedded/cluster.js'
import { forgetContainer, reapContainer } from '../cleanup.js'
import { PROJECT_ROOT } from '../process.js'
import { answers, type PrivateServer, SIGNALS_THAT_END } from './server.js'

const run = promisify(execFile)

/** An image that this machine does not have yet is downloaded first. */
const PULL_DEADLINE_MS = 10 * 60_000
const READY_DEADLINE_MS = 120_000

export interface ContainerOptions {
	/** The image's name in `docker-compose.yml`, which says the version. */
	readonly image: string
	/** The port inside. */
	readonly containerPort: number
	readonly port?: number
	readonly env?: Readonly<Record<string, string>>
	readonly args?: readonly string[]
	readonly url: (port: number) => string
	/** Rejects as long as the server does not answer. */
	readonly ask: (url: string) => Promise<unknown>
}

export interface Container extends PrivateServer {
	/** Runs a program inside and returns what it printed. */
	execute(...command: string[]): Promise<string>
}

export async function startContainer(options: ContainerOptions): Promise<Container> {
	const port = options.port ?? (await freePort())
	const url = options.url(port)
	const name = `flowcraft-outbox-test-${randomBytes(6).toString('hex')}`
	let pid = 0
	let lastLog = ''

	const docker = async (...args: string[]): Promise<string> =>
		(await run('docker', args, { timeout: PULL_DEADLINE_MS })).stdout.trim()
	const readLog = async (): Promise<void> => {
		lastLog = await run('docker', ['logs', '--tail', '60', name]).then(
			({ stdout, stderr }) => stdout + stderr,
			() => lastLog,
		)
	}
	const ready = async (): Promise<void> => {
		try {
			await answers(
				() => options.ask(url),
				READY_DEADLINE_MS,
				() => false,
			)
		} catch (error) {
			await readLog()
			throw new Error(`The container of ${options.image} does not answer. Its log:\n${lastLog}`, {
				cause: error,
			})
		}
		pid = Number(await docker('inspect', '--format', '{{.State.Pid}}', name))
	}

	reapContainer(name)
	const env = Object.entries(options.env ?? {}).flatMap(([key, value]) => ['--env', `${key}=${value}`])
	const publish = `127.0.0.1:${port}:${options.containerPort}`
	// RabbitMQ names its data after the host, so the host keeps its name.
	await docker(
		'run',
		'--detach',
		'--name',
		name,
		'--hostname',
		name,
		'--publish',
		publish,
		...env,
		await imageOf(options.image),
		...(options.args ?? []),
	)
	await ready()

	return {
		url,
		port,
		get pid() {
			return pid
		},
		async kill(signal = 'SIGKILL') {
			await docker('kill', '--signal', signal, name)
			if (!SIGNALS_THAT_END.includes(signal)) return
			await docker('wait', name)
			pid = 0
		},
		async stop() {
			await docker('stop', '-t', '30', name)
			pid = 0
		},
		async restart() {
			await docker('restart', '-t', '30', name)
			await ready()
		},
		async remove() {
			await readLog()
			await docker('rm', '--force', '--volumes', name)
			forgetContainer(name)
			pid = 0
		},
		log: () => lastLog,
		execute: (...command) => docker('exec', name, ...command),
	}
}

/** The same versions as in development. */
async function imageOf(name: string): Promise<string> {
	const compose = await readFile(join(PROJECT_ROOT, 'docker-compose.yml'), 'utf8')
	return new RegExp(`^\\s*image: (${name}:\\S+)`, 'm').exec(compose)?.[1] ?? name
}

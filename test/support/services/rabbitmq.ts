import { connect } from 'amqplib'
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { freePort } from '../../../worker/embedded/cluster.js'
import { freshFolder } from '../cleanup.js'
import { type RunningProcess, spawnProgram } from '../process.js'
import { startContainer } from './docker.js'
import { findServer, firstProgram, onPath, versions } from './find.js'
import { answers, type PrivateServer } from './server.js'

export interface StartRabbitMqOptions {
	readonly dataDir?: string
	readonly port?: number
}

export interface PrivateRabbitMq extends PrivateServer {
	/** Runs `rabbitmqctl` with these arguments and returns what it printed. Takes a second or two of a processor. */
	control(...args: string[]): Promise<string>
}

const run = promisify(execFile)
const CONTROL_DEADLINE_MS = 60_000

/** Measured: 4 s on an idle machine, 17 s on a busy one. */
const READY_DEADLINE_MS = 120_000

/** Memory and disk as on a small machine; the write-ahead log of quorum queues is 512 MB by default. */
const CONFIGURATION = `
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.absolute = 512MB
raft.wal_max_size_bytes = 33554432
`

/**
 * A RabbitMQ without plugins, user `guest`. It takes seconds to boot: most tests should share `rabbitMq()` and
 * cut their connections with a proxy.
 *
 * A kill within half a second of the first declaration of a quorum queue can leave that queue unusable for ever
 * (seen in 3.10.8): let 5 s pass in between.
 */
export async function startRabbitMq(options: StartRabbitMqOptions = {}): Promise<PrivateRabbitMq> {
	const found = await findServer({
		name: 'RabbitMQ',
		variable: 'TEST_RABBITMQ_URL',
		find: findPrograms,
		aptPackage: 'rabbitmq-server',
	})
	if (found.kind === 'docker') {
		const container = await startContainer({
			image: 'rabbitmq',
			containerPort: 5672,
			url: urlOf,
			ask,
			...(options.port === undefined ? {} : { port: options.port }),
		})
		return Object.assign(container, {
			control: (...args: string[]) => container.execute('rabbitmqctl', ...args),
		})
	}

	const { rabbitmqServer, epmd } = found.programs
	const folder = options.dataDir ?? freshFolder('rabbitmq')
	const port = options.port ?? (await freePort())
	const nodePorts = { epmd: await freePort(), distribution: await freePort() }
	const env = await prepareFolder(folder, port, nodePorts)
	const url = urlOf(port)
	let server: RunningProcess | undefined

	// Its own port mapper: otherwise the node would leave a daemon behind, or talk to that of the machine's broker.
	const mapper = spawnProgram({
		name: 'epmd',
		command: epmd,
		args: ['-port', String(nodePorts.epmd), '-address', '127.0.0.1'],
		cwd: folder,
	})
	const start = async (): Promise<void> => {
		const started = spawnProgram({
			name: 'rabbitmq-server',
			command: rabbitmqServer,
			args: [],
			env,
			cwd: folder,
		})
		server = started
		try {
			await started.waitForLine('Server startup complete', { deadlineMs: READY_DEADLINE_MS })
			await answers(
				() => ask(url),
				10_000,
				() => started.exit !== undefined,
			)
		} catch (error) {
			await started.kill()
			throw error
		}
	}
	try {
		await start()
	} catch (error) {
		await mapper.kill()
		throw error
	}

	return {
		url,
		port,
		get pid() {
			return server === undefined || server.exit !== undefined ? 0 : server.pid
		},
		kill: async (signal) => server?.kill(signal),
		stop: async () => void (await server?.stop({ deadlineMs: 60_000 })),
		async restart() {
			await server?.stop({ deadlineMs: 60_000 })
			await start()
		},
		async remove() {
			await Promise.all([server?.kill(), mapper.kill()])
			if (options.dataDir === undefined)
				await rm(folder, { recursive: true, force: true, maxRetries: 5 })
		},
		log: () => server?.tail() ?? '',
		async control(...args) {
			const { stdout } = await run(join(rabbitmqServer, '../rabbitmqctl'), ['--quiet', ...args], {
				env: { PATH: process.env['PATH'], ...env },
				timeout: CONTROL_DEADLINE_MS,
			})
			return stdout
		},
	}
}

const urlOf = (port: number): string => `amqp://guest:guest@127.0.0.1:${port}`

async function ask(url: string): Promise<void> {
	const connection = await connect(url, { timeout: 5_000 })
	connection.on('error', () => {})
	await connection.close()
}

async function findPrograms(): Promise<{ rabbitmqServer: string; epmd: string } | undefined> {
	// The scripts of the distribution itself: Debian's /usr/sbin/rabbitmq-server changes the user and the folder.
	const distributions = await versions('/usr/lib/rabbitmq/lib', /^rabbitmq_server-/)
	const rabbitmqServer = await firstProgram([
		'/usr/lib/rabbitmq/bin/rabbitmq-server',
		...distributions.map((folder) => join(folder, 'sbin/rabbitmq-server')),
		...onPath('rabbitmq-server').filter(
			(file) => !file.startsWith('/usr/sbin/') && !file.startsWith('/sbin/'),
		),
	])
	const runtimes = await versions('/usr/lib/erlang', /^erts-/)
	const epmd = await firstProgram([
		...onPath('epmd'),
		...runtimes.map((folder) => join(folder, 'bin/epmd')),
	])
	return rabbitmqServer === undefined || epmd === undefined ? undefined : { rabbitmqServer, epmd }
}

/** Everything that a node reads or writes, inside the folder; nothing of the machine's own broker. */
async function prepareFolder(
	folder: string,
	port: number,
	ports: { epmd: number; distribution: number },
): Promise<Record<string, string>> {
	const at = (name: string): string => join(folder, name)
	for (const name of ['home', 'mnesia', 'log', 'generated', 'schema'])
		await mkdir(at(name), { recursive: true })
	await writeFile(at('rabbitmq.conf'), CONFIGURATION)
	await writeFile(at('rabbitmq-env.conf'), '')
	await writeFile(at('enabled_plugins'), '[].\n')
	// A node finds its data by its name, so a folder that is used again keeps it.
	const nodeName = `flowcraft-${randomBytes(4).toString('hex')}@localhost`
	await writeFile(at('node-name'), nodeName, { flag: 'wx' }).catch(() => {})
	return {
		HOME: at('home'),
		// The shell script then replaces itself by the node: a SIGKILL hits the broker, not its parent.
		RUNNING_UNDER_SYSTEMD: '1',
		RABBITMQ_NODENAME: await readFile(at('node-name'), 'utf8'),
		RABBITMQ_NODE_PORT: String(port),
		RABBITMQ_NODE_IP_ADDRESS: '127.0.0.1',
		RABBITMQ_DIST_PORT: String(ports.distribution),
		ERL_EPMD_PORT: String(ports.epmd),
		ERL_EPMD_ADDRESS: '127.0.0.1',
		RABBITMQ_MNESIA_BASE: at('mnesia'),
		RABBITMQ_LOG_BASE: at('log'),
		RABBITMQ_LOGS: '-',
		RABBITMQ_PID_FILE: at('pid'),
		RABBITMQ_ENABLED_PLUGINS_FILE: at('enabled_plugins'),
		RABBITMQ_CONFIG_FILE: at('rabbitmq'),
		RABBITMQ_ADVANCED_CONFIG_FILE: at('advanced.config'),
		RABBITMQ_CONF_ENV_FILE: at('rabbitmq-env.conf'),
		RABBITMQ_GENERATED_CONFIG_DIR: at('generated'),
		RABBITMQ_FEATURE_FLAGS_FILE: at('feature_flags'),
		RABBITMQ_SCHEMA_DIR: at('schema'),
	}
}

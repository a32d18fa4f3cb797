/**
 * The package as its users get it: packed, installed into an empty project, loaded by plain Node and by the compiler.
 */
import { execFile } from 'node:child_process'
import { mkdir, readdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { PROJECT_ROOT } from '../support/process.js'
import { freshDatabase, freshFolder } from '../support/services/index.js'

const run = promisify(execFile)
/** Building, packing and installing, on a busy machine with an empty cache, in ms. */
const INSTALL_MS = 300_000
const COMPILE_MS = 120_000

let consumer: string
let installed: string

beforeAll(async () => {
	const folder = freshFolder('package')
	consumer = join(folder, 'consumer')
	installed = join(consumer, 'node_modules', 'flowcraft-outbox')
	await mkdir(consumer)
	await writeFile(
		join(consumer, 'package.json'),
		JSON.stringify({ name: 'consumer', private: true, type: 'module' }),
	)
	// Builds first, by its `prepack`.
	await command(PROJECT_ROOT, 'npm', 'pack', '--pack-destination', folder)
	const tarball = (await readdir(folder)).find((file) => file.endsWith('.tgz'))
	if (tarball === undefined) throw new Error(`npm pack left no tarball in ${folder}`)
	await command(
		consumer,
		'npm',
		'install',
		'--prefer-offline',
		'--no-audit',
		'--no-fund',
		'--ignore-scripts',
		join(folder, tarball),
	)
}, INSTALL_MS)

/** Runs a program and returns what it printed. @throws with everything that it said */
async function command(cwd: string, file: string, ...args: string[]): Promise<string> {
	// Neither the test runner's loaders nor its variables.
	const env = Object.fromEntries(
		Object.entries(process.env).filter(([name]) => !/^(VITEST|NODE_OPTIONS$|npm_)/.test(name)),
	)
	try {
		return (await run(file, args, { cwd, env, maxBuffer: 64 * 1024 * 1024 })).stdout
	} catch (error) {
		const { stdout = '', stderr = '' } = error as { stdout?: string; stderr?: string }
		throw new Error(`${[file, ...args].join(' ')} failed:\n${stdout}\n${stderr}`, { cause: error })
	}
}

/** A program in the consumer's project, in plain Node. */
async function node(name: string, source: string): Promise<string> {
	await writeFile(join(consumer, name), source)
	return command(consumer, process.execPath, name)
}

const exportsOf = async (entry: string): Promise<string[]> =>
	JSON.parse(
		await node('exports.js', `console.log(JSON.stringify(Object.keys(await import('${entry}'))))`),
	) as string[]

describe('each entry loads in plain Node', () => {
	it.each([
		[
			'flowcraft-outbox',
			[
				'startRun',
				'cancelRun',
				'resumeRun',
				'readRun',
				'listRuns',
				'waitForRun',
				'waitForWorkflow',
				'registerBlueprint',
				'PostgresContext',
				'createDatabase',
				'InvalidInputError',
				'NotFoundError',
				'ConflictError',
			],
		],
		['flowcraft-outbox/client', ['createClient', 'defineBlueprint', 'NotFoundError', 'ConnectionError']],
		['flowcraft-outbox/functions', ['createApp', 'createDatabase', 'readAppConfig']],
		[
			'flowcraft-outbox/worker',
			[
				'RabbitMqAdapter',
				'createRabbitMqReconciler',
				'RedisCoordinationStore',
				'InMemoryCoordinationStore',
				'createRelay',
				'createWorker',
				'createRabbitMqBroker',
				'createRedisDoorbell',
				'createInProcessBroker',
				'createInProcessDoorbell',
				'migrate',
				'createLogger',
			],
		],
		['flowcraft-outbox/schema', ['statuses', 'contexts', 'nodes', 'outbox', 'results']],
	])('%s', async (entry, names) => {
		expect(await exportsOf(entry)).toEqual(expect.arrayContaining(names))
	})

	it('and opens nothing: the process ends by itself', async () => {
		const source = [
			'flowcraft-outbox',
			'flowcraft-outbox/client',
			'flowcraft-outbox/functions',
			'flowcraft-outbox/worker',
			'flowcraft-outbox/schema',
		].map((entry) => `import '${entry}'`)
		expect(
			await node(
				'idle.js',
				`${source.join('\n')}\nprocess.on('beforeExit', () => console.log('idle'))`,
			),
		).toBe('idle\n')
	})
})

describe('what runs on edge hosts', () => {
	it('loads where no broker, no Redis and no log library is installed', async () => {
		const hidden = ['amqplib', 'ioredis', 'pino', 'prom-client', '@hono/node-server']
		const at = (name: string): string => join(consumer, 'node_modules', name)
		onTestFinished(async () => {
			for (const name of hidden) await rename(`${at(name)}.hidden`, at(name))
		})
		for (const name of hidden) await rename(at(name), `${at(name)}.hidden`)

		for (const entry of ['flowcraft-outbox', 'flowcraft-outbox/functions', 'flowcraft-outbox/schema']) {
			expect(await exportsOf(entry)).not.toEqual([])
		}
		// The client needs no other package at all.
		const needed = ['postgres', 'drizzle-orm', 'hono', 'zod', 'flowcraft']
		for (const name of needed) await rename(at(name), `${at(name)}.hidden`)
		try {
			expect(await exportsOf('flowcraft-outbox/client')).toContain('createClient')
			await expect(exportsOf('flowcraft-outbox')).rejects.toThrow(/ERR_MODULE_NOT_FOUND/)
		} finally {
			for (const name of needed) await rename(`${at(name)}.hidden`, at(name))
		}
		// The test would notice.
		await expect(exportsOf('flowcraft-outbox/worker')).rejects.toThrow(/ERR_MODULE_NOT_FOUND/)
	})
})

const CONSUMER = `
import { connect } from 'amqplib'
import { drizzle } from 'drizzle-orm/postgres-js'
import { FlowRuntime, createFlow, type IAsyncContext } from 'flowcraft'
import { Redis } from 'ioredis'
import postgres from 'postgres'
import { createDatabase, type Executor, PostgresContext, type Run, startRun, waitForRun, waitForWorkflow } from 'flowcraft-outbox'
import { createApp } from 'flowcraft-outbox/functions'
import { createInProcessBroker, createRabbitMqReconciler, createRelay, createWorker, RabbitMqAdapter, RedisCoordinationStore } from 'flowcraft-outbox/worker'
import { noDoorbell, noLogger } from 'flowcraft-outbox'
import { statuses } from 'flowcraft-outbox/schema'

interface Mail { send(to: string): Promise<void> }
interface Dependencies { mail: Mail; [name: string]: unknown }

const databaseUrl = 'postgres://127.0.0.1/none'
const flow = createFlow('greet').node('greet', async () => ({ output: 'hello' }))
const runtime = new FlowRuntime<Record<string, unknown>, Dependencies>({
	blueprints: { greet: flow.toBlueprint() },
	registry: Object.fromEntries(flow.getFunctionRegistry()),
})

export async function guide(): Promise<RabbitMqAdapter> {
	const adapter = new RabbitMqAdapter({
		runtimeOptions: runtime.options,
		coordinationStore: new RedisCoordinationStore(new Redis()),
		amqpConnection: await connect('amqp://127.0.0.1'),
		databaseUrl,
		contextTableName: 'flowcraft_contexts',
		statusTableName: 'flowcraft_statuses',
		queueName: 'flowcraft-jobs',
	})
	await adapter.start()
	const emitted: Set<string> = await adapter.reconcile('run')
	const resumed: Set<string> = await adapter.resumeWithAction('run', 'approve', { emitted })
	await adapter.resumeWithAction('run', { nodeId: 'review', action: 'approve', output: [...resumed] })
	const { stalledRuns }: { stalledRuns: number } = await createRabbitMqReconciler({ adapter, stalledThresholdSeconds: 300 }).run()
	return stalledRuns > 0 ? adapter : new RabbitMqAdapter({ runtimeOptions: { blueprints: { greet: flow } }, databaseUrl, amqpUrl: 'amqp://127.0.0.1', relay: false })
}

// @ts-expect-error a client cannot be handed to a thread
export const refusedClient = () => new RabbitMqAdapter({ runtimeOptions: {}, amqpUrl: 'amqp://127.0.0.1', databaseUrl, pgClient: {} })
// @ts-expect-error the tables' names are fixed
export const refusedTable = () => new RabbitMqAdapter({ runtimeOptions: {}, amqpUrl: 'amqp://127.0.0.1', databaseUrl, statusTableName: 'statuses' })

export async function library(): Promise<Run | undefined> {
	const db = createDatabase(databaseUrl)
	const orm = drizzle(postgres(databaseUrl))
	const { runId } = await orm.transaction((tx) => startRun(tx, { blueprint: 'greet', input: { to: 'you' } }))
	const executors: Executor[] = [db.sql, db.drizzle, orm]
	const context: IAsyncContext<Record<string, unknown>> = new PostgresContext(runId, { client: db.sql })
	await context.patch([{ op: 'set', key: 'to', value: executors.length }])
	const rows: { status: string }[] = await orm.select({ status: statuses.status }).from(statuses)
	const { status, payload } = await waitForWorkflow(db.sql, runId, rows.length)
	return status === 'completed' && payload?.context['greet'] === 'hello' ? waitForRun(db.sql, runId, { timeoutMs: 1 }) : undefined
}

export function processes() {
	const broker = createInProcessBroker()
	const worker = createWorker({ databaseUrl, broker, doorbell: noDoorbell, logger: noLogger, workflows: runtime.options })
	const relay = createRelay({ db: createDatabase(databaseUrl).sql, broker, doorbell: noDoorbell, logger: noLogger })
	return { worker, relay, app: createApp({ db: createDatabase(databaseUrl) }) }
}
`

describe('the types', () => {
	it(
		'hold for a strict consumer that skips no library check',
		async () => {
			const compilerOptions = {
				target: 'es2023',
				lib: ['es2023'],
				module: 'nodenext',
				strict: true,
				exactOptionalPropertyTypes: true,
				noUncheckedIndexedAccess: true,
				skipLibCheck: false,
				noEmit: true,
				types: ['node'],
				typeRoots: [join(PROJECT_ROOT, 'node_modules', '@types')],
			}
			await writeFile(join(consumer, 'consumer.ts'), CONSUMER)
			const readme = await readFile(join(PROJECT_ROOT, 'README.md'), 'utf8')
			// Those that stand there as whole files.
			const examples = [...readme.matchAll(/^```ts\n\/\/ my-workflows\/(\S+\.ts)\n(.*?)^```$/gms)]
			const names = examples.map(([, name = '']) => name)
			expect(names).toEqual(['index.ts', 'album.ts', 'shop.ts', 'shop-client.ts'])
			for (const [, name = '', source = ''] of examples) await writeFile(join(consumer, name), source)
			await writeFile(
				join(consumer, 'tsconfig.json'),
				JSON.stringify({ compilerOptions, files: ['consumer.ts', ...names] }),
			)
			const tsc = join(PROJECT_ROOT, 'node_modules', 'typescript', 'bin', 'tsc')
			const output = await command(
				consumer,
				process.execPath,
				tsc,
				'--project',
				'.',
				'--pretty',
				'false',
			).catch((error: unknown) => String(error))

			// Drizzle's own declarations of databases that are not installed have errors; they are not ours.
			const errors = output
				.split('\n')
				.filter(
					(line) => / error TS\d+: /.test(line) && !line.startsWith('node_modules/drizzle-orm/'),
				)
			expect(errors).toEqual([])
		},
		COMPILE_MS,
	)
})

describe('the installed package', () => {
	it('brings the migrations and the documents, and neither tests nor leftovers', async () => {
		const top = await readdir(installed)
		// What every complaint about the environment refers to.
		expect(top).toEqual(
			expect.arrayContaining(['.env.example', 'LICENSE', 'README.md', 'dist', 'package.json']),
		)
		expect(
			top.filter((name) => /^(\.(?!env\.example$)|test|node_modules|docker|coverage)/.test(name)),
		).toEqual([])
		const files = async (folder: string): Promise<string[]> =>
			(await readdir(folder, { recursive: true })).sort()
		expect(await files(join(installed, 'dist', 'src', 'db', 'migrations'))).toEqual(
			await files(join(PROJECT_ROOT, 'src', 'db', 'migrations')),
		)
	})

	it('migrates an empty database by its command and by its function, and runs a workflow there', async () => {
		const database = await freshDatabase({ migrated: false })
		onTestFinished(() => database.drop())
		const migrateMain = join(installed, 'dist', 'worker', 'db', 'migrate.main.js')
		await writeFile(
			join(consumer, 'migrate.mjs'),
			`process.env.DATABASE_URL = ${JSON.stringify(database.url)}\nawait import(${JSON.stringify(migrateMain)})`,
		)
		expect(await command(consumer, process.execPath, 'migrate.mjs')).toContain('newest schema')

		const output = await node(
			'workflow.js',
			`import { createFlow } from 'flowcraft'
			import { createDatabase, noLogger, startRun, waitForWorkflow } from 'flowcraft-outbox'
			import { createInProcessBroker, createInProcessDoorbell, createRelay, createWorker, migrate } from 'flowcraft-outbox/worker'

			const databaseUrl = ${JSON.stringify(database.url)}
			await migrate(databaseUrl)
			const add = createFlow('add')
				.node('one', async () => ({ output: 1 }))
				.node('two', async ({ input }) => ({ output: input + 1 }))
				.edge('one', 'two')
			const { sql, close } = createDatabase(databaseUrl, { max: 4 })
			const common = { broker: createInProcessBroker({ queues: ['flowcraft-jobs'] }), doorbell: createInProcessDoorbell(), logger: noLogger }
			const worker = createWorker({ ...common, databaseUrl, drainMs: 1_000, workflows: { blueprints: { add } } })
			const relay = createRelay({ ...common, db: sql })
			await worker.start()
			relay.start()
			const { runId } = await startRun(sql, { blueprint: 'add' })
			const { status, payload } = await waitForWorkflow(sql, runId, 20_000)
			console.log(JSON.stringify({ status, two: payload?.context.two }))
			await worker.stop()
			await relay.stop()
			await common.broker.close()
			await close()`,
		)
		expect(JSON.parse(output)).toEqual({ status: 'completed', two: 2 })
	})

	it('carries the example workflows, which a worker process can be started with', async () => {
		const workflows = join(installed, 'dist', 'worker', 'workflows', 'index.js')
		expect(
			await node(
				'example.js',
				`const { blueprints } = await import(${JSON.stringify(workflows)})\nconsole.log(Object.keys(blueprints)[0])`,
			),
		).toBe('content-moderation\n')
	})
})

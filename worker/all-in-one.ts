/**
 * `npm start`: functions, relay and worker in one process. Embedded (a real Postgres of its own, an in-process broker and
 * doorbell) unless DATABASE_URL, RABBITMQ_URL and REDIS_URL say otherwise; the engine's code is the same.
 *
 * The one place where both rooms, `functions` and `worker`, meet.
 */
import { createServer } from 'node:net'
import { join, resolve } from 'node:path'
import { createApp } from '../functions/app.js'
import { readServerConfig } from '../functions/config.js'
import { serveFunctions } from '../functions/serve.js'
import { createLastingDatabase } from '../src/db/renewing-pool.js'
import { readTogether } from '../src/environment.js'
import type { Broker } from '../src/ports/broker.js'
import type { Doorbell } from '../src/ports/doorbell.js'
import type { Logger } from '../src/ports/logger.js'
import { createInProcessBroker } from './broker/in-process.js'
import { createRabbitMqBroker } from './broker/rabbitmq.js'
import { startErrorOf } from './db/expect-schema.js'
import { migrate } from './db/migrate.js'
import { createInProcessDoorbell } from './doorbell/in-process.js'
import { createRedisDoorbell } from './doorbell/redis.js'
import { createEventsFile } from './embedded/events-file.js'
import { EmbeddedPostgresError, startEmbeddedPostgres } from './embedded/postgres.js'
import { takeOver } from './embedded/take-over.js'
import { blueprintIds } from './execution/workflows.js'
import { loadWorkflows } from './load-workflows.js'
import { createLogger } from './logger.js'
import { type RunningProcess, runProcess, StartError } from './process.js'
import { serveObservability } from './observability.js'
import { relayMetrics } from './relay/metrics.js'
import { createRelay } from './relay/relay.js'
import {
	type AllInOneSettings,
	logRedactor,
	readAllInOneSettings,
	type Services,
	webhookOptions,
} from './settings.js'
import { welcome } from './welcome.js'
import { workerMetrics } from './worker/metrics.js'
import { createWorker } from './worker/worker.js'

const HELP = `Functions, relay and worker in one process.

  npm start                      embedded: needs no server, keeps its data in DATA_DIR (.data)
  DATABASE_URL=… RABBITMQ_URL=… REDIS_URL=… npm start

Environment: HOST, PORT, API_KEYS, DATA_DIR, WORKFLOWS, CONCURRENCY, LOG_LEVEL and more, described in .env.example.`

interface Backing {
	readonly databaseUrl: string
	readonly broker: Broker
	readonly doorbell: Doorbell
	/** After everything that uses them. */
	close(): Promise<void>
}

async function openBacking(services: Services, settings: AllInOneSettings, logger: Logger): Promise<Backing> {
	if (services.type === 'given') {
		const broker = createRabbitMqBroker({
			url: services.rabbitMqUrl,
			queues: [settings.QUEUE_NAME],
			logger,
		})
		const doorbell = createRedisDoorbell({ url: services.redisUrl, logger })
		return {
			databaseUrl: services.databaseUrl,
			broker,
			doorbell,
			close: async () => void (await Promise.all([broker.close(), doorbell.close()])),
		}
	}
	const postgres = await startEmbeddedPostgres({ dataDir: resolve(settings.DATA_DIR), log: logger }).catch(
		(error: unknown) => {
			throw error instanceof EmbeddedPostgresError ? new StartError(error.message) : error
		},
	)
	const broker = createInProcessBroker({
		queues: [settings.QUEUE_NAME],
		onEvent: createEventsFile(join(resolve(settings.DATA_DIR), 'events.jsonl'), logger),
		logger,
	})
	const doorbell = createInProcessDoorbell()
	return {
		databaseUrl: postgres.url,
		broker,
		doorbell,
		async close() {
			await Promise.all([broker.close(), doorbell.close()])
			await postgres.stop()
		},
	}
}

/**
 * Found out before everything else is started in vain.
 * @throws what Node says (`EADDRINUSE`, `EACCES`, …)
 */
async function expectFreePort(host: string, port: number): Promise<void> {
	const probe = createServer()
	await new Promise<void>((resolve, reject) => {
		probe.once('error', reject)
		probe.listen(port, host, resolve)
	})
	await new Promise((resolve) => probe.close(resolve))
}

async function start(): Promise<RunningProcess> {
	// Checked as a whole, before anything is started; where the database is, is settled below.
	const [{ settings, services }, server] = readTogether(
		() => readAllInOneSettings(process.env),
		() => readServerConfig({ ...process.env, DATABASE_URL: 'postgres://embedded' }),
	)
	const workflows = await loadWorkflows(settings.WORKFLOWS)
	const logger = createLogger('flowcraft', settings.LOG_LEVEL, logRedactor(settings, process.env))
	await expectFreePort(server.host, server.port)

	const backing = await openBacking(services, settings, logger)
	const { databaseUrl, broker, doorbell } = backing
	const database = createLastingDatabase(databaseUrl, {
		max: server.databasePoolSize,
		applicationName: 'flowcraft',
	})
	// What has been started is stopped in the opposite order, at the end as after a failure on the way.
	const stops = [() => backing.close(), () => database.close()]
	const stopAll = async (): Promise<void> => {
		for (const stop of stops.splice(0).reverse()) await stop()
	}
	try {
		await migrate(databaseUrl).catch((error: unknown) => {
			throw startErrorOf(error)
		})
		if (services.type === 'embedded') await takeOver(database.sql, logger)
		const worker = createWorker({
			databaseUrl,
			broker,
			doorbell,
			workflows,
			logger,
			queue: settings.QUEUE_NAME,
			concurrency: settings.CONCURRENCY,
			leaseMs: settings.LEASE_MS,
			drainMs: settings.DRAIN_MS,
			unrunnableLimitMs: settings.UNRUNNABLE_MS,
			poolSize: settings.WORKER_POOL,
			transactionPoolSize: settings.TRANSACTION_POOL,
			...webhookOptions(settings),
		})
		const relay = createRelay({
			db: database.sql,
			...(settings.RELAY_ALARM ? { databaseUrl } : {}),
			broker,
			doorbell,
			logger,
			queue: settings.QUEUE_NAME,
			stalledMs: settings.STALLED_MS,
			sweepEveryMs: settings.SWEEP_MS,
			claimMs: settings.RELAY_CLAIM_MS,
		})
		const observability = await serveObservability({
			port: settings.METRICS_PORT,
			host: settings.METRICS_HOST,
			process: 'all-in-one',
			metrics: () => ({
				...relayMetrics(relay),
				...workerMetrics(worker),
				broker_connected: broker.isConnected() ? 1 : 0,
			}),
			isReady: async () => broker.isConnected() && (await worker.isReady()),
		})
		stops.push(() => observability.close())
		// Blueprints first: whoever reaches the server can start them.
		stops.push(
			() => relay.stop(),
			() => worker.stop(),
		)
		await worker.start()
		relay.start()
		const functions = await serveFunctions({
			app: createApp({
				...server,
				db: database,
				doorbell,
				logger,
				...(workflows.serializer === undefined ? {} : { serializer: workflows.serializer }),
			}),
			host: server.host,
			port: server.port,
		})
		stops.push(() => functions.stop())
		console.log(
			welcome({
				url: functions.url,
				dataDir: services.type === 'embedded' ? resolve(settings.DATA_DIR) : undefined,
				blueprints: blueprintIds(workflows),
				needsKey: server.apiKeys.length > 0,
			}),
		)
		return { logger, stopWithinMs: settings.DRAIN_MS + 40_000, stop: stopAll }
	} catch (error) {
		await stopAll()
		throw error
	}
}

await runProcess(HELP, start)

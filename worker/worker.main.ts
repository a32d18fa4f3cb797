/** `npm run start:worker`: claims and executes nodes. Any number of them may run. */
import { noDoorbell } from '../src/ports/doorbell.js'
import { createRabbitMqBroker } from './broker/rabbitmq.js'
import { expectSchema } from './db/expect-schema.js'
import { createRedisDoorbell } from './doorbell/redis.js'
import { loadWorkflows } from './load-workflows.js'
import { createLogger } from './logger.js'
import { serveObservability } from './observability.js'
import { runProcess } from './process.js'
import { logRedactor, readWorkerSettings, webhookOptions } from './settings.js'
import { startWhenReachable } from './start-when-reachable.js'
import { createWorker } from './worker/worker.js'
import { workerMetrics } from './worker/metrics.js'

const HELP = `Claims nodes that are ready and executes them.

  npm run start:worker
  WORKFLOWS=./my-workflows/index.ts npm run start:worker

Environment: DATABASE_URL and RABBITMQ_URL are needed; REDIS_URL, QUEUE_NAME, WORKFLOWS, CONCURRENCY, LEASE_MS, DRAIN_MS,
UNRUNNABLE_MS, WORKER_POOL, TRANSACTION_POOL, PUBLIC_URL, WEBHOOK_SECRET, METRICS_PORT, METRICS_HOST, REDACT_KEYS and
LOG_LEVEL are described in .env.example.
On SIGTERM it takes nothing new, lets nodes end for DRAIN_MS, gives the rest back and ends.`

await runProcess(HELP, async () => {
	const settings = readWorkerSettings(process.env)
	const workflows = await loadWorkflows(settings.WORKFLOWS)
	const logger = createLogger('worker', settings.LOG_LEVEL, logRedactor(settings, process.env))
	const broker = createRabbitMqBroker({ url: settings.RABBITMQ_URL, queues: [settings.QUEUE_NAME], logger })
	const doorbell =
		settings.REDIS_URL === undefined
			? noDoorbell
			: createRedisDoorbell({ url: settings.REDIS_URL, logger })
	const worker = createWorker({
		databaseUrl: settings.DATABASE_URL,
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
	const observability = await serveObservability({
		port: settings.METRICS_PORT,
		host: settings.METRICS_HOST,
		process: 'worker',
		metrics: () => ({ ...workerMetrics(worker), broker_connected: broker.isConnected() ? 1 : 0 }),
		isReady: async () => broker.isConnected() && (await worker.isReady()),
	})
	await startWhenReachable('The worker', logger, async () => {
		await expectSchema(settings.DATABASE_URL)
		await worker.start()
	})
	return {
		logger,
		stopWithinMs: settings.DRAIN_MS + 40_000,
		async stop() {
			await worker.stop()
			await Promise.all([broker.close(), doorbell.close(), observability.close()])
		},
	}
})

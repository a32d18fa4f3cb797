/** `npm run start:relay`: drains the outbox to RabbitMQ, and sweeps. Any number of them may run. */
import { createLastingDatabase } from '../src/db/renewing-pool.js'
import { answers } from '../src/db/query.js'
import { noDoorbell } from '../src/ports/doorbell.js'
import { createRabbitMqBroker } from './broker/rabbitmq.js'
import { expectSchema } from './db/expect-schema.js'
import { createRedisDoorbell } from './doorbell/redis.js'
import { createLogger } from './logger.js'
import { serveObservability } from './observability.js'
import { runProcess } from './process.js'
import { relayMetrics } from './relay/metrics.js'
import { createRelay } from './relay/relay.js'
import { logRedactor, readRelaySettings } from './settings.js'
import { startWhenReachable } from './start-when-reachable.js'

const HELP = `Drains the outbox in Postgres to RabbitMQ and sweeps up after dead workers and lost messages.

  npm run start:relay

Environment: DATABASE_URL and RABBITMQ_URL are needed; REDIS_URL, QUEUE_NAME, STALLED_MS, SWEEP_MS, RELAY_CLAIM_MS,
RELAY_ALARM, METRICS_PORT, METRICS_HOST, REDACT_KEYS and LOG_LEVEL are described in .env.example. Stops gracefully on SIGTERM.`

await runProcess(HELP, async () => {
	const settings = readRelaySettings(process.env)
	const logger = createLogger('relay', settings.LOG_LEVEL, logRedactor(settings, process.env))
	const database = createLastingDatabase(settings.DATABASE_URL, {
		max: 4,
		applicationName: 'flowcraft-relay',
	})
	const broker = createRabbitMqBroker({ url: settings.RABBITMQ_URL, queues: [settings.QUEUE_NAME], logger })
	const doorbell =
		settings.REDIS_URL === undefined
			? noDoorbell
			: createRedisDoorbell({ url: settings.REDIS_URL, logger })
	const relay = createRelay({
		db: database.sql,
		...(settings.RELAY_ALARM ? { databaseUrl: settings.DATABASE_URL } : {}),
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
		process: 'relay',
		metrics: () => ({ ...relayMetrics(relay), broker_connected: broker.isConnected() ? 1 : 0 }),
		isReady: async () => broker.isConnected() && (await answers(database.sql)),
	})
	await startWhenReachable('The relay', logger, () => expectSchema(settings.DATABASE_URL))
	relay.start()
	return {
		logger,
		stopWithinMs: 20_000,
		async stop() {
			await relay.stop()
			await Promise.all([broker.close(), doorbell.close(), observability.close(), database.close()])
		},
	}
})

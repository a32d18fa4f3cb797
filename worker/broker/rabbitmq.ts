/**
 * The port `Broker` on RabbitMQ 3.10 or newer, over amqplib.
 *
 * - `rabbitmq/connection.ts`: a connection that comes back by itself, and channels whose end is always noticed
 * - `rabbitmq/topology.ts`: exchange, queues and dead queues
 * - `rabbitmq/publisher.ts`: messages and their verdicts
 * - `rabbitmq/subscription.ts`: a consumer that comes back by itself
 * - `rabbitmq/depth.ts`: how much waits in a queue
 *
 * Publishing and consuming use a connection each: when RabbitMQ is short of memory or disk it stops reading from
 * connections that publish, and acks stuck behind that would keep the queues from ever getting shorter.
 */
import type { ChannelModel } from 'amqplib'
import type { Broker } from '../../src/ports/broker.js'
import type { Logger } from '../../src/ports/logger.js'
import { BorrowedConnection, SupervisedConnection, type Connection } from './rabbitmq/connection.js'
import { DepthProbe } from './rabbitmq/depth.js'
import { Publisher } from './rabbitmq/publisher.js'
import { RabbitMqSubscription } from './rabbitmq/subscription.js'
import { Topology } from './rabbitmq/topology.js'

export interface RabbitMqBrokerOptions {
	/** `amqp://user:password@host:5672/vhost`, or `amqps:`. Exactly one of `url`, `urls` and `connection` is given. */
	readonly url?: string
	/** The nodes of a cluster, tried in turn. */
	readonly urls?: readonly string[]
	/**
	 * An open connection of the caller's, for publishing and consuming alike. It is never closed here and not replaced
	 * when it ends: from then on `publish` answers `failed`, and nothing is delivered any more.
	 */
	readonly connection?: ChannelModel
	/** Queues of jobs, declared as durable quorum queues. Messages to other queues are `unroutable`. */
	readonly queues: readonly string[]
	/** Durable direct exchange of this deployment. Default `flowcraft`. */
	readonly jobsExchange?: string
	/**
	 * Redeliveries of one message before it goes to `<queue>.dead`. Up to RabbitMQ 4.2 every way back to the queue counts:
	 * a worker that dies and one that is full cost each message it had prefetched one. Hence far more than RabbitMQ's
	 * own 20: this stops messages that circle for ever, the count of crashes in Postgres stops nodes that kill their
	 * workers. A queue's limit cannot be changed once it exists. Default 1000.
	 */
	readonly deliveryLimit?: number
	/** Messages that each dead queue keeps; the oldest make room. Cannot be changed later either. Default 10000. */
	readonly deadLetterMaxLength?: number
	/** Further arguments of the job queues, such as `{ 'x-max-length': 1_000_000 }`. Default none. */
	readonly queueArguments?: Readonly<Record<string, string | number | boolean>>
	/** Shown in RabbitMQ's management UI. Default `flowcraft-outbox`. */
	readonly connectionName?: string
	/** From the start of an attempt to connect until it is given up, in ms. Default 10000. */
	readonly connectTimeoutMs?: number
	/** A peer silent for two to three of these counts as gone. A `heartbeat` in the URL wins. Default 10. */
	readonly heartbeatSeconds?: number
	/** First pause after a failed attempt to connect or subscribe, in ms, then doubled and jittered. Default 100. */
	readonly minBackoffMs?: number
	/** Longest such pause, in ms; a broker that is back is used after so long at the latest. Default 1000. */
	readonly maxBackoffMs?: number
	/** For opening a channel, declaring a queue and subscribing, each, in ms. Default 10000. */
	readonly setupTimeoutMs?: number
	/** `publish` answers at the latest after this, in ms: what has no verdict by then is `failed`. Default 5000. */
	readonly confirmTimeoutMs?: number
	/** How much of that `publish` waits for a connection, or for one that is blocked, in ms. Default 1000. */
	readonly readyTimeoutMs?: number
	/** A subscription that gets nothing although messages wait starts over after two to three of these, in ms. Default 3000. */
	readonly idleCheckMs?: number
	/** `depth` answers `undefined` after this, in ms. Default 2000. */
	readonly depthTimeoutMs?: number
	/** Longest that `close` waits for outstanding confirms, and again for the closing itself, in ms. Default 5000. */
	readonly closeTimeoutMs?: number
	readonly logger: Logger
}

/**
 * Starts connecting at once, in the background; nothing here rejects because RabbitMQ cannot be reached.
 * @throws TypeError that lists every invalid option.
 */
export function createRabbitMqBroker(options: RabbitMqBrokerOptions): Broker {
	const settings = withDefaults(options)
	const { logger, setupTimeoutMs, minBackoffMs, maxBackoffMs, closeTimeoutMs, jobsExchange } = settings

	const borrowed = options.connection && new BorrowedConnection(options.connection, logger)
	const openConnection = (purpose: string): Connection =>
		borrowed ?? new SupervisedConnection({ ...settings, name: `${settings.connectionName} ${purpose}` })

	const publishing = openConnection('publisher')
	const topology = new Topology(publishing, settings)
	const publisher = new Publisher({ ...settings, connection: publishing, topology })
	const probe = new DepthProbe(publishing, topology, settings.depthTimeoutMs)
	/** Made for the first subscription; most relays never have one. */
	let consuming: Connection | undefined
	const subscriptions = new Set<RabbitMqSubscription>()
	let closing: Promise<void> | undefined

	// So that a deployment's queues exist, and a mismatch is told, before the first message.
	const declareAll = async () => {
		await publishing.ready(settings.connectTimeoutMs)
		await Promise.all(settings.queues.map((queue) => topology.ensure(queue)))
	}
	declareAll().catch((error: unknown) => {
		logger.debug('RabbitMQ is not ready yet', { jobsExchange, error })
	})

	const close = async () => {
		await Promise.all([
			publisher.close(closeTimeoutMs),
			...[...subscriptions].map((each) => each.close()),
		])
		probe.close()
		await Promise.all([publishing.close(closeTimeoutMs), consuming?.close(closeTimeoutMs)])
	}

	return {
		publish: (messages) => publisher.publish(messages),

		async consume({ queue, prefetch, onDelivery }) {
			if (closing !== undefined) throw new Error('the broker client is closed')
			if (!Number.isInteger(prefetch) || prefetch < 1 || prefetch > 0xffff) {
				throw new TypeError(`prefetch must be an integer from 1 to 65535, not ${prefetch}`)
			}
			consuming ??= openConnection('consumer')
			topology.fallBackOn(consuming)
			const subscription = new RabbitMqSubscription({
				connection: consuming,
				topology,
				queue,
				prefetch,
				onDelivery,
				setupTimeoutMs,
				idleCheckMs: settings.idleCheckMs,
				minBackoffMs,
				maxBackoffMs,
				logger,
			})
			subscriptions.add(subscription)
			return {
				pause: () => subscription.pause(),
				resume: () => subscription.resume(),
				async close() {
					await subscription.close()
					subscriptions.delete(subscription)
				},
			}
		},

		depth: (queue) => probe.depth(queue),

		isConnected() {
			if (publishing.model === undefined || publishing.blockedReason !== undefined) return false
			return subscriptions.size === 0 || consuming?.model !== undefined
		},

		close: () => (closing ??= close()),
	}
}

function withDefaults(options: RabbitMqBrokerOptions) {
	const settings = {
		urls: options.urls ?? (options.url === undefined ? [] : [options.url]),
		queues: options.queues,
		jobsExchange: options.jobsExchange ?? 'flowcraft',
		deliveryLimit: options.deliveryLimit ?? 1_000,
		deadLetterMaxLength: options.deadLetterMaxLength ?? 10_000,
		queueArguments: options.queueArguments ?? {},
		connectionName: options.connectionName ?? 'flowcraft-outbox',
		connectTimeoutMs: options.connectTimeoutMs ?? 10_000,
		heartbeatSeconds: options.heartbeatSeconds ?? 10,
		minBackoffMs: options.minBackoffMs ?? 100,
		maxBackoffMs: options.maxBackoffMs ?? 1_000,
		setupTimeoutMs: options.setupTimeoutMs ?? 10_000,
		confirmTimeoutMs: options.confirmTimeoutMs ?? 5_000,
		readyTimeoutMs: options.readyTimeoutMs ?? 1_000,
		idleCheckMs: options.idleCheckMs ?? 3_000,
		depthTimeoutMs: options.depthTimeoutMs ?? 2_000,
		closeTimeoutMs: options.closeTimeoutMs ?? 5_000,
		logger: options.logger,
	}
	const faults: string[] = []
	const given = [options.url, options.urls, options.connection].filter((each) => each !== undefined)
	if (given.length !== 1) faults.push('exactly one of url, urls and connection must be given')
	if (options.urls?.length === 0) faults.push('urls must not be empty')
	for (const url of settings.urls) {
		// Not quoted: it may hold a password.
		if (!URL.canParse(url) || !['amqp:', 'amqps:'].includes(new URL(url).protocol)) {
			faults.push('each url must look like amqp://user:password@host:5672/vhost')
		}
	}
	if (settings.jobsExchange === '') faults.push('jobsExchange must not be empty')
	for (const queue of settings.queues) {
		// 255 bytes are AMQP's limit for a name, and `.dead` needs five.
		if (queue === '' || Buffer.byteLength(queue) > 250) faults.push('each queue must have 1 to 250 bytes')
	}
	for (const [name, value] of Object.entries(settings)) {
		const isCount =
			name === 'deliveryLimit' || name === 'deadLetterMaxLength' || name === 'heartbeatSeconds'
		if (!isCount && !name.endsWith('Ms')) continue
		if (typeof value !== 'number' || !Number.isInteger(value) || value < 1) {
			faults.push(`${name} must be a whole number of at least 1`)
		}
	}
	if (faults.length > 0) throw new TypeError(`createRabbitMqBroker: ${faults.join('; ')}`)
	return settings
}

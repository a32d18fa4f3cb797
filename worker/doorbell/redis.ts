/**
 * The port `Doorbell` on Redis pub/sub, with two connections: one that rings, and one that listens, made with the
 * first listener.
 *
 * Rings for this process do not take the way over Redis, so processes without Redis still wake themselves. While Redis
 * is away a ring is dropped, not queued: a late one is worth nothing, since everybody polls.
 */
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis, type RedisOptions } from 'ioredis'
import type { Doorbell, Ring } from '../../src/ports/doorbell.js'
import type { Logger } from '../../src/ports/logger.js'
import { withJitter } from '../../src/loop.js'
import { Listeners } from './listeners.js'

export interface RedisDoorbellOptions {
	/** `redis://user:password@host:6379/0`, or `rediss:`. Exactly one of `url` and `redis` is given. */
	readonly url?: string
	/** A client of the caller's to ring with; it is never closed here. A copy of it is made to listen. */
	readonly redis?: Redis
	/** Deployments that share a Redis need different ones. The channel is `<prefix>:doorbell`. Default `flowcraft`. */
	readonly prefix?: string
	readonly logger: Logger
}

/** Rings within so many ms of the last one are sent together. */
const COALESCE_MS = 2
/** Rings that Redis has not answered; beyond them it is taken for stuck and rings are dropped. */
const MAX_UNANSWERED = 200
const MAX_BACKOFF_MS = 2_000
/** Longest wait for the last rings to leave when closing. */
const CLOSE_TIMEOUT_MS = 1_000

/** Both connections: nothing waits for a server that is away, and reconnecting never ends. */
const CONNECTION_OPTIONS = {
	lazyConnect: false,
	enableOfflineQueue: false,
	autoResendUnfulfilledCommands: false,
	maxRetriesPerRequest: 0,
	connectTimeout: 5_000,
	disconnectTimeout: 500,
	retryStrategy: (attempts: number) =>
		withJitter(Math.min(50 * 2 ** Math.min(attempts, 10), MAX_BACKOFF_MS)),
} satisfies RedisOptions

/**
 * Starts connecting at once, in the background; nothing here rejects because Redis cannot be reached.
 * @throws TypeError for invalid options.
 */
export function createRedisDoorbell({
	url,
	redis,
	prefix = 'flowcraft',
	logger,
}: RedisDoorbellOptions): Doorbell {
	if ((url === undefined) === (redis === undefined)) {
		throw new TypeError('createRedisDoorbell: exactly one of url and redis must be given')
	}
	if (url !== undefined && !/^rediss?:\/\//.test(url)) {
		// Not quoted: it may hold a password.
		throw new TypeError('createRedisDoorbell: url must look like redis://user:password@host:6379/0')
	}
	const channel = `${prefix}:doorbell`
	const origin = randomUUID()
	const listeners = new Listeners(logger)
	const outages = new OutageLog(logger)
	const ringer =
		redis ?? new Redis(url ?? '', { ...CONNECTION_OPTIONS, connectionName: 'flowcraft-doorbell' })
	outages.watch(ringer)
	let subscriber: Redis | undefined
	let unanswered = 0
	let closed = false

	const send = (ring: Ring): void => {
		// A lazy client of the caller's: this ring is lost, later ones are not.
		if (ringer.status === 'wait') ringer.connect().catch(() => {})
		// Publishing on a client that is not ready would wait in its queue, or in the caller's.
		if (ringer.status !== 'ready' || unanswered >= MAX_UNANSWERED) return
		unanswered += 1
		ringer
			.publish(channel, JSON.stringify({ origin, ring }))
			.catch(() => {})
			.finally(() => {
				unanswered -= 1
			})
	}
	const coalescer = new Coalescer(send)

	const subscribe = (): Redis => {
		const made = ringer.duplicate({ ...CONNECTION_OPTIONS, autoResubscribe: false })
		outages.watch(made)
		// By hand on each connection, so that one that ends while subscribing is no special case.
		made.on('ready', () => {
			made.subscribe(channel).catch((error: unknown) => {
				logger.warn('Redis refused the subscription to rings', { channel, error: String(error) })
			})
		})
		made.on('message', (_channel: string, text: string) => {
			const message = parse(text)
			if (message !== undefined && message.origin !== origin) listeners.call(message.ring)
		})
		return made
	}

	return {
		ring(ring) {
			if (closed) return
			listeners.call(ring)
			coalescer.add(ring)
		},
		listen(listener) {
			if (closed) return () => {}
			subscriber ??= subscribe()
			return listeners.add(listener)
		},
		async close() {
			if (closed) return
			closed = true
			coalescer.flush()
			listeners.close()
			outages.close()
			subscriber?.disconnect()
			if (redis !== undefined) return
			// `quit` lets the last rings out; it fails at once on a connection that does not stand.
			const left = ringer.quit().catch(() => {})
			await Promise.race([left, sleep(CLOSE_TIMEOUT_MS, undefined, { ref: false })])
			ringer.disconnect()
		},
	}
}

/** Sends the first ring at once, and those of the next few milliseconds together. */
class Coalescer {
	readonly #send: (ring: Ring) => void
	#outbox = false
	readonly #cancelled = new Set<string>()
	readonly #ended = new Set<string>()
	#timer: NodeJS.Timeout | undefined

	constructor(send: (ring: Ring) => void) {
		this.#send = send
	}

	add(ring: Ring): void {
		switch (ring.type) {
			case 'outbox':
				this.#outbox = true
				break
			case 'cancelled':
				for (const runId of ring.runIds) this.#cancelled.add(runId)
				break
			case 'ended':
				for (const runId of ring.runIds) this.#ended.add(runId)
				break
		}
		if (this.#timer === undefined) this.flush()
	}

	/** Sends what has gathered; another window begins if that was anything. */
	flush(): void {
		clearTimeout(this.#timer)
		this.#timer = undefined
		const rings: Ring[] = []
		if (this.#outbox) rings.push({ type: 'outbox' })
		if (this.#cancelled.size > 0) rings.push({ type: 'cancelled', runIds: [...this.#cancelled] })
		if (this.#ended.size > 0) rings.push({ type: 'ended', runIds: [...this.#ended] })
		if (rings.length === 0) return
		this.#outbox = false
		this.#cancelled.clear()
		this.#ended.clear()
		for (const ring of rings) this.#send(ring)
		this.#timer = setTimeout(() => this.flush(), COALESCE_MS)
	}
}

/** Tells of Redis going and coming back, once each; ioredis emits an error with every attempt. */
class OutageLog {
	readonly #logger: Logger
	readonly #unwatch: (() => void)[] = []
	#isOut = false

	constructor(logger: Logger) {
		this.#logger = logger
	}

	watch(redis: Redis): void {
		const onError = (error: Error) => {
			if (this.#isOut) return
			this.#isOut = true
			this.#logger.warn('Redis cannot be reached; rings are dropped and everybody polls', {
				error: error.message || String(error),
			})
		}
		const onReady = () => {
			if (this.#isOut) this.#logger.info('Redis can be reached again')
			this.#isOut = false
		}
		redis.on('error', onError)
		redis.on('ready', onReady)
		this.#unwatch.push(() => redis.off('ready', onReady))
	}

	/** The error listeners stay: without one, ioredis prints to the console. */
	close(): void {
		this.#isOut = true
		for (const unwatch of this.#unwatch) unwatch()
	}
}

/** What came over the wire, or undefined if it is not a ring that this version knows. */
function parse(text: string): { readonly origin: string; readonly ring: Ring } | undefined {
	try {
		const message: unknown = JSON.parse(text)
		if (!isRecord(message) || typeof message['origin'] !== 'string' || !isRecord(message['ring']))
			return undefined
		const { origin, ring } = message
		const { type, runIds } = ring
		if (type === 'outbox') return { origin, ring: { type } }
		if (type !== 'cancelled' && type !== 'ended') return undefined
		if (!Array.isArray(runIds) || !runIds.every((runId) => typeof runId === 'string')) return undefined
		return { origin, ring: { type, runIds } }
	} catch {
		return undefined
	}
}

function isRecord(value: unknown): value is Record<string, unknown> {
	return typeof value === 'object' && value !== null
}

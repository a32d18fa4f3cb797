/**
 * One connection to RabbitMQ that comes back: plain amqplib `connect()` under a small supervisor. It connects in
 * the background as soon as it is made, tries its URLs in turn with a growing, jittered pause, and starts over
 * whenever the connection ends. What lives on the connection (topology, publisher, subscriptions) asks `ready()` when it
 * needs it and notices the end by its channels.
 *
 * amqplib throws in its own read loop when an `error` event has no listener, so listeners are attached in the
 * same turn in which a connection or a channel appears.
 */
import { connect, IllegalOperationError, type Channel, type ChannelModel, type SocketOptions } from 'amqplib'
import type { Logger } from '../../../src/ports/logger.js'
import { withJitter } from '../../../src/loop.js'
import { ChangeSignal, messageOf, withDeadline } from './deadline.js'
import { gatherWrites } from './gathered-writes.js'

export interface ConnectionOptions {
	/** Tried in turn, `amqp:` or `amqps:`. */
	readonly urls: readonly string[]
	/** Shown in RabbitMQ's management UI. */
	readonly name: string
	readonly connectTimeoutMs: number
	readonly heartbeatSeconds: number
	/** Pause after a failure, doubled with each further one (of a whole round of URLs) up to `maxBackoffMs`. */
	readonly minBackoffMs: number
	readonly maxBackoffMs: number
	readonly logger: Logger
}

/** A connection that ended sooner than this counts as a failed attempt, so that a flapping server is not hammered. */
const STABLE_AFTER_MS = 5_000
/**
 * A failure is told again at this count, at every doubling of it, and at every multiple of the other one: with the default
 * pauses after some ten seconds, then ever more rarely, down to four times an hour.
 */
const REPEAT_FROM = 16
const REPEAT_EVERY = 1024
/** A socket whose peer never closes its side (a dead host) is destroyed so long after the connection ended. */
const LINGER_MS = 5_000

/** What publishers and subscriptions see of a connection, supervised or handed in. */
export class Connection {
	readonly #changed = new ChangeSignal()
	readonly #downListeners = new Set<() => void>()
	#model: ChannelModel | undefined
	#blockedReason: string | undefined
	#lastError = 'not connected yet'
	#over = false
	protected readonly logger: Logger

	constructor(logger: Logger) {
		this.logger = logger
	}

	/** The connection that stands right now. */
	get model(): ChannelModel | undefined {
		return this.#model
	}

	/** Why the broker accepts no messages on this connection (short of memory or disk), while it does not. */
	get blockedReason(): string | undefined {
		return this.#blockedReason
	}

	/** What ended the last connection or attempt. */
	get lastError(): string {
		return this.#lastError
	}

	/** Closed for good, or handed in and ended. */
	get isOver(): boolean {
		return this.#over
	}

	/** Called whenever a connection ends. */
	onDown(listener: () => void): void {
		this.#downListeners.add(listener)
	}

	/** The connection, waiting at most `timeoutMs` for one. */
	async ready(timeoutMs: number): Promise<ChannelModel> {
		await this.#changed.until(() => this.#model !== undefined || this.#over, timeoutMs)
		if (this.#model === undefined) throw new Error(`no connection to RabbitMQ: ${this.#lastError}`)
		return this.#model
	}

	/** False if the broker still blocks the connection after `timeoutMs`. */
	unblocked(timeoutMs: number): Promise<boolean> {
		return this.#changed.until(() => this.#blockedReason === undefined, timeoutMs)
	}

	async close(_timeoutMs: number): Promise<void> {
		this.end('closed')
	}

	/** amqplib refuses to use the connection, although its end has not been announced. */
	unusable(model: ChannelModel): void {
		this.#lose(model)
	}

	/**
	 * Takes a fresh connection into use. Must be called in the turn in which it appeared.
	 * The promise resolves when it has ended.
	 */
	protected adopt(model: ChannelModel): { readonly ended: Promise<void>; readonly release: () => void } {
		let release = () => {}
		const ended = new Promise<void>((resolve) => {
			const onError = (error: Error) => {
				this.#lastError = error.message
			}
			const onClose = (error?: Error) => {
				if (error !== undefined) this.#lastError = error.message
				this.#lose(model)
				resolve()
			}
			const onBlocked = (why: string) => {
				this.logger.warn('RabbitMQ accepts no messages', { reason: why })
				this.#blockedReason = why
				this.#changed.notify()
			}
			const onUnblocked = () => {
				this.logger.info('RabbitMQ accepts messages again')
				this.#blockedReason = undefined
				this.#changed.notify()
			}
			model.on('error', onError)
			model.on('close', onClose)
			model.on('blocked', onBlocked)
			model.on('unblocked', onUnblocked)
			release = () => {
				model.off('error', onError)
				model.off('close', onClose)
				model.off('blocked', onBlocked)
				model.off('unblocked', onUnblocked)
				this.#lose(model)
				resolve()
			}
		})
		this.#model = model
		this.#blockedReason = undefined
		// Channels end before the connection says why it did; until then this is all they know.
		this.#lastError = 'connection closed'
		this.#changed.notify()
		return { ended, release }
	}

	protected failed(error: unknown): void {
		this.#lastError = whyRefused(error)
	}

	/** No connection will come any more. */
	protected end(reason: string): void {
		this.#over = true
		this.#lastError = reason
		this.#changed.notify()
	}

	#lose(model: ChannelModel): void {
		if (this.#model !== model) return
		this.#model = undefined
		this.#blockedReason = undefined
		for (const listener of this.#downListeners) listener()
		this.#changed.notify()
	}
}

/** Opens connections and keeps opening them until it is closed. */
export class SupervisedConnection extends Connection {
	readonly #options: ConnectionOptions
	readonly #stop = new ChangeSignal()
	readonly #finished: Promise<void>
	#stopping = false
	#destroySocket: (() => void) | undefined

	constructor(options: ConnectionOptions) {
		super(options.logger)
		this.#options = options
		this.#finished = this.#supervise()
	}

	override async close(timeoutMs: number): Promise<void> {
		if (!this.#stopping) {
			this.#stopping = true
			const model = this.model
			if (model !== undefined) {
				await withDeadline(model.close(), timeoutMs, 'closing the connection').catch(() => {})
			}
			this.end('closed')
			this.#destroySocket?.()
			this.#stop.notify()
		}
		await this.#finished
	}

	async #supervise(): Promise<void> {
		const { urls, minBackoffMs, maxBackoffMs, logger } = this.#options
		let failures = 0
		let reported: string | undefined
		for (let attempt = 0; !this.#stopping; attempt += 1) {
			const url = urls[attempt % urls.length] ?? ''
			const server = describeUrl(url)
			try {
				const { ended } = await this.#connect(url)
				logger.info('RabbitMQ connected', { server, connection: this.#options.name })
				reported = undefined
				const since = performance.now()
				await ended
				if (this.#stopping) break
				failures = performance.now() - since < STABLE_AFTER_MS ? failures + 1 : 0
				logger.warn('RabbitMQ connection lost', {
					server,
					connection: this.#options.name,
					error: this.lastError,
				})
			} catch (error) {
				if (this.#stopping) break
				failures += 1
				this.failed(error)
				const log =
					this.lastError === reported && !isTimeToRepeat(failures) ? logger.debug : logger.warn
				log.call(logger, 'RabbitMQ cannot be reached', { server, error: this.lastError, failures })
				reported = this.lastError
			}
			const rounds = Math.floor(Math.max(0, failures - 1) / urls.length)
			await this.#stop.wait(
				withJitter(Math.min(minBackoffMs * 2 ** Math.min(rounds, 16), maxBackoffMs)),
			)
		}
	}

	async #connect(url: string): Promise<{ ended: Promise<void> }> {
		const { connectTimeoutMs, heartbeatSeconds, name } = this.#options
		const socket = new AbortController()
		const destroySocket = () => socket.abort()
		this.#destroySocket = destroySocket
		// Without `noDelay` a small message can wait 40 ms for the ack of the previous one. `signal` is an option of
		// Node's sockets: it destroys one in whatever state it is.
		const options: SocketOptions & { signal: AbortSignal } = {
			noDelay: true,
			keepAlive: true,
			timeout: connectTimeoutMs,
			signal: socket.signal,
			clientProperties: { connection_name: name },
		}
		let abandoned = false
		const connecting = connect(withHeartbeat(url, heartbeatSeconds), options).then((model) => {
			if (abandoned || this.#stopping) {
				model.on('error', () => {})
				model.close().catch(() => {})
				throw new Error('closed while connecting')
			}
			gatherWrites(model)
			return this.adopt(model)
		})
		try {
			// One deadline over everything: amqplib's own `timeout` only counts silence.
			const { ended } = await withDeadline(connecting, connectTimeoutMs, 'connecting')
			void ended.then(() => setTimeout(destroySocket, LINGER_MS).unref())
			return { ended }
		} catch (error) {
			abandoned = true
			destroySocket()
			throw error
		}
	}
}

/** A connection that belongs to somebody else: used as long as it lives, never closed and never replaced. */
export class BorrowedConnection extends Connection {
	readonly #release: () => void

	constructor(model: ChannelModel, logger: Logger) {
		super(logger)
		const { ended, release } = this.adopt(model)
		this.#release = release
		void ended.then(() => this.#report())
	}

	override async close(_timeoutMs: number): Promise<void> {
		this.end('closed')
		this.#release()
	}

	/** It had ended before it was handed in, so nobody will announce it. */
	override unusable(model: ChannelModel): void {
		super.unusable(model)
		this.#report()
	}

	#report(): void {
		if (this.isOver) return
		this.logger.error('The RabbitMQ connection that was handed in has ended; it is not replaced', {
			error: this.lastError,
		})
		this.end(`the connection that was handed in has ended: ${this.lastError}`)
	}
}

export interface OpenChannelOptions {
	readonly timeoutMs: number
	/** Called once when the channel has ended, by whichever side, with the error that ended it, if any. */
	readonly onClosed: (error: Error | undefined) => void
}

/** Opens a channel whose end is always noticed and never thrown. */
export async function openChannel<C extends Channel>(
	connection: Connection,
	open: (model: ChannelModel) => Promise<C>,
	{ timeoutMs, onClosed }: OpenChannelOptions,
): Promise<C> {
	const model = await connection.ready(timeoutMs)
	let abandoned = false
	const opening = open(model).then((channel) => {
		let cause: Error | undefined
		channel.on('error', (error) => {
			cause = error
		})
		channel.on('close', () => onClosed(cause))
		if (abandoned) closeQuietly(channel)
		return channel
	})
	try {
		const channel = await withDeadline(opening, timeoutMs, 'opening a channel')
		// The connection may have ended in the very read that brought the answer, before the listeners stood.
		if (connection.model !== model) throw new Error(`connection lost: ${connection.lastError}`)
		return channel
	} catch (error) {
		abandoned = true
		if (error instanceof IllegalOperationError) connection.unusable(model)
		throw error
	}
}

/** Closes a channel without waiting and without minding that it may be closed. */
export function closeQuietly(channel: Channel): void {
	channel.close().catch(() => {})
}

/** The code of an AMQP close frame (404, 406, …) that an amqplib error carries. */
export function amqpCode(error: unknown): number | undefined {
	if (!(error instanceof Error) || !('code' in error)) return undefined
	return typeof error.code === 'number' ? error.code : undefined
}

function withHeartbeat(url: string, seconds: number): string {
	const parsed = new URL(url)
	if (!parsed.searchParams.has('heartbeat')) parsed.searchParams.set('heartbeat', String(seconds))
	return parsed.href
}

/**
 * Which further failures of one outage are told again, beside the first: an hour of it is a few lines, not a thousand, and
 * whoever looks at the log of the last minutes still finds why.
 */
function isTimeToRepeat(failures: number): boolean {
	return failures % REPEAT_EVERY === 0 || (failures >= REPEAT_FROM && Number.isInteger(Math.log2(failures)))
}

/** amqplib tells a refused virtual host by the frames that it had and had not expected. */
function whyRefused(error: unknown): string {
	const message = messageOf(error)
	return message.startsWith('Expected ConnectionOpenOk')
		? 'RabbitMQ refused the virtual host: it may not exist, or the user may not be allowed there'
		: message
}

/** A URL without its credentials. */
function describeUrl(url: string): string {
	const { protocol, host, pathname } = new URL(url)
	return `${protocol}//${host}${pathname}`
}

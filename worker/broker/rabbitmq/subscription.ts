/**
 * One consumer that comes back. Each session has a channel of its own, so that whatever ends it (a cancelled consumer,
 * `consumer_timeout`, a lost connection) ends nothing else, and so that closing the channel gives back everything
 * unsettled. A delivery belongs to its session: its verbs do nothing once that is over, because a delivery tag of an
 * old channel would settle somebody else's message on a new one.
 */
import type { Channel, ConsumeMessage } from 'amqplib'
import type { ConsumeOptions, Delivery, Subscription } from '../../../src/ports/broker.js'
import type { Logger } from '../../../src/ports/logger.js'
import { withJitter } from '../../../src/loop.js'
import { Acks } from './acks.js'
import { closeQuietly, openChannel, type Connection } from './connection.js'
import { ChangeSignal, Deadline, messageOf, withDeadline } from './deadline.js'
import type { Topology } from './topology.js'

/** How a session ends that its own consumer has paused or closed. */
const NOT_WANTED = 'not wanted'

export interface SubscriptionOptions extends ConsumeOptions {
	readonly connection: Connection
	readonly topology: Topology
	/** For subscribing, and for taking leave. */
	readonly setupTimeoutMs: number
	/** How often a subscription without deliveries makes sure that there are none to be had. */
	readonly idleCheckMs: number
	readonly minBackoffMs: number
	readonly maxBackoffMs: number
	readonly logger: Logger
}

export class RabbitMqSubscription implements Subscription {
	readonly #options: SubscriptionOptions
	readonly #changed = new ChangeSignal()
	#wanted: 'active' | 'paused' | 'closed' = 'active'
	/** From the opening of a channel until everything that came on it has been given back. */
	#inSession = false

	constructor(options: SubscriptionOptions) {
		this.#options = options
		void this.#run()
	}

	async pause(): Promise<void> {
		if (this.#isActive) this.#want('paused')
		while (this.#inSession && !this.#isActive) await this.#changed.wait()
	}

	async resume(): Promise<void> {
		if (this.#wanted === 'paused') this.#want('active')
	}

	async close(): Promise<void> {
		this.#want('closed')
		while (this.#inSession) await this.#changed.wait()
	}

	#want(wanted: 'active' | 'paused' | 'closed'): void {
		this.#wanted = wanted
		this.#changed.notify()
	}

	get #isActive(): boolean {
		return this.#wanted === 'active'
	}

	async #run(): Promise<void> {
		const { queue, connection, minBackoffMs, maxBackoffMs, logger } = this.#options
		let failures = 0
		let reported: string | undefined
		let ended: string | undefined
		while (this.#wanted !== 'closed' && !connection.isOver) {
			if (!this.#isActive) {
				await this.#changed.wait()
				continue
			}
			try {
				ended = await this.#session(() => {
					failures = 0
					reported = undefined
					// A worker that pauses when its slots are full comes back all the time.
					logger[ended === NOT_WANTED ? 'debug' : 'info']('RabbitMQ subscription stands', { queue })
				})
				if (this.#isActive && ended !== NOT_WANTED)
					logger.warn('RabbitMQ subscription lost', { queue, error: ended })
			} catch (error) {
				failures += 1
				const message = messageOf(error)
				if (this.#isActive) {
					const log = message === reported ? logger.debug : logger.warn
					log.call(logger, 'RabbitMQ subscription failed', { queue, error: message, failures })
					reported = message
				}
			}
			this.#inSession = false
			this.#changed.notify()
			if (!this.#isActive || connection.isOver) continue
			const doublings = Math.min(Math.max(0, failures - 1), 16)
			const retry = new Deadline(withJitter(Math.min(minBackoffMs * 2 ** doublings, maxBackoffMs)))
			await this.#changed.until(() => !this.#isActive, retry.remainingMs())
		}
	}

	/**
	 * Subscribes and stays until the channel ends or nobody wants it any more. Resolves with what ended it.
	 * @throws if the subscription could not be made.
	 */
	async #session(onSubscribed: () => void): Promise<string> {
		const { connection, topology, queue, prefetch, setupTimeoutMs, idleCheckMs } = this.#options
		const session: Session = { over: undefined, deliveries: 0, unsettled: 0 }
		const end = (reason: string) => {
			session.over ??= reason
			this.#changed.notify()
		}
		await connection.ready(setupTimeoutMs)
		await topology.ensure(queue)
		if (!this.#isActive) return NOT_WANTED
		this.#inSession = true
		const channel = await openChannel(connection, (model) => model.createChannel(), {
			timeoutMs: setupTimeoutMs,
			onClosed: (error) => end(error?.message ?? `connection lost: ${connection.lastError}`),
		})
		const acks = new Acks(channel)
		let consumerTag: string | undefined
		let watch: NodeJS.Timeout | undefined
		try {
			const subscribe = async () => {
				// Per consumer: quorum queues refuse a limit for the whole channel.
				await channel.prefetch(prefetch)
				return channel.consume(queue, (message) => {
					if (message !== null) this.#deliver(session, channel, acks, message)
					else end('cancelled by RabbitMQ, the queue may be gone')
				})
			}
			const consumer = await withDeadline(subscribe(), setupTimeoutMs, `subscribing to ${queue}`)
			consumerTag = consumer.consumerTag
			if (this.#isActive) onSubscribed()
			const isPassedOver = this.#idleCheck(session, channel)
			watch = setInterval(() => {
				isPassedOver().then(
					(passedOver) => passedOver && end('messages wait, but RabbitMQ delivers none'),
					(error: unknown) => end(messageOf(error)),
				)
			}, idleCheckMs)
			while (session.over === undefined && this.#isActive) await this.#changed.wait()
			return session.over ?? NOT_WANTED
		} finally {
			clearInterval(watch)
			const alive = session.over === undefined
			if (alive) acks.flush()
			end('the subscription has ended')
			// Whatever ended it, the queue is worth a look before the next attempt.
			if (this.#isActive) topology.forget(queue)
			if (alive) await this.#giveBack(channel, consumerTag)
			else closeQuietly(channel)
		}
	}

	/**
	 * RabbitMQ 3.10 was seen to forget a consumer without a word when its queue was deleted and declared again within
	 * milliseconds: the messages were shown as delivered and none arrived. And a backlog that waits in the broker is not
	 * published again. So the returned check, called from time to time, resolves true when it finds messages for the
	 * second time in a row although this consumer could take some and got nothing in between.
	 */
	#idleCheck(session: Session, channel: Channel): () => Promise<boolean> {
		const { queue, prefetch, setupTimeoutMs } = this.#options
		let deliveriesBefore = 0
		let foundBefore = false
		let isUnderWay = false
		return async () => {
			if (isUnderWay) return false
			const { deliveries, unsettled } = session
			const isQuiet = deliveries === deliveriesBefore && unsettled < prefetch
			deliveriesBefore = deliveries
			if (!isQuiet) {
				foundBefore = false
				return false
			}
			isUnderWay = true
			// A queue that has gone closes the channel here, which ends the session.
			const { messageCount } = await withDeadline(
				channel.checkQueue(queue),
				setupTimeoutMs,
				`asking for ${queue}`,
			)
			isUnderWay = false
			const found = messageCount > 0 && session.deliveries === deliveries
			const isPassedOver = found && foundBefore
			foundBefore = found
			return isPassedOver
		}
	}

	/** Returns when the broker has taken back what nobody settled, or after the deadline. */
	async #giveBack(channel: Channel, consumerTag: string | undefined): Promise<void> {
		const { setupTimeoutMs, queue } = this.#options
		const leave = async () => {
			if (consumerTag !== undefined) {
				await channel.cancel(consumerTag)
				// The close would return them too, but from RabbitMQ 4.3 that counts against the delivery limit and this does not.
				channel.nackAll(true)
			}
			await channel.close()
		}
		await withDeadline(leave(), setupTimeoutMs, `leaving ${queue}`).catch(() => closeQuietly(channel))
	}

	#deliver(session: Session, channel: Channel, acks: Acks, message: ConsumeMessage): void {
		// Arrived while taking leave: it goes back with the rest.
		if (session.over !== undefined || !this.#isActive) return
		session.deliveries += 1
		session.unsettled += 1
		acks.delivered(message)
		let settled = false
		const settle = (verb: () => void) => {
			if (settled) return
			settled = true
			session.unsettled -= 1
			if (session.over !== undefined) return
			try {
				verb()
			} catch {
				// The channel is just ending: the broker gives the message to somebody again.
			}
		}
		const giveUp = (verb: () => void) => {
			acks.settled(message)
			verb()
		}
		const { messageId, headers } = message.properties
		const delivery: Delivery = {
			messageId: typeof messageId === 'string' ? messageId : undefined,
			body: message.content.toString('utf8'),
			headers: toTextHeaders(headers),
			redelivered: message.fields.redelivered,
			ack: () => settle(() => acks.ack(message)),
			requeue: () => settle(() => giveUp(() => channel.nack(message, false, true))),
			reject: () => settle(() => giveUp(() => channel.reject(message, false))),
		}
		try {
			this.#options.onDelivery(delivery)
		} catch (error) {
			// Let through, it would close the channel. Given back by `reject`, it counts against the delivery limit on
			// every version of RabbitMQ, so that a message that always throws ends in the dead queue.
			settle(() => giveUp(() => channel.reject(message, true)))
			this.#options.logger.error('A consumer threw on a delivery, which it must not', {
				queue: this.#options.queue,
				messageId: delivery.messageId,
				error: messageOf(error),
			})
		}
	}
}

interface Session {
	/** What ended it. */
	over: string | undefined
	/** Handed over since its beginning. */
	deliveries: number
	/** Handed over and without a verb. */
	unsettled: number
}

/** Strings, numbers and booleans as text; what RabbitMQ adds as tables (`x-death`) is left out. */
function toTextHeaders(headers: Readonly<Record<string, unknown>> | undefined): Record<string, string> {
	const text: Record<string, string> = {}
	for (const [name, value] of Object.entries(headers ?? {})) {
		if (typeof value === 'string') text[name] = value
		else if (typeof value === 'number' || typeof value === 'boolean') text[name] = String(value)
	}
	return text
}

/**
 * Publishes persistent and mandatory, and asks for the verdict on each message:
 *
 * - the broker's `ack` is `confirmed`, unless a `return` for the message came before it: then it is `unroutable`
 *   (RabbitMQ acks those too, and always after the return);
 * - its `nack`, the end of the channel or the deadline is `failed`.
 *
 * One lane (a confirm channel) serves the jobs exchange and one each exchange of the user's. RabbitMQ answers a
 * publish to an exchange that does not exist by closing the channel, with everything on it; so a missing one fails
 * the messages for it and no others.
 */
import { IllegalOperationError, type ConfirmChannel, type Message, type Options } from 'amqplib'
import type { OutboundMessage, PublishOutcome } from '../../../src/ports/broker.js'
import type { Logger } from '../../../src/ports/logger.js'
import { amqpCode, closeQuietly, openChannel, type Connection } from './connection.js'
import { ChangeSignal, Deadline, messageOf, withDeadline } from './deadline.js'
import type { Topology } from './topology.js'

export interface PublisherOptions {
	readonly connection: Connection
	readonly topology: Topology
	readonly jobsExchange: string
	/** From the call of `publish` to the last verdict. */
	readonly confirmTimeoutMs: number
	/** How much of that may pass while no connection stands or the broker blocks it. */
	readonly readyTimeoutMs: number
	readonly setupTimeoutMs: number
	readonly logger: Logger
}

/** RabbitMQ 4 refuses larger messages (`max_message_size`) by closing the channel, which would fail all others on it. */
const MAX_BODY_BYTES = 16 * 1024 * 1024
/** Channels kept open to exchanges of the user's; the one unused for longest goes first. */
const MAX_EVENT_LANES = 16
/** How amqplib words a negative confirm; any other error of a confirm callback means that the channel has ended. */
const NACKED = 'message nacked'

/** One message under way. Tens of thousands a second, so it has no promise of its own. */
class Item {
	readonly message: OutboundMessage
	/** The first verdict stands. */
	outcome: PublishOutcome | undefined
	/** RabbitMQ sent it back; its ack is still to come. */
	isReturned = false
	onSettled: (() => void) | undefined

	constructor(message: OutboundMessage) {
		this.message = message
	}

	settle(outcome: PublishOutcome): void {
		if (this.outcome !== undefined) return
		this.outcome = outcome
		this.onSettled?.()
	}
}

const isOpen = (item: Item): boolean => item.outcome === undefined

function allSettled(items: readonly Item[]): Promise<void> {
	return new Promise((resolve) => {
		const open = items.filter(isOpen)
		let left = open.length
		if (left === 0) return resolve()
		const onSettled = (): void => {
			left -= 1
			if (left === 0) resolve()
		}
		for (const item of open) item.onSettled = onSettled
	})
}

export class Publisher {
	readonly #options: PublisherOptions
	readonly #jobs: Lane
	/** In the order of last use. */
	readonly #events = new Map<string, Lane>()
	readonly #underWay = new Set<Promise<unknown>>()
	#closed = false

	constructor(options: PublisherOptions) {
		this.#options = options
		this.#jobs = new Lane(options, options.jobsExchange, options.topology)
	}

	async publish(messages: readonly OutboundMessage[]): Promise<PublishOutcome[]> {
		if (this.#closed) return messages.map(() => failed('the broker client is closed'))
		const publishing = this.#publish(messages)
		this.#underWay.add(publishing)
		try {
			return await publishing
		} finally {
			this.#underWay.delete(publishing)
		}
	}

	/** Refuses further messages and waits at most `timeoutMs` for the verdicts on those under way. */
	async close(timeoutMs: number): Promise<void> {
		this.#closed = true
		await withDeadline(Promise.all(this.#underWay), timeoutMs, 'flushing').catch(() => {})
		this.#jobs.retire()
		for (const lane of this.#events.values()) lane.retire()
	}

	async #publish(messages: readonly OutboundMessage[]): Promise<PublishOutcome[]> {
		const deadline = new Deadline(this.#options.confirmTimeoutMs)
		const batches = new Map<Lane, Item[]>()
		const items = messages.map((message) => {
			const item = new Item(message)
			const lane = message.exchange === undefined ? this.#jobs : this.#lane(message.exchange)
			const batch = batches.get(lane)
			if (batch === undefined) batches.set(lane, [item])
			else batch.push(item)
			return item
		})
		await Promise.all([...batches].map(([lane, batch]) => this.#publishOn(lane, batch, deadline)))
		return items.map(({ outcome }) => outcome ?? failed('there is no verdict'))
	}

	/** Settles every item, and never rejects. */
	async #publishOn(lane: Lane, items: readonly Item[], deadline: Deadline): Promise<void> {
		try {
			await this.#waitUntilPossible(deadline)
			await lane.send(lane === this.#jobs ? await this.#withQueues(items, deadline) : items, deadline)
		} catch (error) {
			for (const item of items) item.settle(failed(messageOf(error)))
		}
	}

	async #waitUntilPossible(deadline: Deadline): Promise<void> {
		const { connection, readyTimeoutMs } = this.#options
		await connection.ready(Math.min(readyTimeoutMs, deadline.remainingMs()))
		if (connection.blockedReason === undefined) return
		if (!(await connection.unblocked(Math.min(readyTimeoutMs, deadline.remainingMs())))) {
			throw new Error(`RabbitMQ accepts no messages: ${connection.blockedReason}`)
		}
	}

	/** Fails those whose queue cannot be declared, and returns the others. */
	async #withQueues(items: readonly Item[], deadline: Deadline): Promise<readonly Item[]> {
		const queues = [...new Set(items.map((item) => item.message.routingKey))]
		const faults = new Map<string, string>()
		await Promise.all(
			queues.map((queue) =>
				withDeadline(
					this.#options.topology.ensure(queue),
					deadline.remainingMs(),
					`declaring ${queue}`,
				).catch((error: unknown) => faults.set(queue, messageOf(error))),
			),
		)
		if (faults.size === 0) return items
		return items.filter((item) => {
			const fault = faults.get(item.message.routingKey)
			if (fault !== undefined) item.settle(failed(fault))
			return fault === undefined
		})
	}

	#lane(exchange: string): Lane {
		const lane = this.#events.get(exchange) ?? new Lane(this.#options, exchange)
		this.#events.delete(exchange)
		this.#events.set(exchange, lane)
		if (this.#events.size > MAX_EVENT_LANES) {
			const [oldest] = this.#events
			if (oldest !== undefined) {
				this.#events.delete(oldest[0])
				oldest[1].retire()
			}
		}
		return lane
	}
}

/** A confirm channel to one exchange, opened when it is first needed and again after it has ended. */
class Lane {
	readonly #options: PublisherOptions
	readonly #exchange: string
	/** To be told when the exchange or a queue behind it turns out to be missing. */
	readonly #topology: Topology | undefined
	#current: Promise<OpenLane> | undefined

	constructor(options: PublisherOptions, exchange: string, topology?: Topology) {
		this.#options = options
		this.#exchange = exchange
		this.#topology = topology
	}

	/** Sends all items and waits for all verdicts; what has none at the deadline has failed. */
	async send(items: readonly Item[], deadline: Deadline): Promise<void> {
		if (items.length === 0) return
		const opening = this.#open()
		const open = await withDeadline(opening, deadline.remainingMs(), 'opening a channel')
		for (const item of items) {
			if (!open.writable) {
				await open.changed.until(
					() => open.writable || open.ended !== undefined,
					deadline.remainingMs(),
				)
				if (!open.writable) break
			}
			if (open.ended !== undefined) break
			open.publish(this.#exchange, item)
		}
		if (open.ended === undefined) {
			await withDeadline(allSettled(items), deadline.remainingMs(), 'confirming').catch(() => {})
		}
		const late = items.filter(isOpen)
		if (late.length === 0) return
		const reason = open.ended ?? `no answer from RabbitMQ within ${this.#options.confirmTimeoutMs} ms`
		for (const item of late) item.settle(failed(reason))
		// A channel that owes answers remembers what for, and one whose queue is stuck would do so without end.
		if (this.#current === opening) this.retire()
		open.retire()
	}

	/** The channel is closed once nothing is under way on it; the next message opens another one. */
	retire(): void {
		this.#current?.then(
			(open) => open.retire(),
			() => {},
		)
		this.#current = undefined
	}

	#open(): Promise<OpenLane> {
		if (this.#current !== undefined) return this.#current
		const opening = this.#openNow(() => {
			if (this.#current === opening) this.#current = undefined
		})
		this.#current = opening
		opening.catch(() => {
			if (this.#current === opening) this.#current = undefined
		})
		return opening
	}

	async #openNow(onEnded: () => void): Promise<OpenLane> {
		const { connection, setupTimeoutMs } = this.#options
		const channel = await openChannel(connection, (model) => model.createConfirmChannel(), {
			timeoutMs: setupTimeoutMs,
			onClosed: (error) => {
				if (amqpCode(error) === 404) this.#topology?.forgetAll()
				onEnded()
			},
		})
		return new OpenLane(channel, connection, (routingKey) => this.#topology?.forget(routingKey))
	}
}

class OpenLane {
	readonly changed = new ChangeSignal()
	readonly #channel: ConfirmChannel
	/** Sent and without a verdict, in the order of sending. */
	readonly #outstanding = new Set<Item>()
	/** False from the moment that amqplib's write buffer is full until it has drained. */
	writable = true
	/** Why the channel is of no use any more. */
	ended: string | undefined
	readonly #onUnroutable: (routingKey: string) => void
	#retired = false

	constructor(channel: ConfirmChannel, connection: Connection, onUnroutable: (routingKey: string) => void) {
		this.#channel = channel
		this.#onUnroutable = onUnroutable
		let cause: string | undefined
		channel.on('error', (error) => {
			cause = error.message
		})
		channel.on('close', () => this.#end(cause ?? `connection lost: ${connection.lastError}`))
		channel.on('drain', () => {
			this.writable = true
			this.changed.notify()
		})
		channel.on('return', (message) => this.#onReturn(message))
	}

	publish(exchange: string, item: Item): void {
		const body = Buffer.from(item.message.body, 'utf8')
		if (body.length > MAX_BODY_BYTES) {
			item.settle(failed(`a body of ${body.length} bytes is too large, ${MAX_BODY_BYTES} are allowed`))
			return
		}
		this.#outstanding.add(item)
		try {
			this.writable = this.#channel.publish(
				exchange,
				item.message.routingKey,
				body,
				toProperties(item.message),
				(error: unknown) => this.#onVerdict(item, error),
			)
		} catch (error) {
			this.#outstanding.delete(item)
			item.settle(failed(messageOf(error)))
			// Otherwise it was the message: a name or header that cannot be encoded. The channel is fine.
			if (error instanceof IllegalOperationError) this.#end(messageOf(error))
		}
	}

	#end(reason: string): void {
		this.ended ??= reason
		for (const item of this.#outstanding) item.settle(failed(this.ended))
		this.#outstanding.clear()
		this.changed.notify()
	}

	retire(): void {
		this.#retired = true
		this.#closeIfDone()
	}

	#onVerdict(item: Item, error: unknown): void {
		// The end of the channel comes here too, before its cause is known: `#end` follows and tells it.
		if (error instanceof Error && error.message !== NACKED) return
		this.#outstanding.delete(item)
		if (error instanceof Error) {
			item.settle(failed('refused by RabbitMQ (nack): the queue is full or has no leader'))
		} else if (item.isReturned) {
			item.settle({
				status: 'unroutable',
				reason: `no queue is bound for the routing key "${item.message.routingKey}"`,
			})
		} else {
			item.settle({ status: 'confirmed' })
		}
		this.#closeIfDone()
	}

	/** Among messages with the same id and key, which may be one twice, returns come in the order of sending. */
	#onReturn({ properties, fields }: Message): void {
		for (const item of this.#outstanding) {
			const { messageId, routingKey } = item.message
			if (!item.isReturned && messageId === properties.messageId && routingKey === fields.routingKey) {
				item.isReturned = true
				this.#onUnroutable(routingKey)
				return
			}
		}
	}

	#closeIfDone(): void {
		if (!this.#retired || this.ended !== undefined) return
		if ([...this.#outstanding].some(isOpen)) return
		this.ended = 'channel closed'
		closeQuietly(this.#channel)
	}
}

function toProperties({ messageId, headers, priority }: OutboundMessage): Options.Publish {
	return {
		persistent: true,
		mandatory: true,
		messageId,
		contentType: 'application/json',
		contentEncoding: 'utf-8',
		timestamp: Math.floor(Date.now() / 1000),
		headers,
		...(priority === undefined ? {} : { priority }),
	}
}

function failed(reason: string): PublishOutcome {
	return { status: 'failed', reason }
}

/**
 * The port `Broker` inside this process, for embedded use and tests: no server, nothing survives the process. Messages
 * are only hints, so that costs time and no runs.
 *
 * It behaves as RabbitMQ does where callers can see it: publishing never hands a message over in the same turn,
 * messages keep their order, consumers of one queue take turns, what comes back goes to the front, and what is
 * rejected or came back too often goes to `<queue>.dead`. Priorities are ignored, as quorum queues do up to 3.13.
 */
import type {
	Broker,
	ConsumeOptions,
	Delivery,
	OutboundMessage,
	PublishOutcome,
	Subscription,
} from '../../src/ports/broker.js'
import { type Logger, noLogger } from '../../src/ports/logger.js'

export interface InProcessBrokerOptions {
	/** Queues that exist from the start. A queue also comes into being with its first consumer. Default none. */
	readonly queues?: readonly string[]
	/** Messages kept in all job queues together, delivered and unsettled ones included. Default 100000. */
	readonly capacity?: number
	/** Redeliveries of one message before it goes to `<queue>.dead`. Default 1000. */
	readonly deliveryLimit?: number
	/** Messages that each dead queue keeps; the oldest make room. Default 1000. */
	readonly deadLetterMaxLength?: number
	/**
	 * Takes the messages to named exchanges, one after the other: there are no exchanges in this process. What it has taken
	 * is `confirmed`; if it throws or rejects, the answer is `failed`. Without it they are `unroutable`, so that they stay
	 * in the outbox.
	 */
	readonly onEvent?: (message: OutboundMessage) => unknown
	/** Default: says nothing. */
	readonly logger?: Logger
}

interface StoredMessage {
	readonly message: OutboundMessage
	redeliveries: number
}

interface Consumer {
	readonly options: ConsumeOptions
	state: 'active' | 'paused' | 'closed'
	/** What it holds, in the order of delivery; one entry per delivery, so that an old one cannot settle a new one. */
	readonly unsettled: Set<{ readonly stored: StoredMessage }>
}

/** Deliveries in one turn of the event loop, so that a long queue does not starve everything else. */
const DELIVERIES_PER_TURN = 64

/** @throws TypeError that lists every invalid option. */
export function createInProcessBroker(options: InProcessBrokerOptions = {}): Broker {
	const { capacity = 100_000, deliveryLimit = 1_000, deadLetterMaxLength = 1_000 } = options
	const { onEvent, logger = noLogger } = options
	const faults = Object.entries({ capacity, deliveryLimit, deadLetterMaxLength })
		.filter(([, value]) => !Number.isInteger(value) || value < 1)
		.map(([name]) => `${name} must be a whole number of at least 1`)
	if (faults.length > 0) throw new TypeError(`createInProcessBroker: ${faults.join('; ')}`)

	const jobQueues = new Map<string, Queue>()
	const deadQueues = new Map<string, Queue>()
	let kept = 0
	let closed = false

	const addQueue = (name: string): Queue => {
		const dead = new Queue({ logger, deliveryLimit })
		const queue = new Queue({
			logger,
			deliveryLimit,
			onGone: () => {
				kept -= 1
			},
			onDead: (message) => dead.add(message, deadLetterMaxLength),
		})
		jobQueues.set(name, queue)
		deadQueues.set(`${name}.dead`, dead)
		return queue
	}
	for (const name of options.queues ?? []) addQueue(name)

	const publishOne = (message: OutboundMessage): PublishOutcome => {
		if (closed) return { status: 'failed', reason: 'the broker is closed' }
		const queue = jobQueues.get(message.routingKey)
		if (queue === undefined) {
			return { status: 'unroutable', reason: `there is no queue "${message.routingKey}"` }
		}
		if (kept >= capacity) {
			return { status: 'failed', reason: `${capacity} messages are waiting, which is the capacity` }
		}
		kept += 1
		queue.add(message)
		return { status: 'confirmed' }
	}

	const publishEvent = async (message: OutboundMessage): Promise<PublishOutcome> => {
		if (onEvent === undefined)
			return {
				status: 'unroutable',
				reason: `there is no exchange "${message.exchange}" in this process`,
			}
		try {
			await onEvent(message)
			return { status: 'confirmed' }
		} catch (error) {
			return { status: 'failed', reason: `the listener for events failed: ${String(error)}` }
		}
	}

	return {
		async publish(messages) {
			const outcomes: PublishOutcome[] = []
			for (const message of messages)
				outcomes.push(
					message.exchange === undefined || closed
						? publishOne(message)
						: await publishEvent(message),
				)
			return outcomes
		},

		async consume(consumeOptions) {
			if (closed) throw new Error('the broker is closed')
			const { prefetch } = consumeOptions
			if (!Number.isInteger(prefetch) || prefetch < 1 || prefetch > 0xffff) {
				throw new TypeError(`prefetch must be an integer from 1 to 65535, not ${prefetch}`)
			}
			const name = consumeOptions.queue
			const queue = jobQueues.get(name) ?? deadQueues.get(name) ?? addQueue(name)
			return queue.subscribe(consumeOptions)
		},

		async depth(queue) {
			return (jobQueues.get(queue) ?? deadQueues.get(queue))?.depth
		},

		isConnected: () => !closed,

		async close() {
			closed = true
			for (const queue of [...jobQueues.values(), ...deadQueues.values()]) queue.close()
			jobQueues.clear()
			deadQueues.clear()
		},
	}
}

interface QueueOptions {
	readonly deliveryLimit: number
	/** A message has left the queue for good. */
	readonly onGone?: () => void
	/** It was rejected, or came back too often. */
	readonly onDead?: (message: OutboundMessage) => void
	readonly logger: Logger
}

class Queue {
	readonly #options: QueueOptions
	readonly #ready = new Fifo<StoredMessage>()
	/** The first is next in turn. */
	#consumers: Consumer[] = []
	#deliveryScheduled = false

	constructor(options: QueueOptions) {
		this.#options = options
	}

	/** Messages that wait for a consumer. */
	get depth(): number {
		return this.#ready.length
	}

	/** Beyond `maxLength` the oldest message makes room. */
	add(message: OutboundMessage, maxLength = Number.POSITIVE_INFINITY): void {
		if (this.#ready.length >= maxLength) this.#ready.shift()
		this.#ready.push({ message, redeliveries: 0 })
		this.#scheduleDelivery()
	}

	subscribe(options: ConsumeOptions): Subscription {
		const consumer: Consumer = { options, state: 'active', unsettled: new Set() }
		this.#consumers.push(consumer)
		this.#scheduleDelivery()
		return {
			pause: async () => {
				if (consumer.state !== 'active') return
				consumer.state = 'paused'
				this.#takeBack(consumer)
			},
			resume: async () => {
				if (consumer.state !== 'paused') return
				consumer.state = 'active'
				this.#scheduleDelivery()
			},
			close: async () => {
				this.#remove(consumer)
				this.#takeBack(consumer)
			},
		}
	}

	close(): void {
		for (const consumer of this.#consumers) {
			consumer.state = 'closed'
			consumer.unsettled.clear()
		}
		this.#consumers = []
	}

	#remove(consumer: Consumer): void {
		consumer.state = 'closed'
		this.#consumers = this.#consumers.filter((each) => each !== consumer)
	}

	/** Puts what the consumer holds back in front, in its old order. */
	#takeBack(consumer: Consumer): void {
		for (const { stored } of [...consumer.unsettled].reverse()) this.#return(stored)
		consumer.unsettled.clear()
		this.#scheduleDelivery()
	}

	#return(stored: StoredMessage): void {
		stored.redeliveries += 1
		if (stored.redeliveries > this.#options.deliveryLimit) this.#bury(stored)
		else this.#ready.unshift(stored)
	}

	#bury(stored: StoredMessage): void {
		this.#options.onGone?.()
		this.#options.onDead?.(stored.message)
	}

	#scheduleDelivery(): void {
		if (this.#deliveryScheduled || this.#ready.length === 0 || this.#consumers.length === 0) return
		this.#deliveryScheduled = true
		setImmediate(() => {
			this.#deliveryScheduled = false
			for (let count = 0; count < DELIVERIES_PER_TURN; count += 1) {
				const consumer = this.#ready.length > 0 ? this.#nextConsumer() : undefined
				if (consumer === undefined) return
				const stored = this.#ready.shift()
				if (stored !== undefined) this.#deliver(consumer, stored)
			}
			this.#scheduleDelivery()
		})
	}

	/** The first that may have another message; it goes to the end of the line. */
	#nextConsumer(): Consumer | undefined {
		const index = this.#consumers.findIndex(
			({ state, unsettled, options }) => state === 'active' && unsettled.size < options.prefetch,
		)
		const [consumer] = index < 0 ? [] : this.#consumers.splice(index, 1)
		if (consumer !== undefined) this.#consumers.push(consumer)
		return consumer
	}

	#deliver(consumer: Consumer, stored: StoredMessage): void {
		const held = { stored }
		consumer.unsettled.add(held)
		const settle = (verb: () => void) => {
			// Not after another verb, and not after the queue took it back.
			if (!consumer.unsettled.delete(held)) return
			verb()
			this.#scheduleDelivery()
		}
		const { messageId, body, headers } = stored.message
		const delivery: Delivery = {
			messageId,
			body,
			headers: { ...headers },
			redelivered: stored.redeliveries > 0,
			ack: () => settle(() => this.#options.onGone?.()),
			requeue: () => settle(() => this.#return(stored)),
			reject: () => settle(() => this.#bury(stored)),
		}
		try {
			consumer.options.onDelivery(delivery)
		} catch (error) {
			delivery.requeue()
			this.#options.logger.error('A consumer threw on a delivery, which it must not', {
				queue: consumer.options.queue,
				messageId,
				error: error instanceof Error ? error.message : String(error),
			})
		}
	}
}

/** First in, first out, with a way back in at the front; constant time. */
class Fifo<T> {
	/** Those at the front, the first one last. */
	#front: T[] = []
	#back: T[] = []

	get length(): number {
		return this.#front.length + this.#back.length
	}

	push(item: T): void {
		this.#back.push(item)
	}

	unshift(item: T): void {
		this.#front.push(item)
	}

	shift(): T | undefined {
		if (this.#front.length === 0) {
			this.#front = this.#back.reverse()
			this.#back = []
		}
		return this.#front.pop()
	}
}

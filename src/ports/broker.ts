/**
 * The port to the message broker. Two implementations stand behind it: RabbitMQ (`worker/broker/rabbitmq.ts`)
 * and one in this process (`worker/broker/in-process.ts`); one contract suite runs against both.
 *
 * A broker only hints. A message is a doorbell that carries pointers, the row in Postgres is the truth, so an
 * implementation may lose, repeat and reorder messages, but it must never report `confirmed` for a message
 * that it did not keep.
 */

export interface OutboundMessage {
	/** Stable over republication; consumers drop repeats by it. */
	readonly messageId: string
	/** `undefined` is the jobs exchange of this deployment; a name is the user's own exchange. */
	readonly exchange?: string | undefined
	/** On the jobs exchange: the queue's name. */
	readonly routingKey: string
	/** UTF-8 text, usually JSON. */
	readonly body: string
	readonly headers?: Readonly<Record<string, string>> | undefined
	/** 0 (normal) to 9. */
	readonly priority?: number | undefined
}

/**
 * - `confirmed`: the broker keeps the message in a queue.
 * - `unroutable`: the broker returned it, no queue is bound for its routing key.
 * - `failed`: refused (nack), timed out, or the connection broke. It may or may not have been kept: publish it again.
 */
export type PublishOutcome =
	| { readonly status: 'confirmed' }
	| { readonly status: 'unroutable'; readonly reason: string }
	| { readonly status: 'failed'; readonly reason: string }

/** One message handed to a consumer. Exactly one of the three verbs may be called, once; later calls do nothing. */
export interface Delivery {
	readonly messageId: string | undefined
	readonly body: string
	readonly headers: Readonly<Record<string, string>>
	readonly redelivered: boolean
	/** Done with it: the broker forgets the message. */
	ack(): void
	/** Back to the queue, for this or another consumer. */
	requeue(): void
	/** Cannot ever be understood: to the dead-letter queue. */
	reject(): void
}

export interface ConsumeOptions {
	readonly queue: string
	/** Deliveries that may be unsettled at once. */
	readonly prefetch: number
	/** Must not throw; it settles the delivery when it is ready to. */
	readonly onDelivery: (delivery: Delivery) => void
}

export interface Subscription {
	/** Stops new deliveries and requeues those that nobody has settled. Resolves when that is done. */
	pause(): Promise<void>
	/** Starts deliveries again after `pause`. */
	resume(): Promise<void>
	/** Ends the subscription for good; unsettled deliveries go back to the queue. */
	close(): Promise<void>
}

export interface Broker {
	/**
	 * Publishes persistent and mandatory and waits for the broker's verdict on each message.
	 * Answers in the order of `messages`; never rejects for a broken broker, that is the outcome `failed`.
	 */
	publish(messages: readonly OutboundMessage[]): Promise<PublishOutcome[]>
	/**
	 * Subscribes, for as long as the process lives: after a lost connection or a cancelled consumer the
	 * implementation subscribes again by itself. The first subscription may still be under way when this resolves.
	 */
	consume(options: ConsumeOptions): Promise<Subscription>
	/** Messages that wait in the queue, ready for delivery; `undefined` while the broker cannot be asked. */
	depth(queue: string): Promise<number | undefined>
	/** Whether a connection stands right now and is not blocked by the broker. */
	isConnected(): boolean
	/** Flushes what is under way and closes. Idempotent. */
	close(): Promise<void>
}

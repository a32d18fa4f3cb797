/**
 * Acks of one channel, gathered for a turn of the event loop. A quorum queue writes each ack to its log, so what a worker
 * has claimed in one statement is acked in one frame where the tags allow it.
 */
import type { Channel, ConsumeMessage } from 'amqplib'

export class Acks {
	readonly #channel: Channel
	/** Delivered and not settled, in the order of delivery, which is that of their tags. */
	readonly #open = new Map<number, ConsumeMessage>()
	readonly #acked = new Set<number>()
	#scheduled = false

	constructor(channel: Channel) {
		this.#channel = channel
	}

	delivered(message: ConsumeMessage): void {
		this.#open.set(message.fields.deliveryTag, message)
	}

	ack(message: ConsumeMessage): void {
		this.#acked.add(message.fields.deliveryTag)
		if (this.#scheduled) return
		this.#scheduled = true
		setImmediate(() => this.flush())
	}

	/** Settled by another verb, which is under way already. */
	settled(message: ConsumeMessage): void {
		this.#open.delete(message.fields.deliveryTag)
	}

	/** Sends what has gathered. A channel that is just ending loses it: then the messages come again. */
	flush(): void {
		this.#scheduled = false
		let last: ConsumeMessage | undefined
		// "All up to this one" must not settle what is still open before it.
		let covered = 0
		for (const [tag, message] of this.#open) {
			if (!this.#acked.delete(tag)) break
			this.#open.delete(tag)
			last = message
			covered += 1
		}
		try {
			if (last !== undefined) this.#channel.ack(last, covered > 1)
			for (const tag of this.#acked) {
				const message = this.#open.get(tag)
				if (message !== undefined) this.#channel.ack(message)
			}
		} catch {
			// The broker gives the messages to somebody again.
		}
		for (const tag of this.#acked) this.#open.delete(tag)
		this.#acked.clear()
	}
}

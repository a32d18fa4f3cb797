/** Asks how many messages wait in a queue, on a channel of its own: asking for a queue that is not there closes it. */
import type { Channel } from 'amqplib'
import { amqpCode, closeQuietly, openChannel, type Connection } from './connection.js'
import { withDeadline } from './deadline.js'
import type { Topology } from './topology.js'

export class DepthProbe {
	readonly #connection: Connection
	readonly #topology: Topology
	readonly #timeoutMs: number
	#channel: Channel | undefined
	/** One question at a time, so that the failure of one is not that of another. */
	#turn: Promise<unknown> = Promise.resolve()

	constructor(connection: Connection, topology: Topology, timeoutMs: number) {
		this.#connection = connection
		this.#topology = topology
		this.#timeoutMs = timeoutMs
	}

	/** `undefined` if the broker does not tell within the timeout, or has no such queue. */
	depth(queue: string): Promise<number | undefined> {
		const answer = this.#turn.then(() => this.#ask(queue))
		this.#turn = answer
		return answer
	}

	close(): void {
		if (this.#channel !== undefined) closeQuietly(this.#channel)
	}

	async #ask(queue: string): Promise<number | undefined> {
		if (this.#connection.model === undefined || this.#connection.blockedReason !== undefined)
			return undefined
		try {
			const channel = await this.#open()
			const { messageCount } = await withDeadline(
				channel.checkQueue(queue),
				this.#timeoutMs,
				`asking for ${queue}`,
			)
			return messageCount
		} catch (error) {
			this.close()
			this.#channel = undefined
			if (amqpCode(error) === 404) {
				this.#topology.forget(queue)
				this.#topology.ensure(queue).catch(() => {})
			}
			return undefined
		}
	}

	async #open(): Promise<Channel> {
		if (this.#channel !== undefined) return this.#channel
		const channel = await openChannel(this.#connection, (model) => model.createChannel(), {
			timeoutMs: this.#timeoutMs,
			onClosed: () => {
				if (this.#channel === channel) this.#channel = undefined
			},
		})
		this.#channel = channel
		return channel
	}
}

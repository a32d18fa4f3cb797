/** A second hand on the RabbitMQ of the tests, independent of the code under test. */
import { type Channel, type ChannelModel, type Options, connect } from 'amqplib'

export class RabbitMqAdmin {
	readonly #connection: ChannelModel

	private constructor(connection: ChannelModel) {
		this.#connection = connection
	}

	static async connect(url: string): Promise<RabbitMqAdmin> {
		const connection = await connect(url)
		connection.on('error', () => {})
		return new RabbitMqAdmin(connection)
	}

	/** Runs `work` on a channel of its own: a refusal closes it. */
	async do<T>(work: (channel: Channel) => Promise<T>): Promise<T> {
		const channel = await this.#connection.createChannel()
		channel.on('error', () => {})
		try {
			return await work(channel)
		} finally {
			await channel.close().catch(() => {})
		}
	}

	declareQueue(queue: string, options: Options.AssertQueue): Promise<unknown> {
		return this.do((channel) => channel.assertQueue(queue, options))
	}

	deleteQueue(queue: string): Promise<unknown> {
		return this.do((channel) => channel.deleteQueue(queue))
	}

	deleteExchange(exchange: string): Promise<unknown> {
		return this.do((channel) => channel.deleteExchange(exchange))
	}

	/** All that a broker with these options has declared. */
	async remove(jobsExchange: string, queues: readonly string[]): Promise<void> {
		for (const queue of queues) {
			await this.deleteQueue(queue)
			await this.deleteQueue(`${queue}.dead`)
		}
		await this.deleteExchange(jobsExchange)
		await this.deleteExchange(`${jobsExchange}.dead`)
	}

	async close(): Promise<void> {
		await this.#connection.close()
	}
}

/** A second hand on the RabbitMQ of the tests, independent of the code under test. */
import { type Channel, type ChannelModel, type Options, connect } from 'amqplib'

/** RabbitMQ's internal error: on a busy machine a quorum queue may lack a leader for a moment. */
const INTERNAL_ERROR = 541
const MAX_TRIES = 5

/**
 * A connection for a test to hand to the code under test. Without heartbeats: a machine that stands still for half a
 * minute is no lost connection.
 */
export async function connectForTest(url: string): Promise<ChannelModel> {
	const patient = new URL(url)
	patient.searchParams.set('heartbeat', '0')
	const connection = await connect(patient.href)
	// Without a listener whatever ends it would end the process.
	connection.on('error', () => {})
	return connection
}

export class RabbitMqAdmin {
	readonly #url: string

	constructor(url: string) {
		this.#url = url
	}

	/**
	 * Runs `work` on a channel and a connection of its own, so that no refusal or failure meets a later one. Repeated
	 * after an internal error of RabbitMQ's.
	 */
	async do<T>(work: (channel: Channel) => Promise<T>): Promise<T> {
		for (let tries = 1; ; tries++) {
			const connection = await connectForTest(this.#url)
			try {
				const channel = await connection.createChannel()
				channel.on('error', () => {})
				const result = await work(channel)
				// What was sent without an answer has arrived once this is answered.
				await channel.close().catch(() => {})
				return result
			} catch (error) {
				if (tries >= MAX_TRIES || (error as { code?: unknown }).code !== INTERNAL_ERROR) throw error
			} finally {
				await connection.close().catch(() => {})
			}
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
}

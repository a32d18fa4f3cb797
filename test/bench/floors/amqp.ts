/** What RabbitMQ itself does: amqplib alone, persistent messages into a quorum queue, each confirmed. */
import { type ConfirmChannel, connect } from 'amqplib'
import { setTimeout as delay } from 'node:timers/promises'
import { freshQueueName } from '../../support/services/index.js'

/** As long as a job's. */
const BODY = Buffer.from(
	JSON.stringify({ runId: '01a205a7-dc91-74a5-bdfe-f2ccc3d04faf', blueprintId: 'chain-3', nodeId: 'n1' }),
)
/** Unconfirmed messages at once, so that RabbitMQ can confirm many together. */
const WINDOW = 1_000
/** For about half a second after its declaration a quorum queue may lack a leader. */
const ELECTION_MS = 1_000

export interface Publisher {
	/** Publishes so many and waits for every confirm; messages per second. */
	rate(messages: number): Promise<number>
	/** Milliseconds until one message is confirmed. */
	confirmMs(): Promise<number>
	close(): Promise<void>
}

export async function openPublisher(url: string): Promise<Publisher> {
	const connection = await connect(url, { noDelay: true })
	connection.on('error', () => {})
	const channel = await connection.createConfirmChannel()
	channel.on('error', () => {})
	const queue = freshQueueName()
	await channel.assertQueue(queue, { durable: true, arguments: { 'x-queue-type': 'quorum' } })
	await delay(ELECTION_MS)
	return {
		async rate(messages) {
			await channel.purgeQueue(queue)
			const begin = performance.now()
			await publishAll(channel, queue, messages)
			return messages / ((performance.now() - begin) / 1000)
		},
		async confirmMs() {
			const begin = performance.now()
			await publishAll(channel, queue, 1)
			return performance.now() - begin
		},
		async close() {
			await channel.deleteQueue(queue)
			await connection.close()
		},
	}
}

function publishAll(channel: ConfirmChannel, queue: string, messages: number): Promise<void> {
	return new Promise((resolve, reject) => {
		let sent = 0
		let confirmed = 0
		const send = (): void => {
			while (sent < messages && sent - confirmed < WINDOW) {
				const writable = channel.sendToQueue(
					queue,
					BODY,
					{ persistent: true, mandatory: true },
					onVerdict,
				)
				sent += 1
				if (!writable) {
					channel.once('drain', send)
					return
				}
			}
		}
		const onVerdict = (error: unknown): void => {
			if (error instanceof Error) return reject(error)
			confirmed += 1
			if (confirmed === messages) resolve()
			else if (sent - confirmed === WINDOW >> 1) send()
		}
		send()
	})
}

/**
 * Where `npm start` puts business events while there is no RabbitMQ: one line of JSON each, at the end of a file. An
 * event whose line is written but whose row is not yet deleted when the process dies is written once more, under the same
 * `messageId`, as RabbitMQ would get it once more.
 */
import { appendFile } from 'node:fs/promises'
import type { OutboundMessage } from '../../src/ports/broker.js'
import type { Logger } from '../../src/ports/logger.js'

/** @returns what takes an event; it rejects when the file cannot be written */
export function createEventsFile(path: string, logger: Logger): (event: OutboundMessage) => Promise<void> {
	return async ({ messageId, exchange, routingKey, headers, body }) => {
		await appendFile(path, `${JSON.stringify({ messageId, exchange, routingKey, headers, body })}\n`)
		logger.info('A business event was written down', { messageId, exchange, routingKey, file: path })
	}
}

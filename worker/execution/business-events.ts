/** The events that one attempt of a node publishes: kept until its commit, and gone with the attempt if it fails. */
import type { ClaimedNode } from '../../src/claim/claim.js'
import type { OutboxEvent } from '../../src/commit/commit.js'
import { UnstorableValueError, type ValueCodec } from '../../src/context/values.js'
import type { PublishOptions } from './durable-dependencies.js'

/** RabbitMQ takes more, but relays hold many at once; in bytes. */
const MAX_BODY_BYTES = 4 * 1024 * 1024
/** All names and values together, in bytes: headers have to fit into one frame, or RabbitMQ ends the connection. */
const MAX_HEADER_BYTES = 16 * 1024
/** AMQP's limit for names and routing keys, in bytes. */
const MAX_NAME_BYTES = 255
/** Ours, and those that make RabbitMQ send copies elsewhere. */
const RESERVED_HEADERS: ReadonlySet<string> = new Set([
	'runId',
	'nodeId',
	'generation',
	'attempt',
	'blueprintId',
	'traceparent',
	'CC',
	'BCC',
])

export class BusinessEvents {
	readonly #codec: ValueCodec
	readonly #claimed: ClaimedNode
	readonly #events: OutboxEvent[] = []
	#closed = false

	constructor(codec: ValueCodec, claimed: ClaimedNode) {
		this.#codec = codec
		this.#claimed = claimed
	}

	/**
	 * `dependencies.publish`. Everything that RabbitMQ would refuse is refused here, where the node is that said it: once
	 * committed, an event that can never be published would be tried for ever.
	 */
	publish(exchange: string, routingKey: string, message: unknown, options: PublishOptions = {}): string {
		if (this.#closed)
			throw new Error('publish was called after the node had ended: nothing would publish it')
		const what = `event '${String(routingKey)}' for exchange '${String(exchange)}'`
		const refuse = (why: string): never => {
			throw new UnstorableValueError(what, why)
		}
		for (const [name, value] of Object.entries({ exchange, 'routing key': routingKey })) {
			if (typeof value !== 'string') refuse(`its ${name} is no text`)
			if (Buffer.byteLength(value) > MAX_NAME_BYTES)
				refuse(`its ${name} has more than ${MAX_NAME_BYTES} bytes`)
			if (value.includes('\u0000') || !value.isWellFormed())
				refuse(`its ${name} has characters that cannot be sent`)
		}
		const { headers = {}, priority } = options
		const fault = faultOf(headers)
		if (fault !== undefined) refuse(fault)
		if (priority !== undefined && !(Number.isInteger(priority) && priority >= 0 && priority <= 9))
			refuse('its priority is no whole number from 0 to 9')
		const body = this.#codec.serialize(what, message)
		const bytes = Buffer.byteLength(body)
		if (bytes > MAX_BODY_BYTES) refuse(`it has ${bytes} bytes, the limit is ${MAX_BODY_BYTES}`)

		const messageId = crypto.randomUUID()
		this.#events.push({
			messageId,
			exchange,
			routingKey,
			body,
			headers: { ...headers, ...this.#origin() },
			priority,
		})
		return messageId
	}

	/** What was published; from now on nothing more is. */
	close(): readonly OutboxEvent[] {
		this.#closed = true
		return this.#events
	}

	#origin(): Record<string, string> {
		const { key, attempt, blueprintId } = this.#claimed
		return {
			runId: key.runId,
			nodeId: key.nodeId,
			...(key.generation === '' ? {} : { generation: key.generation }),
			attempt: String(attempt),
			blueprintId,
		}
	}
}

function faultOf(headers: Readonly<Record<string, string>>): string | undefined {
	let bytes = 0
	for (const [name, value] of Object.entries(headers)) {
		if (RESERVED_HEADERS.has(name)) return `the header '${name}' is not free to choose`
		if (typeof value !== 'string') return `its header '${name}' is no text`
		if (name === '' || Buffer.byteLength(name) > MAX_NAME_BYTES)
			return `the name of its header '${name.slice(0, 50)}' has not 1 to ${MAX_NAME_BYTES} bytes`
		bytes += Buffer.byteLength(name) + Buffer.byteLength(value)
	}
	return bytes > MAX_HEADER_BYTES
		? `its headers have ${bytes} bytes, the limit is ${MAX_HEADER_BYTES}`
		: undefined
}

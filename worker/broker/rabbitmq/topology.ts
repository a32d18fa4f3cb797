/**
 * What must exist in RabbitMQ before jobs flow, declared again after every reconnect and whenever something is
 * found missing:
 *
 *     <jobs exchange> (direct) ── key = queue's name ──► <queue> (quorum, delivery limit)
 *                                                           │ rejected, or delivered too often
 *     <jobs exchange>.dead (direct) ◄───────────────────────┘
 *          └── key = queue's name ──► <queue>.dead (quorum, bounded: the oldest go first)
 *
 * A dead queue is for a human to look at. No job is lost with a message: the row in Postgres is the truth.
 */
import type { Logger } from '../../../src/ports/logger.js'
import { amqpCode, closeQuietly, openChannel, type Connection } from './connection.js'
import { messageOf, withDeadline } from './deadline.js'

export interface TopologyOptions {
	readonly jobsExchange: string
	readonly queues: readonly string[]
	/** Deliveries after the first before a message goes to the dead queue. */
	readonly deliveryLimit: number
	/** Messages that a dead queue keeps at most. */
	readonly deadLetterMaxLength: number
	/** Further `x-` arguments of the job queues. */
	readonly queueArguments: Readonly<Record<string, string | number | boolean>>
	readonly setupTimeoutMs: number
	readonly logger: Logger
}

/** A queue that cannot be declared is not tried again sooner than this, in ms. */
const RETRY_MS = 500
/** A queue that exists with other arguments needs a human; until then it is tried this often, in ms. */
const MISMATCH_RETRY_MS = 15_000

/** Something with that name exists, but of another kind. Only a human can tell whether it may go. */
class TopologyMismatchError extends Error {
	constructor(what: string, detail: string) {
		super(
			`${what} exists in RabbitMQ with other properties than this version needs (${detail}). ` +
				'If nothing else uses it, stop its publishers, let it run empty and delete it: it is then declared anew; ' +
				'otherwise give this deployment other names (QUEUE_NAME).',
		)
		this.name = 'TopologyMismatchError'
	}
}

interface Declaration {
	readonly done: Promise<void>
	isUnderWay: boolean
	/** Set once it has failed: asked for before then, the failure is repeated without asking the broker. */
	retryAt?: number
}

export class Topology {
	readonly #connection: Connection
	/** The second choice. */
	#other: Connection | undefined
	readonly #options: TopologyOptions
	readonly #declared = new Map<string, Declaration>()

	/**
	 * One for all connections of a process: when two declare the same new quorum queue at once, RabbitMQ 3.10 now and
	 * then answers one of them with 541, or refuses the first messages.
	 */
	constructor(connection: Connection, options: TopologyOptions) {
		this.#connection = connection
		this.#options = options
		connection.onDown(() => this.#declared.clear())
	}

	/** Declares on this connection while the first one is away or blocked. */
	fallBackOn(connection: Connection): void {
		if (this.#other === connection || this.#connection === connection) return
		this.#other = connection
		connection.onDown(() => this.#declared.clear())
	}

	/**
	 * Resolves when the queue and what it needs exist. For a queue that is not one of `queues` there is nothing to do.
	 * @throws TopologyMismatchError, or whatever kept the broker from answering.
	 */
	ensure(queue: string): Promise<void> {
		if (!this.#options.queues.includes(queue)) return Promise.resolve()
		const known = this.#declared.get(queue)
		if (known !== undefined && (known.retryAt === undefined || performance.now() < known.retryAt)) {
			return known.done
		}
		const done = this.#declare(queue)
		const declaration: Declaration = { done, isUnderWay: true }
		this.#declared.set(queue, declaration)
		const ended = done.finally(() => {
			declaration.isUnderWay = false
		})
		ended.catch((error: unknown) => {
			const mismatch = error instanceof TopologyMismatchError
			declaration.retryAt = performance.now() + (mismatch ? MISMATCH_RETRY_MS : RETRY_MS)
			const log = mismatch ? this.#options.logger.error : this.#options.logger.warn
			log.call(this.#options.logger, 'A RabbitMQ queue cannot be declared', {
				queue,
				error: messageOf(error),
			})
		})
		return done
	}

	/** The queue or its binding turned out to be missing: declare it again when it is next needed. */
	forget(queue: string): void {
		const known = this.#declared.get(queue)
		if (known !== undefined && !known.isUnderWay && known.retryAt === undefined)
			this.#declared.delete(queue)
	}

	/** The jobs exchange turned out to be missing. */
	forgetAll(): void {
		for (const queue of [...this.#declared.keys()]) this.forget(queue)
	}

	/** On a channel of its own, which a refusal closes. */
	async #declare(queue: string): Promise<void> {
		const { jobsExchange, deliveryLimit, deadLetterMaxLength, queueArguments, setupTimeoutMs } =
			this.#options
		const deadExchange = `${jobsExchange}.dead`
		const deadQueue = `${queue}.dead`
		const candidates = [this.#connection, this.#other]
		const usable = candidates.find(
			(each) => each?.model !== undefined && each.blockedReason === undefined,
		)
		const connection = usable ?? this.#connection
		const channel = await openChannel(connection, (model) => model.createChannel(), {
			timeoutMs: setupTimeoutMs,
			onClosed: () => {},
		})
		let step = ''
		const declareAll = async () => {
			for (const exchange of [jobsExchange, deadExchange]) {
				step = `exchange "${exchange}"`
				await channel.assertExchange(exchange, 'direct', { durable: true })
			}
			step = `queue "${deadQueue}"`
			await channel.assertQueue(deadQueue, {
				durable: true,
				arguments: { 'x-queue-type': 'quorum', 'x-max-length': deadLetterMaxLength },
			})
			await channel.bindQueue(deadQueue, deadExchange, queue)
			step = `queue "${queue}"`
			await channel.assertQueue(queue, {
				durable: true,
				arguments: {
					'x-queue-type': 'quorum',
					// None up to RabbitMQ 3.13, 20 from 4.0: said here, so that it is the same everywhere.
					'x-delivery-limit': deliveryLimit,
					'x-dead-letter-exchange': deadExchange,
					'x-dead-letter-routing-key': queue,
					...queueArguments,
				},
			})
			await channel.bindQueue(queue, jobsExchange, queue)
		}
		try {
			await withDeadline(declareAll(), setupTimeoutMs, `declaring ${queue}`)
		} catch (error) {
			if (amqpCode(error) === 406) throw new TopologyMismatchError(step, messageOf(error))
			throw new Error(`${step}: ${messageOf(error)}`, { cause: error })
		} finally {
			closeQuietly(channel)
		}
	}
}

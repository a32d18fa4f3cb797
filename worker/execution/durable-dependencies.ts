/**
 * What every node finds in `dependencies`, beside what the workflows module puts there.
 *
 *     createFlow<Order, DurableDependencies>('order').node('pay', async ({ dependencies }) => { … })
 */
import type { RuntimeDependencies } from 'flowcraft'
import type { CommitTransaction } from '../transaction/handle.js'

export interface DurableDependencies extends RuntimeDependencies {
	/**
	 * The same for every attempt of this node, different for every other node, loop turn and run. Hand it on to whatever
	 * you call, so that a repeated attempt is recognised there.
	 */
	readonly idempotencyKey: string
	/** 1-based. A thrown error or a timeout begins the next one; a worker that died does not. */
	readonly attempt: number
	/** W3C trace context of whoever started the run. */
	readonly traceparent: string | undefined
	/**
	 * Runs `fn` unless an earlier attempt of this node has saved what it returned under this key; then that is the result.
	 * What `fn` returns is saved at once; what it throws is not.
	 *
	 * @param key distinguishes the steps of one node
	 * @throws what `fn` throws; `UnstorableValueError`; `ClaimLostError`
	 */
	step<T>(key: string, fn: () => T | Promise<T>): Promise<T>
	/**
	 * Hands data to whoever watches the run (`GET /runs/:id/stream`), at once: partial output, progress. It is no part of the
	 * node's result, and neither undone when the attempt fails nor sure to arrive when the worker dies. Kept for an hour, up
	 * to 10,000 pieces or 1 Mi characters for each execution of the node.
	 *
	 * @returns when there is room for more; need not be awaited, never rejects
	 * @throws UnstorableValueError for data that is no JSON
	 */
	emit(data: unknown): Promise<void>
	/**
	 * Publishes a business event with this attempt: it becomes a row of the outbox in the commit of the node's result, and
	 * is gone if the attempt fails, its claim is lost or the run is cancelled before. A node that ends by waiting publishes
	 * in the commit that makes it wait. A relay then delivers it, at least once and under the same `messageId`, persistent
	 * and mandatory; the order of events is not kept. Exchange and queues are yours: nothing declares them. While they are
	 * missing, the event waits in the outbox.
	 *
	 * @param exchange `''` is RabbitMQ's default exchange: the routing key is the name of a queue
	 * @param message the body, as the serializer writes it; at most 4 MiB
	 * @returns the event's `messageId`, by which consumers drop repeats
	 * @throws UnstorableValueError for what could never be published; no retry follows, since it would do the same
	 */
	publish(exchange: string, routingKey: string, message: unknown, options?: PublishOptions): string
	/**
	 * Runs `callback` when the node has returned, in the very transaction that records its result (or that it waits): what
	 * it writes with `tx` becomes true with the result, or not at all. Several run one after the other. What it throws is a
	 * failure of the attempt, with retries and fallback as for any other; the node's `timeout` goes on.
	 *
	 * It may be called again after a deadlock or a lost connection, so it should do nothing but send statements, and must
	 * not wait for anything else for longer than 10 s. Its statements must not end the transaction, nor touch the run itself.
	 * `startRun(tx, …)` starts another run with the result; `drizzle(tx)` works, and then dates and JSON of that callback
	 * are Drizzle's.
	 *
	 * @throws nothing of the callback's; an error if the node has ended
	 */
	onCommit(callback: (tx: CommitTransaction) => unknown): void
}

export interface PublishOptions {
	/**
	 * Beside `runId`, `nodeId`, `generation` (in loops), `attempt`, `blueprintId` and `traceparent`, which every event has;
	 * 16 KiB at most.
	 */
	readonly headers?: Readonly<Record<string, string>>
	/** 0 (normal) to 9; for queues that know priorities. */
	readonly priority?: number
}

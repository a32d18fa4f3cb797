/**
 * The port to whatever wakes processes early: Redis pub/sub (`worker/doorbell/redis.ts`), one in this process
 * (`worker/doorbell/in-process.ts`), or none (`noDoorbell`). Every listener also polls, so a ring that
 * is lost costs milliseconds and nothing else; no result ever depends on one.
 */

export type Ring =
	/** Rows were added to the outbox: relays may look now. */
	| { readonly type: 'outbox' }
	/** These runs were cancelled or paused: workers abort what they run of them. */
	| { readonly type: 'cancelled'; readonly runIds: readonly string[] }
	/** These runs have ended: whoever waits for one may read it now. */
	| { readonly type: 'ended'; readonly runIds: readonly string[] }

export interface Doorbell {
	/** Fire and forget: never throws, never blocks, drops the ring when nobody can be reached. */
	ring(ring: Ring): void
	/** Calls `listener` for every ring from any process, this one included, until the returned function is called. */
	listen(listener: (ring: Ring) => void): () => void
	/** Closes connections. Idempotent. */
	close(): Promise<void>
}

/** The doorbell of processes that have none: everyone polls. */
export const noDoorbell: Doorbell = {
	ring() {},
	listen: () => () => {},
	async close() {},
}

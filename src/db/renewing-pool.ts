/**
 * A pool that is left behind, and another one opened, when its connections cannot be trusted any more:
 *
 * - after a long rest, on hosts that freeze a process between requests. Nothing runs meanwhile, not even the answer to
 *   the server's farewell, and the first statement on a connection that is long gone would fail or hang;
 * - after an attempt to connect that timed out. postgres.js (3.4.9) never sends anything again on a connection that
 *   closes while a statement waits for the end of the event loop's turn: each attempt to open it anew times out, for
 *   ever, while Postgres is well.
 */
import { createDatabase, type Database, type DatabaseOptions } from './client.js'
import { inOneRoundTrip } from './query.js'

/**
 * @param open makes a pool
 * @param maxRestMs a pool that ran no statement for so long is replaced, in ms. Default: never
 */
export function createRenewingPool(open: () => Database, maxRestMs = Number.POSITIVE_INFINITY): Database {
	let pool = open()
	let usedAt = Date.now()
	let isClosed = false
	const renew = (): void => {
		// What is under way on the old one may finish; how its dead connections end is of no interest.
		pool.close().catch(() => {})
		pool = open()
	}
	const current = (): Database => {
		// Whoever still asks shall not open another one, and not wait for this one to come back.
		if (isClosed) throw new Error('This database has been closed')
		// Not `performance.now()`, which may stand still with the process.
		const now = Date.now()
		if (now - usedAt > maxRestMs) renew()
		usedAt = now
		return pool
	}
	const unsafe = (...args: Parameters<Database['sql']['unsafe']>): unknown => {
		const asked = current()
		const pending = inOneRoundTrip(asked.sql.unsafe(...args))
		pending.then(undefined, (error: unknown) => {
			if (pool === asked && !isClosed && isConnectTimeout(error)) renew()
		})
		return pending
	}
	return {
		sql: new Proxy(pool.sql, {
			get: (_first, property): unknown =>
				property === 'unsafe' ? unsafe : Reflect.get(current().sql, property),
			apply: (_first, self, args): unknown => Reflect.apply(current().sql, self, args),
		}),
		get drizzle() {
			return current().drizzle
		},
		close() {
			isClosed = true
			return pool.close()
		},
	}
}

/** The pool of a process that lives for months: it outlasts whatever happens to its connections. */
export const createLastingDatabase = (url: string, options: DatabaseOptions): Database =>
	createRenewingPool(() => createDatabase(url, options))

const isConnectTimeout = (error: unknown): boolean =>
	error instanceof Error && 'code' in error && error.code === 'CONNECT_TIMEOUT'

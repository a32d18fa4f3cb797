/** The database as requests see it: opened as the host needs it, and no statement hangs its caller. */
import type { Database } from '../src/db/client.js'
import { withDeadline } from '../src/db/errors.js'
import type { Executor } from '../src/db/query.js'

/**
 * A pool that lives as long as the process; or, for hosts where a connection belongs to one request (Cloudflare
 * Workers), how to open one, given the host's bindings. Such a database is opened by the request's first statement
 * and closed when the request has been answered.
 */
export type DatabaseSource = Database | ((bindings: unknown) => Database)

/** How long a statement may take, waiting for a connection included, in ms. */
export const DEFAULT_DATABASE_DEADLINE_MS = 10_000

export interface RequestDatabase {
	/** Opens the database, if nothing has. Each statement on it rejects with a `DeadlineError` when it takes too long. */
	executor(): Executor
	/** Closes what was opened for this request; undefined if nothing was. */
	close(): Promise<void> | undefined
}

export function openForRequest(
	source: DatabaseSource,
	bindings: unknown,
	deadlineMs: number,
): RequestDatabase {
	let own: Database | undefined
	let executor: Executor | undefined
	return {
		executor: () =>
			(executor ??= withDeadlines(
				typeof source === 'function' ? (own = source(bindings)) : source,
				deadlineMs,
			)),
		close: () => own?.close(),
	}
}

/** The pool, with a deadline on everything that is run through `query`. */
function withDeadlines({ sql }: Database, deadlineMs: number): Executor {
	return new Proxy(sql, {
		get(target, property) {
			const member: unknown = Reflect.get(target, property)
			if (property !== 'unsafe') return member
			return (...args: Parameters<typeof sql.unsafe>) =>
				withDeadline('Postgres', deadlineMs, target.unsafe(...args))
		},
	})
}

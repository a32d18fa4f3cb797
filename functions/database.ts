/** The database as requests see it: opened as the host needs it, and no statement hangs its caller. */
import type { Database } from '../src/db/client.js'
import { DeadlineError, recognizable, withDeadline } from '../src/db/errors.js'
import { type Executor, inOneRoundTrip } from '../src/db/query.js'
import { StatementGate } from './statement-gate.js'

/**
 * A pool that lives as long as the process; or, for hosts where a connection belongs to one request (Cloudflare
 * Workers), how to open one, given the host's bindings. Such a database is opened by the request's first statement
 * and closed when the request has been answered.
 */
export type DatabaseSource = Database | ((bindings: unknown) => Database)

/** How long a statement may take, waiting for a connection included, in ms. */
export const DEFAULT_DATABASE_DEADLINE_MS = 10_000

/** How many statements wait for a connection at most, before requests are answered with 503. */
export const DEFAULT_DATABASE_QUEUE_SIZE = 1000

export interface StatementLimits {
	readonly deadlineMs: number
	readonly queueSize: number
}

/** Runs a statement within its limits. */
type RunStatement = <T>(statement: () => PromiseLike<T>) => Promise<T>

export interface RequestDatabase {
	/** Opens the database, if nothing has. Each statement on it rejects with a `DeadlineError` when it takes too long. */
	executor(): Executor
	/** Closes what was opened for this request; undefined if nothing was. */
	close(): Promise<void> | undefined
}

/** How requests open the database, and how requests that come together share one. */
export interface RequestDatabases {
	open(bindings: unknown): RequestDatabase
	/** Undefined where a connection belongs to one request. */
	readonly shared: SharedDatabase | undefined
}

export interface SharedDatabase {
	/** Statements that run, and that wait for a connection, at most. */
	readonly maxUnderWay: number
	/**
	 * A statement whose turn comes when it is not wanted any more is never sent, and rejects with a `DeadlineError`.
	 */
	readonly executor: (isWanted: () => boolean) => Executor
}

export function createRequestDatabases(
	source: DatabaseSource,
	{ deadlineMs, queueSize }: StatementLimits,
): RequestDatabases {
	if (typeof source === 'function') {
		// A connection of its own, which nobody else waits for.
		const run: RunStatement = (statement) => withDeadline('Postgres', deadlineMs, statement())
		return {
			open(bindings) {
				let own: Database | undefined
				let executor: Executor | undefined
				return {
					executor: () => (executor ??= limited((own = source(bindings)), run)),
					close: () => own?.close(),
				}
			},
			shared: undefined,
		}
	}
	const slots = source.sql.options.max
	const gate = new StatementGate({ slots, maxWaiting: queueSize, deadlineMs })
	const executor = limited(source, (statement) => gate.run(statement))
	return {
		open: () => ({ executor: () => executor, close: () => undefined }),
		shared: {
			maxUnderWay: slots + queueSize,
			executor: (isWanted) =>
				limited(source, (statement) =>
					gate.run(() => {
						if (!isWanted())
							throw new DeadlineError('Waiting for a connection to Postgres', deadlineMs)
						return statement()
					}),
				),
		},
	}
}

/** The pool, with limits on everything that is run through `query`. */
function limited({ sql }: Database, run: RunStatement): Executor {
	return new Proxy(sql, {
		get(target, property) {
			const member: unknown = Reflect.get(target, property)
			if (property !== 'unsafe') return member
			return (...args: Parameters<typeof sql.unsafe>) =>
				run(() => inOneRoundTrip(target.unsafe(...args))).catch((error: unknown) => {
					throw recognizable(error)
				})
		},
	})
}

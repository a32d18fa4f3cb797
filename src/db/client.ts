/** Connections to Postgres, with the options that the driver needs to behave while things fail. */
import { drizzle, type PostgresJsDatabase } from 'drizzle-orm/postgres-js'
import postgres, { type Sql } from 'postgres'

export interface DatabaseOptions {
	/** Connections at most. Default 10; edge hosts want 1. */
	readonly max?: number
	/** Shown in `pg_stat_activity`. Default `flowcraft`. */
	readonly applicationName?: string
	/**
	 * The server cancels a statement after so long, in ms. Default 30000. 0: whatever the server is set to; for poolers,
	 * most of which refuse connections that come with a setting.
	 */
	readonly statementTimeoutMs?: number
	/** Give up connecting after so long, in ms. Default 10000. */
	readonly connectTimeoutMs?: number
	/** Close a connection that has been idle for so long, in ms. Default: never. */
	readonly idleTimeoutMs?: number
	/** False for PgBouncer before 1.21 and other transaction poolers. Default true. */
	readonly prepare?: boolean
	/**
	 * Ask each new connection for the database's array types. Default false: nothing here needs them, they cost a round
	 * trip, and postgres.js leaves the rejection of that query unhandled when the connection dies under it.
	 */
	readonly fetchTypes?: boolean
}

/** One pool, seen twice: raw for the engine's functions, and through Drizzle for plain queries. */
export interface Database {
	readonly sql: Sql
	readonly drizzle: PostgresJsDatabase
	/** Closes the pool; waits up to 5 s for what is under way. */
	close(): Promise<void>
}

/** Longest pause between attempts to connect, in seconds. */
const MAX_RECONNECT_PAUSE_S = 0.5

/** Makes a pool. Nothing is connected before the first query. */
export function createDatabase(url: string, options: DatabaseOptions = {}): Database {
	const sql = postgres(url, {
		max: options.max ?? 10,
		// With the default pipelining, callers queued behind a backend that dies may hang for ever
		// (measured: 11 of 20); with one statement per connection at a time none did.
		max_pipeline: 1,
		prepare: options.prepare ?? true,
		fetch_types: options.fetchTypes ?? false,
		// The driver's own pauses between attempts to connect grow to 20 s; an outage should not outlast itself so long.
		backoff: (failures: number) =>
			Math.min(2 ** failures / 100, MAX_RECONNECT_PAUSE_S) * (0.75 + Math.random() / 2),
		connect_timeout: (options.connectTimeoutMs ?? 10_000) / 1000,
		...(options.idleTimeoutMs === undefined ? {} : { idle_timeout: options.idleTimeoutMs / 1000 }),
		onnotice: () => {},
		connection: {
			application_name: options.applicationName ?? 'flowcraft',
			statement_timeout: options.statementTimeoutMs ?? 30_000,
		},
	} as postgres.Options<Record<string, never>> & { max_pipeline: number })
	return {
		sql,
		drizzle: drizzle(sql, { casing: 'snake_case' }),
		close: () => sql.end({ timeout: 5 }),
	}
}

/**
 * One way to run a statement on whatever the caller has: our own postgres.js client, a caller's postgres.js
 * transaction, or a caller's Drizzle database or transaction.
 *
 * Parameters are text, numbers, booleans or null, never arrays, dates or objects: `drizzle(client)` changes how its
 * client serializes those, and clients made for edge hosts (`fetch_types: false`) know no array types at all. Arrays
 * travel as array literals (`textArray`) that the statement casts, results as text, numbers and booleans.
 */
import { sql as drizzleSql, type SQL } from 'drizzle-orm'
import type { Sql, TransactionSql } from 'postgres'
import { withDeadline } from './errors.js'

export type Parameter = string | number | boolean | null
export type Row = Record<string, unknown>

/** Any Drizzle database or transaction over postgres.js. */
export interface DrizzleExecutor {
	execute(query: SQL): PromiseLike<Iterable<Row>>
}

/** What a statement can be run on. */
export type Executor = Sql | TransactionSql | DrizzleExecutor

/**
 * Runs one statement with `$1 …` placeholders and returns its rows.
 *
 * @throws what the driver throws; see `src/db/errors.ts` for what to do about it.
 */
export async function query<T extends Row>(
	executor: Executor,
	text: string,
	parameters: readonly Parameter[] = [],
): Promise<T[]> {
	if (isDrizzle(executor)) return rowsOf(await executor.execute(toDrizzle(text, parameters))) as T[]
	return rowsOf(await inOneRoundTrip(executor.unsafe<T[]>(text, [...parameters], { prepare: true })))
}

/**
 * postgres.js (3.4.9) goes on counting rows where an answer broke off when its connection died: the first answer on the
 * next one has all of its rows, behind as many holes.
 */
function rowsOf<T>(answer: Iterable<T>): T[] {
	const rows: T[] = []
	for (const row of answer) if (row !== undefined) rows.push(row)
	return rows
}

/**
 * postgres.js first asks for the types of a statement's parameters and sends their values when it has the answer: one
 * more round trip for each statement that is new to a connection, which is every one where connections live for a
 * request, and every one that is not prepared. Our parameters are text whatever the answer, so both are sent at once.
 */
export function inOneRoundTrip<P extends PromiseLike<unknown>>(pending: P): P {
	return Object.defineProperty(pending, 'describeFirst', {
		get: () => false,
		set() {},
		configurable: true,
	})
}

function isDrizzle(executor: Executor): executor is DrizzleExecutor {
	return 'execute' in executor && typeof executor.execute === 'function' && !('unsafe' in executor)
}

/** The statement as a Drizzle query: its text as it stands, each placeholder a bound parameter. */
function toDrizzle(text: string, parameters: readonly Parameter[]): SQL {
	const chunks = text
		.split(/\$(\d+)/)
		.map((part, position) =>
			position % 2 === 0 ? drizzleSql.raw(part) : drizzleSql`${parameters[Number(part) - 1] ?? null}`,
		)
	return drizzleSql.join(chunks)
}

/** A Postgres array literal, for `$n::text::text[]` (or another element type). Null elements stay null. */
export function textArray(values: readonly (string | number | null | undefined)[]): string {
	let literal = '{'
	for (let i = 0; i < values.length; i++) {
		if (i > 0) literal += ','
		const value = values[i]
		if (value === null || value === undefined) literal += 'NULL'
		else if (typeof value === 'number') literal += String(value)
		else literal += quoteElement(value)
	}
	return `${literal}}`
}

function quoteElement(value: string): string {
	return value.includes('"') || value.includes('\\') ? `"${value.replace(/[\\"]/g, '\\$&')}"` : `"${value}"`
}

/** A timestamp as text: ISO 8601 in UTC, to the millisecond, as `Date.prototype.toISOString` writes it. */
export function isoColumn(column: string): string {
	return `to_char(${column} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`
}

/** Whether the database answers within `deadlineMs`; for readiness checks. */
export async function answers(executor: Executor, deadlineMs = 2_000): Promise<boolean> {
	try {
		await withDeadline('The database', deadlineMs, query(executor, 'select 1'))
		return true
	} catch {
		return false
	}
}

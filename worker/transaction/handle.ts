/**
 * The `tx` of `onCommit`: a postgres.js handle on a transaction that somebody else began and will end. `drizzle(tx)` takes
 * it too. What is begun in it is a savepoint.
 */
import type { PendingQuery, Row, Sql } from 'postgres'
import type { TransactionConnection } from './connection.js'

/**
 * A postgres.js transaction on the database of the runs, as `sql.begin` gives it, which `drizzle` takes as a client. Inside
 * it `begin` is `savepoint`. There is no `listen`, `subscribe`, `reserve`, `largeObject` or `end`, and no cursors or
 * streams.
 */
export interface CommitTransaction extends Sql {
	/** What `body` writes is undone if it throws; the rest of the transaction goes on. */
	savepoint<T>(body: (tx: CommitTransaction) => T | Promise<T>): Promise<T>
	savepoint<T>(name: string, body: (tx: CommitTransaction) => T | Promise<T>): Promise<T>
}

type Body = (tx: CommitTransaction) => unknown

export interface TransactionHandle {
	readonly tx: CommitTransaction
	/** Refuses all further statements. */
	seal(why: Error): void
}

export function createHandle(connection: TransactionConnection): TransactionHandle {
	const { client } = connection
	let sealed: Error | undefined
	let savepoints = 0
	const gate = <T>(made: T): T => connection.adopt(made, () => sealed)

	const savepoint = async (first: string | Body, second?: Body): Promise<unknown> => {
		const body = typeof first === 'function' ? first : second
		if (body === undefined) throw new TypeError('savepoint takes a function')
		if (sealed !== undefined) throw sealed
		const name = `flowcraft_${savepoints++}`
		const before = connection.failure
		await connection.run(`savepoint ${name}`)
		try {
			const result = await body(tx)
			const settled: unknown = Array.isArray(result) ? await Promise.all(result) : result
			await connection.quiet()
			await connection.run(`release savepoint ${name}`)
			return settled
		} catch (error) {
			await connection.run(`rollback to savepoint ${name}`)
			connection.failure = before
			throw error
		}
	}
	const absent = (): never => {
		throw new Error('This is not available inside onCommit')
	}

	// As postgres.js itself makes them: a function with properties.
	const tag = (first: TemplateStringsArray, ...rest: never[]): unknown =>
		gate((client as unknown as (...given: unknown[]) => unknown)(first, ...rest))
	const tx = Object.assign(tag, {
		CLOSE: client.CLOSE,
		END: client.END,
		PostgresError: client.PostgresError,
		// `drizzle` changes them: they belong to this connection, and are put right again afterwards.
		options: client.options,
		parameters: client.parameters,
		types: client.types,
		typed: client.typed,
		array: client.array,
		json: client.json,
		unsafe: (...given: Parameters<Sql['unsafe']>): PendingQuery<Row[]> => gate(client.unsafe(...given)),
		file: (...given: Parameters<Sql['file']>): PendingQuery<Row[]> => gate(client.file(...given)),
		notify: (channel: string, payload: string): unknown =>
			gate(client.unsafe('select pg_notify($1, $2)', [channel, payload])),
		savepoint,
		begin: savepoint,
		prepare: absent,
		listen: absent,
		subscribe: absent,
		largeObject: absent,
		reserve: absent,
		end: absent,
	}) as unknown as CommitTransaction

	return {
		tx,
		seal(why) {
			sealed ??= why
		},
	}
}

/**
 * One connection to Postgres for one interactive transaction at a time. Whatever happens to it, no statement of a
 * transaction ever runs outside of that transaction.
 *
 * postgres.js connects again by itself and then runs what it still has, and what it is given afterwards, in another
 * transaction or in none (porsager/postgres #1204, #1208). So here:
 *
 * - a connection is a client of its own, which is never shared and whose second attempt to connect is refused;
 * - the driver holds one statement at a time; the others wait with us, and are rejected when the connection is lost;
 * - the first sign of a loss (`#lose`) is the end of this object: the socket is destroyed, nothing is sent any more.
 */
import { connect, type Socket } from 'node:net'
import postgres, { type Sql } from 'postgres'
import { classifyDatabaseError, DeadlineError } from '../../src/db/errors.js'
import { toError } from '../execution/attempt.js'

/** The server cancels a statement after so long, in ms; a transaction may `set local` another limit. */
const STATEMENT_TIMEOUT_MS = 30_000
/** The server ends a transaction that does nothing for so long, in ms: its worker stands still, or is unreachable. */
const IDLE_TIMEOUT_MS = 30_000
/** An answer that takes longer will not come: the way to the server is broken. In ms. */
const ANSWER_DEADLINE_MS = STATEMENT_TIMEOUT_MS + 10_000
const CONNECT_TIMEOUT_MS = 10_000

/** The connection is gone, and the transaction with it; whether a COMMIT under way came through is unknown. */
export class ConnectionLostError extends Error {
	constructor(cause: unknown) {
		super(
			`The transaction's connection was lost: ${cause instanceof Error ? cause.message : String(cause)}`,
			{
				cause,
			},
		)
		this.name = 'ConnectionLostError'
	}
}

/** What we need of postgres.js' queries, which are lazy: a handler is called when somebody awaits them. */
export interface DriverQuery extends Promise<unknown> {
	handler: (query: DriverQuery) => void
	reject: (error: unknown) => void
	cancel: () => unknown
	cursor: () => unknown
	readable: () => unknown
	writable: () => unknown
}

interface Statement {
	readonly query: DriverQuery
	send(): void
}

export class TransactionConnection {
	readonly client: Sql
	/** Rejects when the connection is lost, with the `ConnectionLostError`. */
	readonly lost: Promise<never>
	/** The first statement that Postgres refused in this transaction, outside of savepoints that were rolled back. */
	failure: Error | undefined
	readonly #converters: Converters
	#rejectLost: (error: Error) => void = () => {}
	#lossError: Error | undefined
	#isEstablished = false
	#socket: Socket | undefined
	#active: Statement | undefined
	#waiting: Statement[] = []
	#onQuiet: (() => void)[] = []
	#idleLimit: { readonly ms: number; readonly onReached: () => void } | undefined
	#idleTimer: NodeJS.Timeout | undefined

	constructor(url: string, prepare: boolean) {
		this.lost = new Promise((_, reject) => {
			this.#rejectLost = reject
		})
		// Whoever waits for it hears of it; nobody has to.
		this.lost.catch(() => {})
		this.client = postgres(url, {
			max: 1,
			max_pipeline: 1,
			prepare,
			// The driver leaves the rejection of that query unhandled when the connection dies under it.
			fetch_types: false,
			// Either would end the connection in the middle of a transaction.
			max_lifetime: null,
			idle_timeout: null,
			connect_timeout: CONNECT_TIMEOUT_MS / 1000,
			backoff: () => 0,
			onnotice: () => {},
			onclose: () => this.#lose(new Error('closed by the server')),
			socket: (options: SocketOptions) => this.#openSocket(options),
			connection: {
				application_name: 'flowcraft-on-commit',
				statement_timeout: STATEMENT_TIMEOUT_MS,
				idle_in_transaction_session_timeout: IDLE_TIMEOUT_MS,
			},
		} as unknown as postgres.Options<Record<string, never>>)
		const { parsers, serializers } = this.client.options as unknown as Converters
		this.#converters = { parsers: { ...parsers }, serializers: { ...serializers } }
	}

	get isLost(): boolean {
		return this.#lossError !== undefined
	}

	/** Undoes what `drizzle` has done to the client: it changes how dates and JSON are read and written. */
	resetTypes(): void {
		const { parsers, serializers } = this.client.options as unknown as Converters
		restore(parsers, this.#converters.parsers)
		restore(serializers, this.#converters.serializers)
	}

	/** Runs a statement of the engine's own. @throws ConnectionLostError; what Postgres says */
	async run<T extends Record<string, unknown>>(
		text: string,
		parameters: readonly (string | number | boolean | null)[] = [],
	): Promise<T[] & { command?: string }> {
		const query = this.adopt(
			this.client.unsafe(text, [...parameters], { prepare: parameters.length > 0 }),
		)
		return (await query) as unknown as T[] & { command?: string }
	}

	/**
	 * Puts a query of the driver's behind the gate, whenever it is executed.
	 * @param isOpen asked when it is executed; an error is what it is rejected with
	 */
	adopt<T>(made: T, isOpen: () => Error | undefined = () => undefined): T {
		// Fragments, identifiers and helpers are none.
		if (!(made instanceof Promise)) return made
		const query = made as unknown as DriverQuery
		const { handler } = query
		if (typeof handler !== 'function')
			throw new Error('This version of postgres.js has other queries than expected')
		query.handler = () => {
			const fault = this.#lossError ?? isOpen()
			if (fault !== undefined) return query.reject(fault)
			this.#waiting.push({ query, send: () => handler(query) })
			this.#next()
		}
		const refuse = (): never => {
			throw new Error('Cursors, streams and cancel are not available inside onCommit')
		}
		query.cursor = query.readable = query.writable = query.cancel = refuse
		return made
	}

	/** Resolves when no statement is under way or waits. @throws ConnectionLostError */
	async quiet(): Promise<void> {
		while (this.#active !== undefined || this.#waiting.length > 0)
			await Promise.race([this.lost, new Promise<void>((resolve) => this.#onQuiet.push(resolve))])
		if (this.#lossError !== undefined) throw this.#lossError
	}

	/** From now on, calls back when nothing has been sent for so long; without arguments, never again. */
	limitIdle(ms?: number, onReached?: () => void): void {
		this.#idleLimit = ms === undefined || onReached === undefined ? undefined : { ms, onReached }
		this.#watchIdle()
	}

	/** Ends the connection at once, and with it whatever it was doing. */
	destroy(why: string): void {
		this.#lose(new Error(why))
	}

	/** Ends a connection that has nothing to do. */
	async close(): Promise<void> {
		this.#lossError ??= new Error('The connection has been closed')
		await this.client.end({ timeout: 1 }).catch(() => {})
	}

	#next(): void {
		this.#watchIdle()
		if (this.#active !== undefined) return
		const statement = this.#waiting.shift()
		if (statement === undefined) {
			for (const resolve of this.#onQuiet.splice(0)) resolve()
			return
		}
		this.#active = statement
		const late = setTimeout(
			() => this.#lose(new DeadlineError('A statement in a transaction', ANSWER_DEADLINE_MS)),
			ANSWER_DEADLINE_MS,
		)
		const settled = (error?: unknown): void => {
			clearTimeout(late)
			if (this.#active === statement) this.#active = undefined
			if (error !== undefined) {
				if (isLoss(error)) this.#lose(error)
				else this.failure ??= toError(error)
				// Thrown inside the driver, by a value that it could not write, for one: who knows what it has sent.
				if (!(error instanceof postgres.PostgresError)) this.#lose(error)
			}
			this.#next()
		}
		statement.query.then(
			() => settled(),
			(error: unknown) => settled(error ?? new Error('rejected without a reason')),
		)
		statement.send()
	}

	#watchIdle(): void {
		clearTimeout(this.#idleTimer)
		if (this.#idleLimit === undefined || this.#active !== undefined || this.#waiting.length > 0) return
		this.#idleTimer = setTimeout(this.#idleLimit.onReached, this.#idleLimit.ms)
	}

	#lose(cause: unknown): void {
		if (this.#lossError !== undefined) return
		const error = new ConnectionLostError(cause)
		this.#lossError = error
		clearTimeout(this.#idleTimer)
		this.#idleLimit = undefined
		const statements = [this.#active, ...this.#waiting.splice(0)]
		for (const statement of statements) statement?.query.reject(error)
		this.#socket?.destroy()
		void this.client.end({ timeout: 0 }).catch(() => {})
		this.#rejectLost(error)
		for (const resolve of this.#onQuiet.splice(0)) resolve()
	}

	/** Once a session stands there is no other one. */
	async #openSocket(options: SocketOptions): Promise<Socket> {
		if (this.#isEstablished || this.#lossError !== undefined)
			throw new Error('A transaction cannot be continued on another connection')
		const hosts = options.host.map((host, position) => ({ host, port: options.port[position] ?? 5432 }))
		const targets = options.path ? [{ path: options.path }] : hosts
		let failure: unknown = new Error('There is no host to connect to')
		for (const target of targets) {
			try {
				const socket = await openSocket(target)
				this.#socket = socket
				this.#isEstablished = true
				return socket
			} catch (error) {
				failure = error
			}
		}
		throw failure
	}
}

/** By type. The driver keeps these objects, so they are changed in place. */
interface Converters {
	readonly parsers: Record<string, unknown>
	readonly serializers: Record<string, unknown>
}

function restore(current: Record<string, unknown>, pristine: Record<string, unknown>): void {
	for (const type of Object.keys(current)) if (!(type in pristine)) delete current[type]
	Object.assign(current, pristine)
}

interface SocketOptions {
	readonly host: readonly string[]
	readonly port: readonly number[]
	/** Of a Unix socket. */
	readonly path?: string | false
}

function openSocket(target: { host: string; port: number } | { path: string }): Promise<Socket> {
	return new Promise((resolve, reject) => {
		const socket = connect(target)
		// The driver asks its socket for the name that a certificate has to have.
		if ('host' in target) Object.assign(socket, { host: target.host })
		socket.setNoDelay(true)
		const timer = setTimeout(
			() => socket.destroy(new DeadlineError('Connecting to Postgres', CONNECT_TIMEOUT_MS)),
			CONNECT_TIMEOUT_MS,
		)
		const failed = (error: Error): void => {
			clearTimeout(timer)
			reject(error)
		}
		socket.once('error', failed)
		socket.once('connect', () => {
			clearTimeout(timer)
			socket.off('error', failed)
			resolve(socket)
		})
	})
}

/** Nothing that was asked for is at fault: the connection is gone, or the server ends it. */
function isLoss(error: unknown): boolean {
	if (error instanceof postgres.PostgresError) return error.severity !== 'ERROR'
	return error instanceof ConnectionLostError || classifyDatabaseError(error) === 'unavailable'
}

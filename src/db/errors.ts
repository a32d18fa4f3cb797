/** What an error of Postgres or its driver asks of the caller. */

/**
 * - `unavailable`: the statement may or may not have happened; ask again. Every write of the engine may be repeated.
 * - `refused`: Postgres will never take this data (a NUL character, a value beyond its limits).
 * - `defect`: anything else; nothing that waiting would mend.
 */
export type DatabaseFailure = 'unavailable' | 'refused' | 'defect'

/** SQLSTATE classes: connection, insufficient resources, operator intervention, system error; and rollbacks. */
const UNAVAILABLE_CLASSES = ['08', '53', '57', '58', '40']
const REFUSED_CLASSES = ['22', '54']
/** Driver and socket codes of postgres.js and Node. */
const UNAVAILABLE_CODES = new Set([
	'CONNECTION_CLOSED',
	'CONNECTION_ENDED',
	'CONNECTION_DESTROYED',
	'CONNECT_TIMEOUT',
	'CONNECTION_CONNECT_TIMEOUT',
	'ECONNREFUSED',
	'ECONNRESET',
	'EPIPE',
	'ETIMEDOUT',
	'ENOTFOUND',
	'EAI_AGAIN',
	'EHOSTUNREACH',
	'ENETUNREACH',
	'ENOENT',
])

/** Sorts an error by what its receiver has to do. Wrapped errors (`cause`, as Drizzle does) are looked into. */
export function classifyDatabaseError(error: unknown): DatabaseFailure {
	if (error instanceof DeadlineError || error instanceof ConnectionError) return 'unavailable'
	const code = codeOf(error)
	if (code === undefined) return 'defect'
	if (UNAVAILABLE_CODES.has(code)) return 'unavailable'
	if (/^[0-9A-Z]{5}$/.test(code)) {
		const sqlClass = code.slice(0, 2)
		if (UNAVAILABLE_CLASSES.includes(sqlClass)) return 'unavailable'
		if (REFUSED_CLASSES.includes(sqlClass)) return 'refused'
	}
	return 'defect'
}

/** A statement was not to wait so long for another transaction (`lock_timeout`). Nothing of it happened. */
export const isLockTimeout = (error: unknown): boolean => codeOf(error) === '55P03'

/** Of two transactions that waited for each other this one was ended; nothing of it happened. */
export const isDeadlock = (error: unknown): boolean => codeOf(error) === '40P01'

/** An earlier statement of the transaction has failed, and says why. */
export const isAbortedTransaction = (error: unknown): boolean => codeOf(error) === '25P02'

/** The code of Postgres, of the driver or of a socket; of the cause if the error itself has none. */
export function codeOf(error: unknown): string | undefined {
	for (
		let current = error, depth = 0;
		current instanceof Error && depth < 5;
		current = current.cause, depth++
	) {
		if ('code' in current && typeof current.code === 'string') return current.code
		// Several addresses tried in vain: Node reports them together.
		if (current instanceof AggregateError && current.errors.length > 0) return codeOf(current.errors[0])
	}
	return undefined
}

/** A statement took longer than its caller can wait. Whether it happened is unknown. */
export class DeadlineError extends Error {
	constructor(what: string, ms: number) {
		super(`${what} took longer than ${ms} ms`)
		this.name = 'DeadlineError'
	}
}

/** The host's socket failed. Whether the statement happened is unknown. */
class ConnectionError extends Error {
	constructor(cause: Error) {
		super(cause.message, { cause })
		this.name = 'ConnectionError'
	}
}

/**
 * What a statement on the driver was rejected with, as an error that can be told from others. Postgres, postgres.js and
 * Node's sockets give their errors a code; those of Cloudflare's sockets have a message only.
 */
export function recognizable(error: unknown): unknown {
	const isOfSocket = error instanceof Error && error.constructor === Error && !('code' in error)
	return isOfSocket ? new ConnectionError(error) : error
}

/** Rejects with a `DeadlineError` when `promise` takes longer than `ms`: no statement may hang its caller. */
export async function withDeadline<T>(what: string, ms: number, promise: PromiseLike<T>): Promise<T> {
	let timer: ReturnType<typeof setTimeout> | undefined
	const late = new Promise<never>((_, reject) => {
		timer = setTimeout(() => reject(new DeadlineError(what, ms)), ms)
	})
	try {
		return await Promise.race([promise, late])
	} finally {
		clearTimeout(timer)
	}
}

/** Every error that leaves this API: RFC 9457 problem details, one table of what can go wrong. */
import { UnstorableValueError } from '../src/context/values.js'
import { classifyDatabaseError } from '../src/db/errors.js'
import { refusalOf } from '../src/db/refusal.js'
import { ConflictError, type Fault, GoneError, InvalidInputError, NotFoundError } from '../src/errors.js'
import { jsonResponse } from './answer.js'

export const PROBLEMS = {
	'malformed-json': {
		status: 400,
		title: 'The body is not JSON',
		when: 'The body cannot be parsed as JSON in UTF-8.',
	},
	'invalid-input': {
		status: 400,
		title: 'The request is invalid',
		when: 'Something in it must be corrected; `errors` names each field.',
	},
	unauthorized: {
		status: 401,
		title: 'An API key or a token is needed',
		when: 'None was sent, or one that is not known, not meant for this service or expired.',
	},
	forbidden: {
		status: 403,
		title: 'The API key or token does not allow this',
		when: 'It lacks the scope that the operation needs.',
	},
	'not-found': { status: 404, title: 'Not found', when: 'There is no such thing.' },
	'method-not-allowed': {
		status: 405,
		title: 'Method not allowed',
		when: 'The path exists, but not for this method; see the header Allow.',
	},
	conflict: {
		status: 409,
		title: 'That contradicts what is stored',
		when: 'The request is valid, but not in the present state. Nothing was changed.',
	},
	gone: {
		status: 410,
		title: 'That is over',
		when: 'It was there, but was used before or has expired. Nothing was changed.',
	},
	'body-too-large': {
		status: 413,
		title: 'The body is too large',
		when: 'The body is larger than the configured limit.',
	},
	'uri-too-long': {
		status: 414,
		title: 'The URL is too long',
		when: 'The URL has more than 8192 characters.',
	},
	'unsupported-media-type': {
		status: 415,
		title: 'The body must be application/json',
		when: 'The body is not declared as JSON in UTF-8.',
	},
	'too-many-requests': {
		status: 429,
		title: 'Too many requests',
		when: 'More requests than the server is configured to take from one caller or one address; see the header Retry-After.',
	},
	'headers-too-large': {
		status: 431,
		title: 'The headers are too large',
		when: 'The headers have more than 16384 bytes.',
	},
	internal: {
		status: 500,
		title: 'Something went wrong here',
		when: 'A defect of this software. The log has the details under the problem’s `instance`.',
	},
	unavailable: {
		status: 503,
		title: 'Not available right now',
		when: 'Postgres is down, too busy or not migrated, too many requests are under way, or the keys that tokens are checked with cannot be fetched. A write may have happened or not: repeat it, a start with the same Idempotency-Key.',
	},
} as const

export type ProblemCode = keyof typeof PROBLEMS

/** Where a fault is: `path` is a JSON pointer into that part of the request. */
export interface LocatedFault extends Fault {
	readonly in: 'body' | 'query' | 'header' | 'path'
}

export interface ProblemOptions extends ErrorOptions {
	readonly errors?: readonly LocatedFault[]
	readonly headers?: Readonly<Record<string, string>>
}

/** How long to wait after a 503, in seconds: a database that restarts is back within a few. */
const RETRY_AFTER_SECONDS = 2

/** A request that is answered with a problem. */
export class HttpProblem extends Error {
	readonly code: ProblemCode
	readonly errors: readonly LocatedFault[] | undefined
	readonly headers: Readonly<Record<string, string>>

	constructor(code: ProblemCode, detail: string, options: ProblemOptions = {}) {
		super(detail, options)
		this.name = 'HttpProblem'
		this.code = code
		this.errors = options.errors
		this.headers = {
			...(code === 'unavailable' ? { 'Retry-After': String(RETRY_AFTER_SECONDS) } : {}),
			...options.headers,
		}
	}
}

/** Faults of the request, all of them at once. */
export function invalidInput(errors: readonly LocatedFault[], options?: ErrorOptions): HttpProblem {
	const [first] = errors
	const detail =
		first === undefined
			? 'A value cannot be stored.'
			: errors.length === 1
				? `${first.in} ${first.path || '/'}: ${first.message}`
				: `It has ${errors.length} faults, see errors.`
	return new HttpProblem('invalid-input', detail, { ...options, errors })
}

/**
 * What an error of a use case, or of the database, is to the client.
 * @param where which part of the request the use case got its input from
 */
export function problemOf(error: unknown, where: LocatedFault['in']): HttpProblem {
	if (error instanceof HttpProblem) return error
	const options = { cause: error }
	if (error instanceof InvalidInputError)
		return invalidInput(
			error.faults.map((fault) => ({ in: where, ...fault })),
			options,
		)
	if (error instanceof UnstorableValueError)
		return invalidInput([{ in: where, path: `/${error.key}`, message: error.message }], options)
	if (error instanceof NotFoundError) return new HttpProblem('not-found', error.message, options)
	if (error instanceof GoneError) return new HttpProblem('gone', error.message, options)
	if (error instanceof ConflictError) return new HttpProblem('conflict', error.message, options)
	switch (classifyDatabaseError(error)) {
		case 'unavailable':
			return new HttpProblem(
				'unavailable',
				'Postgres cannot be reached or is too busy. Try again.',
				options,
			)
		case 'refused':
			return new HttpProblem('invalid-input', 'Postgres cannot hold a value of this request.', options)
		case 'defect':
			if (lacksSchema(error))
				return new HttpProblem(
					'unavailable',
					'The database is not set up for this service yet. Its operator has to migrate it.',
					options,
				)
			if (refusalOf(error) !== undefined)
				return new HttpProblem(
					'unavailable',
					'The database of this service does not exist, or does not let it in. Its operator finds the reason in its log.',
					options,
				)
			return new HttpProblem(
				'internal',
				'The request failed here. Whoever runs this server finds the reason in its log.',
				options,
			)
	}
}

/** No such table, column or function: the database was never migrated, or is older than this program. */
export const lacksSchema = (error: unknown): boolean =>
	error instanceof Error && 'code' in error && /^(42P01|42703|42883)$/.test(String(error.code))

export function problemResponse(problem: HttpProblem, instance?: string): Response {
	const { status, title } = PROBLEMS[problem.code]
	const body = {
		type: `/docs#${problem.code}`,
		title,
		status,
		detail: problem.message,
		...(instance === undefined ? {} : { instance }),
		...(problem.errors === undefined ? {} : { errors: problem.errors }),
	}
	return jsonResponse(body, status, { 'Content-Type': 'application/problem+json', ...problem.headers })
}

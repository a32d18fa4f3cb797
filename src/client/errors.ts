/** What can go wrong, by what the caller can do about it. */

/** One fault of a request: a JSON pointer into its body, query, headers or path. */
export interface ProblemFault {
	readonly in: 'body' | 'query' | 'header' | 'path'
	readonly path: string
	readonly message: string
}

/** Problem details (RFC 9457), as the server sends them. */
export interface Problem {
	readonly type: string
	readonly title: string
	readonly status: number
	readonly detail: string
	/** Names the failure in the server's log. */
	readonly instance?: string
	/** Every fault of an invalid request. */
	readonly errors?: readonly ProblemFault[]
}

/** Any failure of a call, other than the reason that its own signal was aborted with. */
export class ClientError extends Error {
	override name = 'ClientError'
}

/** The server has answered, and says what is wrong. */
export class ProblemError extends ClientError {
	override name = 'ProblemError'
	readonly status: number
	readonly problem: Problem

	constructor(problem: Problem) {
		super([problem.title, problem.detail].filter(Boolean).join(': '))
		this.status = problem.status
		this.problem = problem
	}
}

/** 400 and its like: the request has to be corrected; `problem.errors` names each fault. */
export class InvalidRequestError extends ProblemError {
	override name = 'InvalidRequestError'
}
/** 401: an API key or a token is needed. */
export class UnauthorizedError extends ProblemError {
	override name = 'UnauthorizedError'
}
/** 403: the key or token does not allow this. */
export class ForbiddenError extends ProblemError {
	override name = 'ForbiddenError'
}
/** 404: there is no such run or blueprint. */
export class NotFoundError extends ProblemError {
	override name = 'NotFoundError'
}
/** 409: not in the present state; nothing was changed. */
export class ConflictError extends ProblemError {
	override name = 'ConflictError'
}
/** 429: too many requests, for longer than the client was willing to wait. */
export class RateLimitedError extends ProblemError {
	override name = 'RateLimitedError'
}
/**
 * 503: for longer than the client was willing to wait, or once for a request that must not be sent twice. Such a request
 * may have been carried out.
 */
export class UnavailableError extends ProblemError {
	override name = 'UnavailableError'
}

/** No answer came, or only part of one. A request that changes something may have been carried out. */
export class ConnectionError extends ClientError {
	override name = 'ConnectionError'
}

/** What answered is no flowcraft-outbox server. */
export class UnexpectedAnswerError extends ClientError {
	override name = 'UnexpectedAnswerError'
}

const BY_STATUS: Readonly<Record<number, typeof ProblemError>> = {
	400: InvalidRequestError,
	401: UnauthorizedError,
	403: ForbiddenError,
	404: NotFoundError,
	409: ConflictError,
	413: InvalidRequestError,
	414: InvalidRequestError,
	415: InvalidRequestError,
	429: RateLimitedError,
	503: UnavailableError,
}

export function problemError(problem: Problem): ProblemError {
	return new (BY_STATUS[problem.status] ?? ProblemError)(problem)
}

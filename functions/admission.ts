/** What is asked of every request before anything is done for it: its size, how many there are, who sends how many. */
import type { MiddlewareHandler } from 'hono'
import { clientAddress } from './client-address.js'
import type { AppEnv, HostBindings } from './endpoint.js'
import { HttpProblem } from './problem.js'
import { createRateLimiter, type RateLimit } from './rate-limit.js'

export interface AdmissionOptions {
	/** Requests under way at most. */
	readonly maxRequests: number
	/** Per address that requests come from. Default: no limit. */
	readonly addressLimit?: RateLimit
	/** Where a trusted proxy writes the client's address. Default: the connection's own, where the host tells it. */
	readonly addressHeader?: string
}

/** Most of them wait for the end of a run: what they need of memory stays bounded. */
export const DEFAULT_MAX_REQUESTS = 5000

/** Far above what our own links need, such as a long cursor. */
const MAX_URL_LENGTH = 8 * 1024
/** What Node allows too, the request line included. */
const MAX_HEADERS_LENGTH = 16 * 1024
/** `: ` and the end of the line. */
const SEPARATORS_LENGTH = 4
/** Supervisors and load balancers are told how things are, however many others ask. */
const ALWAYS_ADMITTED = new Set(['/healthz', '/readyz'])

/** How long to wait when too many requests are under way, in seconds. */
const BUSY_RETRY_AFTER_SECONDS = 2

export function admit(options: AdmissionOptions): MiddlewareHandler<AppEnv> {
	const countAddress =
		options.addressLimit === undefined ? undefined : createRateLimiter(options.addressLimit)
	let underWay = 0
	return async (c, next) => {
		checkSize(c.req.raw, (c.env as HostBindings | undefined)?.incoming?.rawHeaders)
		if (ALWAYS_ADMITTED.has(c.req.path)) return next()
		if (countAddress !== undefined) {
			const address = clientAddress(c.req.raw.headers, c.env, options.addressHeader)
			if (address !== undefined) countAddress(address)
		}
		if (underWay >= options.maxRequests) {
			throw new HttpProblem('unavailable', 'Too many requests are under way here. Try again.', {
				headers: { 'Retry-After': String(BUSY_RETRY_AFTER_SECONDS) },
			})
		}
		underWay += 1
		try {
			await next()
		} finally {
			const answered = (): void => void (underWay -= 1)
			const answering = c.get('answering')
			if (answering === undefined) answered()
			else void answering.finally(answered)
		}
	}
}

/** @param rawHeaders names and values in turn, where the host has them: reading them costs less than the `Headers` do */
function checkSize({ url, headers }: Request, rawHeaders: readonly string[] | undefined): void {
	if (url.length > MAX_URL_LENGTH)
		throw new HttpProblem('uri-too-long', `The URL has more than ${MAX_URL_LENGTH} characters.`)
	let length = 0
	if (rawHeaders === undefined)
		for (const [name, value] of headers) length += name.length + value.length + SEPARATORS_LENGTH
	else for (const text of rawHeaders) length += text.length + SEPARATORS_LENGTH / 2
	if (length > MAX_HEADERS_LENGTH)
		throw new HttpProblem('headers-too-large', `The headers have more than ${MAX_HEADERS_LENGTH} bytes.`)
}

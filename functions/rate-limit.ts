/**
 * How often somebody may ask: a token bucket each, in this process's memory. Every instance counts for itself, so with
 * many of them the limit is as many times as high; one for all belongs into a proxy in front of them.
 */
import { HttpProblem } from './problem.js'

/** So many requests at once, and as many again over that time. */
export interface RateLimit {
	readonly requests: number
	readonly perMs: number
}

/** Counts one request of `who`. @throws HttpProblem if that is one too many */
export type CountRequest = (who: string) => void

/** Buckets kept at most; the one unused for longest goes first, and would be nearly full by then. */
const MAX_BUCKETS = 10_000

interface Bucket {
	tokens: number
	at: number
}

/** @param now milliseconds that only rise */
export function createRateLimiter(
	{ requests, perMs }: RateLimit,
	now: () => number = () => performance.now(),
): CountRequest {
	/** In the order of last use. */
	const buckets = new Map<string, Bucket>()
	return (who) => {
		const at = now()
		const before = buckets.get(who) ?? { tokens: requests, at }
		const tokens = Math.min(requests, before.tokens + ((at - before.at) * requests) / perMs)
		const allowed = tokens >= 1
		buckets.delete(who)
		buckets.set(who, { tokens: allowed ? tokens - 1 : tokens, at })
		if (buckets.size > MAX_BUCKETS) {
			const [oldest] = buckets.keys()
			if (oldest !== undefined) buckets.delete(oldest)
		}
		if (allowed) return
		const waitMs = Math.round(((1 - tokens) * perMs) / requests)
		const seconds = Math.max(1, Math.ceil(waitMs / 1000))
		throw new HttpProblem('too-many-requests', `Too many requests. Try again in ${seconds} s.`, {
			headers: { 'Retry-After': String(seconds) },
		})
	}
}

/** Reads `600/m`: 600 at once, and 600 a minute. Undefined if it is nothing of the kind. */
export function parseRateLimit(text: string): RateLimit | undefined {
	const [, requests, unit] = /^(\d{1,9})\/(s|m|h)$/.exec(text) ?? []
	if (requests === undefined || Number(requests) === 0) return undefined
	return { requests: Number(requests), perMs: unit === 's' ? 1000 : unit === 'm' ? 60_000 : 3_600_000 }
}

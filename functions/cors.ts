/** Which web pages may call from browsers. Without this none may: the browser sees no header that allows it. */
import type { MiddlewareHandler } from 'hono'
import { cors } from 'hono/cors'

/** How long browsers remember an answer to their question, in seconds. */
const MAX_AGE_SECONDS = 600

/** @param origins `https://app.example.com`, or `*` for all. Cookies are never asked for: keys and tokens are headers. */
export const allowOrigins = (origins: readonly string[]): MiddlewareHandler =>
	cors({
		origin: origins.includes('*') ? '*' : [...origins],
		allowMethods: ['GET', 'POST', 'PUT'],
		allowHeaders: [
			'Authorization',
			'X-API-Key',
			'Content-Type',
			'Idempotency-Key',
			'Last-Event-ID',
			'traceparent',
		],
		exposeHeaders: ['Location', 'Idempotency-Replayed', 'Retry-After'],
		maxAge: MAX_AGE_SECONDS,
	})

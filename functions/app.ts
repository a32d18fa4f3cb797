/**
 * The HTTP door. It touches Postgres and nothing else: a start is one statement there, everything after that is the
 * work of relays and workers. Runs wherever Hono does; each host has a small entry of its own beside this file.
 */
import { OpenAPIHono } from '@hono/zod-openapi'
import type { ISerializer } from 'flowcraft'
import { createValueCodec } from '../src/context/values.js'
import { type Doorbell, noDoorbell } from '../src/ports/doorbell.js'
import { type Logger, noLogger } from '../src/ports/logger.js'
import { createRedactor, DEFAULT_REDACT_KEYS } from '../src/redaction.js'
import { DEFAULT_EVENT_KEEP_MS } from '../src/run/events.js'
import { admit, DEFAULT_MAX_REQUESTS } from './admission.js'
import { type ApiKey, createAuthenticator } from './auth.js'
import { DEFAULT_BODY_LIMIT_BYTES } from './body.js'
import { allowOrigins } from './cors.js'
import {
	createRequestDatabases,
	type DatabaseSource,
	DEFAULT_DATABASE_DEADLINE_MS,
	DEFAULT_DATABASE_QUEUE_SIZE,
} from './database.js'
import { type App, type AppEnv, createEndpoints } from './endpoint.js'
import type { JwtOptions } from './jwt.js'
import { HttpProblem, lacksSchema, problemOf, problemResponse } from './problem.js'
import { createRateLimiter, type RateLimit } from './rate-limit.js'
import { addBlueprintRoutes } from './routes/blueprints.js'
import { addDeadLetterRoutes } from './routes/dead-letters.js'
import { addDocumentationRoutes } from './routes/documentation.js'
import { addEventRoute } from './routes/events.js'
import { addHealthRoutes } from './routes/health.js'
import { addControlRoutes } from './routes/runs/control.js'
import { addHistoryRoutes } from './routes/runs/history.js'
import { addReadRoutes } from './routes/runs/read.js'
import { addStreamRoute, DEFAULT_STREAM_MS } from './routes/runs/stream.js'
import { addStartRoute } from './routes/runs/start.js'
import { addSteeringRoutes } from './routes/runs/steer.js'
import { addWebhookRoute } from './routes/webhooks.js'
import { addWorkerRoutes } from './routes/workers.js'
import { createStarter } from './starter.js'

export interface AppOptions {
	/** The database, or how to open one for a request. */
	readonly db: DatabaseSource
	/** Who may do what. Without keys and without `jwt`, everybody may do everything. */
	readonly apiKeys?: readonly ApiKey[]
	/** An issuer whose tokens are taken as well. */
	readonly jwt?: JwtOptions
	/** Of one caller (a key's name, a token's subject). Default: no limit. */
	readonly callerLimit?: RateLimit
	/** Of one address. Default: no limit. */
	readonly addressLimit?: RateLimit
	/** Where a trusted proxy writes the client's address, such as `cf-connecting-ip`. Default: the connection's own. */
	readonly addressHeader?: string
	/** Requests under way at most; the others are answered with 503. Default 5000. */
	readonly maxRequests?: number
	/** Web pages of these origins (`https://app.example.com`, or `*`) may call from browsers. Default none. */
	readonly corsOrigins?: readonly string[]
	/** Wakes relays, workers and waiting requests early. Default: everyone polls. */
	readonly doorbell?: Doorbell
	/** Names whose values are left out of the history of runs (nodes, events, dead letters). Default: `DEFAULT_REDACT_KEYS`. */
	readonly redactKeys?: readonly string[]
	/** Larger bodies are refused. Default 1 MiB. */
	readonly bodyLimitBytes?: number
	/** A statement that takes longer is answered with 503, in ms. Default 10000. */
	readonly databaseDeadlineMs?: number
	/** Statements that wait for a connection at most; beyond that requests are answered with 503. Default 1000. */
	readonly databaseQueueSize?: number
	/** How long an event that nobody waits for is kept for a later wait, in ms. Default an hour. */
	readonly eventKeepMs?: number
	/** How long one `GET /runs/:id/stream` is kept open at most, in ms. Default 5 minutes; some hosts allow less. */
	readonly streamMs?: number
	/** What the workers write values with, if it is not JSON. */
	readonly serializer?: ISerializer
	/** Where clients reach the app, for the OpenAPI document. */
	readonly publicUrl?: string
	readonly logger?: Logger
}

/** The app: `app.fetch(request)` answers on any host. Nothing is connected, timed or digested before a request. */
export function createApp(options: AppOptions): App {
	const {
		db,
		doorbell = noDoorbell,
		databaseDeadlineMs = DEFAULT_DATABASE_DEADLINE_MS,
		logger = noLogger,
	} = options
	const app: App = new OpenAPIHono<AppEnv>()
	const endpoints = createEndpoints(app, {
		authenticate: createAuthenticator(options.apiKeys, options.jwt),
		...(options.callerLimit === undefined
			? {}
			: { countRequest: createRateLimiter(options.callerLimit) }),
		bodyLimitBytes: options.bodyLimitBytes ?? DEFAULT_BODY_LIMIT_BYTES,
	})

	const queueSize = options.databaseQueueSize ?? DEFAULT_DATABASE_QUEUE_SIZE
	const databases = createRequestDatabases(db, { deadlineMs: databaseDeadlineMs, queueSize })

	if ((options.corsOrigins ?? []).length > 0) app.use(allowOrigins(options.corsOrigins ?? []))
	app.use(async (c, next) => {
		const startedAt = performance.now()
		const database = databases.open(c.env)
		c.set('database', database)
		await next()
		const answering = c.get('answering')
		const closing = (
			answering === undefined ? database.close() : answering.then(() => database.close())
		)?.catch((error: unknown) => logger.warn('Closing the database failed', { error }))
		if (closing !== undefined) outliveRequest(c, closing)
		const { method } = c.req
		logger.debug('Answered', {
			method,
			path: loggable(c.req.path),
			status: c.res.status,
			durationMs: Math.round(performance.now() - startedAt),
		})
	})

	app.use(admit({ maxRequests: DEFAULT_MAX_REQUESTS, ...options }))

	app.onError((error, c) => {
		const { method } = c.req
		const path = loggable(c.req.path)
		const problem = problemOf(error, method === 'GET' ? 'query' : 'body')
		if (lacksSchema(problem.cause)) {
			// In one line: its operator can mend it, and each request says it again.
			const missing = problem.cause instanceof Error ? problem.cause.message : undefined
			logger.error('The database lacks what this program needs: run npm run db:migrate', {
				method,
				path,
				missing,
			})
		} else if (problem.code === 'unavailable') {
			logger.warn('A request could not be served', { method, path, error: problem.cause ?? problem })
		} else if (problem.code === 'internal' && !c.req.raw.signal.aborted) {
			const instance = `urn:uuid:${crypto.randomUUID()}`
			logger.error('A request failed', { method, path, instance, error })
			return problemResponse(problem, instance)
		}
		return problemResponse(problem)
	})

	app.notFound((c) => {
		const { method, path } = c.req
		const allowed = endpoints.methodsAt(path)
		if (allowed.length === 0)
			return problemResponse(new HttpProblem('not-found', `There is no ${path} here. See /docs.`))
		const detail = `${path} does not take ${method}, but ${allowed.join(' and ')}.`
		return problemResponse(
			new HttpProblem('method-not-allowed', detail, { headers: { Allow: allowed.join(', ') } }),
		)
	})

	const codec = createValueCodec(options.serializer)
	const startRun = createStarter(databases, codec, databaseDeadlineMs)
	addStartRoute(endpoints.add, doorbell, startRun)
	addReadRoutes(endpoints.add, doorbell, codec, options.serializer !== undefined)
	const redactor = createRedactor({ keys: options.redactKeys ?? DEFAULT_REDACT_KEYS })
	addHistoryRoutes(endpoints.add, codec, options.serializer !== undefined, redactor)
	addStreamRoute(
		endpoints.add,
		doorbell,
		codec,
		options.serializer !== undefined,
		redactor,
		options.streamMs ?? DEFAULT_STREAM_MS,
	)
	addSteeringRoutes(endpoints.add, doorbell, codec)
	addControlRoutes(endpoints.add, doorbell)
	addEventRoute(endpoints.add, doorbell, codec, options.eventKeepMs ?? DEFAULT_EVENT_KEEP_MS)
	addWebhookRoute(endpoints.add, doorbell, codec)
	addBlueprintRoutes(endpoints.add)
	addWorkerRoutes(endpoints.add)
	addDeadLetterRoutes(endpoints.add, doorbell, redactor)
	addHealthRoutes(endpoints.add)
	addDocumentationRoutes(endpoints.add, app, options.publicUrl)
	return app
}

/** Whoever knows a webhook's path may use it: it stands in no log. */
const loggable = (path: string): string => path.replace(/^(\/webhooks\/).+/s, '$1…')

/** Edge hosts end a request's work with its answer unless they are asked to wait for more. */
function outliveRequest(
	c: { readonly executionCtx: { waitUntil(promise: Promise<unknown>): void } },
	work: Promise<unknown>,
): void {
	try {
		c.executionCtx.waitUntil(work)
	} catch {
		// Hono throws where the host has no such thing; there the process goes on by itself.
	}
}

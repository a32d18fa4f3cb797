/**
 * One description per operation, used three times: to route, to check the request, and to document it. Whatever is
 * wrong with a request, in its path, query, headers or body, is told in one answer.
 */
import type { OpenAPIHono, z } from '@hono/zod-openapi'
import type { Context } from 'hono'
import type { Executor } from '../src/db/query.js'
import type { Authenticate } from './auth.js'
import { readJsonBody, readTextBody } from './body.js'
import type { RequestDatabase } from './database.js'
import { describe } from './openapi.js'
import { HttpProblem, invalidInput, type LocatedFault, type ProblemCode } from './problem.js'
import type { CountRequest } from './rate-limit.js'
import { type Caller, NOBODY, type Scope } from './scopes.js'
import { pointerToken, storageFaults } from './storable.js'

/** What a host tells with each request. */
export interface HostBindings {
	/** Aborted when the server stops: whoever waits answers with what there is. `serveFunctions` sets it. */
	readonly stopping?: AbortSignal
	/** Whose connection it is, in the shape that `@hono/node-server` gives it. */
	readonly incoming?: {
		readonly socket: { readonly remoteAddress?: string | undefined }
		readonly rawHeaders?: readonly string[]
	}
	/** Answers leave in one piece when they are complete: nothing of them is seen before. */
	readonly inOnePiece?: boolean
}

export interface AppEnv {
	Bindings: HostBindings
	Variables: {
		database: RequestDatabase
		/** Resolves when an answer has been written that takes its time. */
		answering?: Promise<unknown>
	}
}

export type App = OpenAPIHono<AppEnv>

interface Answer {
	readonly description: string
	/** None: the answer is not JSON, or has no body. */
	readonly schema?: z.ZodType
	readonly mediaType?: string
	readonly example?: unknown
	/** Header names with what they say. */
	readonly headers?: Readonly<Record<string, string>>
}

/** An operation of the API. Schemas describe what is sent: texts in path, query and headers, JSON in the body. */
export interface EndpointDefinition {
	readonly method: 'get' | 'post' | 'put'
	readonly path: `/${string}`
	/** Stable: generated clients name their methods after it. */
	readonly operationId: string
	readonly tag: 'Runs' | 'Events' | 'Blueprints' | 'Operations'
	readonly summary: string
	readonly description?: string
	/** What the caller's key must allow; `open` needs no key. */
	readonly scope: Scope | 'open'
	readonly params?: z.ZodObject
	readonly query?: z.ZodObject
	/** Under their names as documented; requests may write them in any case. */
	readonly headers?: z.ZodObject
	readonly body?: { readonly schema: z.ZodType; readonly optional?: true; readonly example: unknown }
	/** Instead of `body`: any text, handed on with the headers. */
	readonly rawBody?: { readonly description: string; readonly example: unknown }
	readonly answers: Readonly<Record<number, Answer>>
	/** Beyond those that every operation of its kind can end with. */
	readonly problems?: readonly ProblemCode[]
}

/** zod's optional fields may be `undefined`; in what came as JSON or text they are simply absent. */
type Exact<T> = T extends object
	? { [K in keyof T as undefined extends T[K] ? never : K]: T[K] } & {
			[K in keyof T as undefined extends T[K] ? K : never]?: Exclude<T[K], undefined>
		}
	: T

type Parsed<D, Part extends string> = D extends { readonly [K in Part]: infer S extends z.ZodType }
	? Exact<z.output<S>>
	: undefined
type ParsedBody<D> = D extends {
	readonly body: { readonly schema: infer S extends z.ZodType; readonly optional?: infer Optional }
}
	? Exact<z.output<S>> | (Optional extends true ? undefined : never)
	: undefined

/** A request as it came. */
export interface RawRequest {
	readonly text: string
	readonly headers: Headers
}

/** A request that is in order. */
export interface Call<D extends EndpointDefinition> {
	readonly params: Parsed<D, 'params'>
	readonly query: Parsed<D, 'query'>
	readonly headers: Parsed<D, 'headers'>
	readonly body: ParsedBody<D>
	readonly raw: D extends { readonly rawBody: unknown } ? RawRequest : undefined
	readonly caller: Caller
	/** Opened with the first statement; each has a deadline. */
	readonly db: Executor
	/** The answer is being written until then: `db` stays open, and the request counts as under way. */
	readonly answersUntil: (written: Promise<unknown>) => void
	/** Aborted when the client has gone. */
	readonly signal: AbortSignal
	/** Aborted when the server stops. */
	readonly stopping: AbortSignal | undefined
	/** The client sees nothing of the answer before it is complete. */
	readonly inOnePiece: boolean
}

export type AddEndpoint = <const D extends EndpointDefinition>(
	definition: D,
	handle: (call: Call<D>) => Response | Promise<Response>,
) => void

export interface EndpointOptions {
	readonly authenticate: Authenticate
	/** Counts a request of the caller of that name. Default: as many as come. */
	readonly countRequest?: CountRequest
	readonly bodyLimitBytes: number
}

export interface Endpoints {
	readonly add: AddEndpoint
	/** Methods that a path takes; none of an unknown path. */
	methodsAt(path: string): string[]
}

/** How operations are added to `app`. */
export function createEndpoints(app: App, options: EndpointOptions): Endpoints {
	const known: { readonly method: string; readonly path: RegExp }[] = []
	const add: AddEndpoint = (definition, handle) => {
		app.openAPIRegistry.registerPath(describe(definition))
		known.push({
			method: definition.method.toUpperCase(),
			path: new RegExp(`^${definition.path.replaceAll('.', '\\.').replaceAll(/\{\w+\}/g, '[^/]+')}$`),
		})
		app.on(definition.method.toUpperCase(), honoPath(definition.path), async (c) => {
			const caller =
				definition.scope === 'open' ? NOBODY : await authorize(options, c, definition.scope)
			const host = c.env as HostBindings | undefined
			const call = {
				...(await parseRequest(definition, c, options.bodyLimitBytes)),
				caller,
				get db() {
					return c.var.database.executor()
				},
				answersUntil: (written: Promise<unknown>) => c.set('answering', written),
				get signal() {
					return c.req.raw.signal
				},
				stopping: host?.stopping,
				inOnePiece: host?.inOnePiece === true,
			}
			// The one place where what the schemas have checked gets its type.
			return handle(call as Call<typeof definition>)
		})
	}
	return {
		add,
		methodsAt: (path) => known.filter((endpoint) => endpoint.path.test(path)).map(({ method }) => method),
	}
}

async function authorize(
	{ authenticate, countRequest }: EndpointOptions,
	c: Context<AppEnv>,
	scope: Scope,
): Promise<Caller> {
	const caller = await authenticate(c.req.raw.headers)
	if (caller === undefined) {
		throw new HttpProblem(
			'unauthorized',
			'Send a valid API key or token as Authorization: Bearer <key>, or a key as X-API-Key.',
			{
				headers: { 'WWW-Authenticate': 'Bearer' },
			},
		)
	}
	countRequest?.(caller.name)
	if (!caller.scopes.has(scope))
		throw new HttpProblem('forbidden', `This needs a key or a token with the scope '${scope}'.`)
	return caller
}

/** `/runs/{id}` as Hono writes it. */
const honoPath = (path: string): string => path.replaceAll(/\{(\w+)\}/g, ':$1')

/** @throws HttpProblem with every fault */
async function parseRequest(
	definition: EndpointDefinition,
	c: Context<AppEnv>,
	bodyLimitBytes: number,
): Promise<Record<string, unknown>> {
	const faults: LocatedFault[] = []
	const check = (where: LocatedFault['in'], schema: z.ZodType, value: unknown): unknown => {
		const parsed = schema.safeParse(value, { error: wording })
		if (parsed.success) return parsed.data
		faults.push(...parsed.error.issues.flatMap((issue) => issueFaults(issue, where)))
		return undefined
	}

	const { params, query, headers, body, rawBody } = definition
	const call: Record<string, unknown> = {}
	if (params !== undefined) call['params'] = check('path', params, c.req.param())
	if (query !== undefined) {
		// A parameter without a value (`?status=&tag=x`) is one that was not given.
		const given = Object.entries(c.req.queries()).flatMap(([name, all]) => {
			const values = all.filter((value) => value !== '')
			return values.length === 0 ? [] : [[name, values.length > 1 ? values : values[0]] as const]
		})
		call['query'] = check('query', query, Object.fromEntries(given))
	}
	if (headers !== undefined) {
		const named = Object.keys(headers.shape).flatMap((name) => {
			const value = c.req.header(name)
			return value === undefined ? [] : [[name, value] as const]
		})
		call['headers'] = check('header', headers, Object.fromEntries(named))
	}
	if (body !== undefined) {
		const json = await readJsonBody(c.req.raw, bodyLimitBytes)
		if (json !== undefined) {
			faults.push(...storageFaults(json).map((fault) => ({ in: 'body' as const, ...fault })))
			call['body'] = check('body', body.schema, json)
		} else if (body.optional !== true) {
			faults.push({ in: 'body', path: '', message: 'is required' })
		}
	}
	if (rawBody !== undefined) {
		const text = await readTextBody(c.req.raw, bodyLimitBytes)
		call['raw'] = { text, headers: c.req.raw.headers } satisfies RawRequest
	}
	if (faults.length > 0) throw invalidInput(faults)
	return call
}

/** What zod finds, said of the field instead of its schema. */
const wording: z.core.$ZodErrorMap = (issue) => {
	if (issue.code !== 'invalid_type') return undefined
	if (issue.input === undefined) return 'is required'
	if (Array.isArray(issue.input) && issue.expected === 'string') return 'must be a text, given once'
	return `must be ${/^[aeiou]/.test(issue.expected) ? 'an' : 'a'} ${issue.expected}`
}

function issueFaults(issue: z.core.$ZodIssue, where: LocatedFault['in']): LocatedFault[] {
	const path = issue.path.map((key) => `/${pointerToken(String(key))}`).join('')
	if (issue.code !== 'unrecognized_keys') return [{ in: where, path, message: issue.message }]
	return issue.keys.map((key) => ({
		in: where,
		path: `${path}/${pointerToken(key)}`,
		message: 'is not a known field',
	}))
}

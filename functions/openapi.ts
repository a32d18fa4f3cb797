/** The OpenAPI 3.1 document, made from what routes and checks the requests. */
import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi'
import type { EndpointDefinition } from './endpoint.js'
import { VERSION } from '../src/version.js'
import { PROBLEMS, type ProblemCode } from './problem.js'

export type OpenApiDocument = ReturnType<OpenAPIHono['getOpenAPI31Document']>

/** @param publicUrl where clients reach the app; relative to the document if not known */
export function createDocument(
	app: Pick<OpenAPIHono, 'openAPIRegistry' | 'getOpenAPI31Document'>,
	publicUrl?: string,
): OpenApiDocument {
	const { openapi, info, servers, tags, paths, components } = app.getOpenAPI31Document(
		{
			openapi: '3.1.0',
			info: {
				title: 'flowcraft-outbox',
				version: VERSION,
				description:
					'Starts, watches and steers durable runs of Flowcraft blueprints.\n\n' +
					'Every error is a problem details document (RFC 9457, `application/problem+json`). A request that fails its ' +
					'checks is answered with 400 and every fault in `errors`; nothing is written then. After a 503 a write may ' +
					'have happened or not: wait for `Retry-After` and repeat it, a start with the same `Idempotency-Key`.',
				license: { name: 'MIT' },
			},
			servers: [{ url: publicUrl ?? '/' }],
			tags: [
				{ name: 'Runs', description: 'Starting, watching and steering runs.' },
				{ name: 'Events', description: 'What runs wait for, from outside.' },
				{ name: 'Blueprints', description: 'What can be started.' },
				{ name: 'Operations', description: 'The state of the system itself.' },
			],
		},
		{ sortComponents: 'alphabetically' },
	)
	return {
		openapi,
		info,
		servers: servers ?? [],
		tags: tags ?? [],
		paths: paths ?? {},
		components: {
			schemas: components?.schemas ?? {},
			securitySchemes: {
				bearer: {
					type: 'http',
					scheme: 'bearer',
					description:
						'One of the server’s API keys, or a token of the issuer that the server is configured to trust. Not needed where neither is configured.',
				},
				apiKey: {
					type: 'apiKey',
					in: 'header',
					name: 'X-API-Key',
					description: 'The same keys, for clients that cannot set Authorization.',
				},
			},
		},
	}
}

const problemSchema = z
	.object({
		type: z.string(),
		title: z.string(),
		status: z.int(),
		detail: z.string(),
		instance: z.string().optional(),
		errors: z
			.array(
				z.object({
					in: z.enum(['body', 'query', 'header', 'path']),
					path: z
						.string()
						.openapi({ description: 'A JSON pointer into that part of the request.' }),
					message: z.string(),
				}),
			)
			.optional(),
	})
	.openapi('Problem', { description: 'RFC 9457 problem details.' })

const NO_CONTENT = '204'

/** An operation as zod-to-openapi wants it described. */
export function describe(definition: EndpointDefinition): ReturnType<typeof createRoute> {
	const { params, query, headers, body, rawBody, scope } = definition
	const responses: Record<string, object> = {}
	for (const [status, answer] of Object.entries(definition.answers)) {
		const mediaType = answer.mediaType ?? 'application/json'
		responses[status] = {
			description: answer.description,
			...(answer.headers === undefined ? {} : { headers: headerDocs(answer.headers) }),
			...(status === NO_CONTENT
				? {}
				: {
						content: {
							[mediaType]: {
								schema:
									answer.schema ??
									(mediaType === 'application/json'
										? { type: 'object' }
										: { type: 'string' }),
								...(answer.example === undefined ? {} : { example: answer.example }),
							},
						},
					}),
		}
	}
	for (const [status, codes] of problemsByStatus(definition)) {
		responses[status] = {
			description: codes.map((code) => PROBLEMS[code].when).join(' Or: '),
			...(codes.includes('unavailable') || codes.includes('too-many-requests')
				? { headers: headerDocs({ 'Retry-After': 'Seconds to wait.' }) }
				: {}),
			content: {
				'application/problem+json': {
					schema: problemSchema,
					examples: Object.fromEntries(
						codes.map((code) => [code, { value: problemExample(code) }]),
					),
				},
			},
		}
	}
	return createRoute({
		method: definition.method,
		path: definition.path,
		operationId: definition.operationId,
		tags: [definition.tag],
		summary: definition.summary,
		description: [
			definition.description,
			scope === 'open' ? 'Needs no API key.' : `Needs the scope \`${scope}\`.`,
		]
			.filter(Boolean)
			.join('\n\n'),
		security: scope === 'open' ? [] : [{ bearer: [] }, { apiKey: [] }],
		request: {
			...(params === undefined ? {} : { params }),
			...(query === undefined ? {} : { query }),
			...(headers === undefined ? {} : { headers }),
			...(body === undefined
				? {}
				: {
						body: {
							required: body.optional !== true,
							content: { 'application/json': { schema: body.schema, example: body.example } },
						},
					}),
			...(rawBody === undefined
				? {}
				: {
						body: {
							required: false,
							description: rawBody.description,
							content: {
								'application/json': { schema: {}, example: rawBody.example },
								'text/plain': {
									schema: { type: 'string' },
									example: JSON.stringify(rawBody.example),
								},
							},
						},
					}),
		},
		responses,
	})
}

function problemsByStatus({
	scope,
	params,
	query,
	headers,
	body,
	problems = [],
}: EndpointDefinition): Map<string, ProblemCode[]> {
	const codes = new Set<ProblemCode>([
		...(body === undefined ? [] : (['malformed-json'] as const)),
		...([params, query, headers, body].every((part) => part === undefined)
			? []
			: (['invalid-input'] as const)),
		...(scope === 'open' ? [] : (['unauthorized', 'forbidden'] as const)),
		...problems,
		...(body === undefined ? [] : (['body-too-large', 'unsupported-media-type'] as const)),
		...(scope === 'open' ? [] : (['too-many-requests', 'internal', 'unavailable'] as const)),
		'uri-too-long',
		'headers-too-large',
	])
	const byStatus = new Map<string, ProblemCode[]>()
	for (const code of [...codes].sort((a, b) => PROBLEMS[a].status - PROBLEMS[b].status)) {
		const status = String(PROBLEMS[code].status)
		byStatus.set(status, [...(byStatus.get(status) ?? []), code])
	}
	return byStatus
}

const headerDocs = (headers: Readonly<Record<string, string>>): object =>
	Object.fromEntries(
		Object.entries(headers).map(([name, description]) => [
			name,
			{ description, schema: { type: 'string' } },
		]),
	)

function problemExample(code: ProblemCode): object {
	const { title, status, when } = PROBLEMS[code]
	return {
		type: `/docs#${code}`,
		title,
		status,
		detail: when,
		...(code === 'internal' ? { instance: 'urn:uuid:0192d3c4-5b6a-7c8d-9e0f-1a2b3c4d5e6f' } : {}),
		...(code === 'invalid-input'
			? { errors: [{ in: 'body', path: '/blueprint', message: 'is required' }] }
			: {}),
	}
}

/** `/blueprints`: what can be started. Workers register theirs when they start; this is for everybody else. */
import { z } from '@hono/zod-openapi'
import { listBlueprints, readBlueprint, registerBlueprint } from '../../src/blueprint/register.js'
import { blueprintSchema } from '../../src/blueprint/validate.js'
import { jsonResponse } from '../answer.js'
import type { AddEndpoint, EndpointDefinition } from '../endpoint.js'
import { invalidInput } from '../problem.js'
import { identifier } from './fields.js'

const HASH = '3f2a9c0d5e7b41869a0c2d4e6f8091a3'
const params = z.strictObject({
	id: identifier('Id of a blueprint.').openapi({ example: 'content-moderation' }),
})

const summaryFields = {
	blueprintId: z.string(),
	hash: z.string().openapi({ description: 'Names this content; may be used as `version`.', example: HASH }),
	version: z.string().nullable().openapi({ description: '`metadata.version`, null without one.' }),
}
const summarySchema = z
	.object({ ...summaryFields, createdAt: z.string().openapi({ format: 'date-time' }) })
	.openapi('BlueprintSummary')
const definitionSchema = blueprintSchema.partial({ id: true }).openapi('BlueprintDefinition')

const exampleDefinition = {
	nodes: [
		{ id: 'fetch', uses: 'http-get', params: { url: 'https://example.com' } },
		{ id: 'summarise', uses: 'summarise', config: { maxRetries: 3, timeout: 30_000 } },
	],
	edges: [{ source: 'fetch', target: 'summarise' }],
	metadata: { version: '1.0.0' },
}
const exampleSummary = {
	blueprintId: 'digest',
	hash: HASH,
	version: '1.0.0',
	createdAt: '2026-03-01T12:00:00.000Z',
}

const putBlueprintEndpoint = {
	method: 'put',
	path: '/blueprints/{id}',
	operationId: 'putBlueprint',
	tag: 'Blueprints',
	scope: 'admin',
	summary: 'Register a version of a blueprint',
	description:
		'A new content becomes the current version. A known content changes nothing. The same `metadata.version` with ' +
		'another content is refused with 409. The `id` in the body may be left out.',
	params,
	body: { schema: definitionSchema, example: exampleDefinition },
	answers: Object.fromEntries(
		[
			[201, 'A new version, now the current one.'],
			[200, 'This content was known; nothing has changed.'],
		].map(([status, description]) => [
			status,
			{
				description,
				schema: z
					.object({
						...summaryFields,
						warnings: z.array(z.string()).openapi({ description: 'What no worker can run yet.' }),
					})
					.openapi('RegisteredBlueprint'),
				example: { blueprintId: 'digest', hash: HASH, version: '1.0.0', warnings: [] },
			},
		]),
	) as EndpointDefinition['answers'],
	problems: ['conflict'],
} as const satisfies EndpointDefinition

const listBlueprintsEndpoint = {
	method: 'get',
	path: '/blueprints',
	operationId: 'listBlueprints',
	tag: 'Blueprints',
	scope: 'read',
	summary: 'List blueprints',
	answers: {
		200: {
			description: 'The current version of each blueprint, by id.',
			schema: z.object({ blueprints: z.array(summarySchema) }).openapi('BlueprintList'),
			example: { blueprints: [exampleSummary] },
		},
	},
} as const satisfies EndpointDefinition

const getBlueprintEndpoint = {
	method: 'get',
	path: '/blueprints/{id}',
	operationId: 'getBlueprint',
	tag: 'Blueprints',
	scope: 'read',
	summary: 'Read a blueprint',
	params,
	query: z.strictObject({
		version: identifier('A `metadata.version` or a content hash. Default: the current version.')
			.openapi({ example: '1.0.0' })
			.optional(),
	}),
	answers: {
		200: {
			description: 'One version, with the list of all.',
			schema: z
				.object({
					...summaryFields,
					createdAt: z.string().openapi({ format: 'date-time' }),
					current: z
						.boolean()
						.openapi({ description: 'Whether a start without `version` gets this one.' }),
					definition: definitionSchema,
					versions: z.array(summarySchema).openapi({ description: 'Newest first.' }),
				})
				.openapi('Blueprint'),
			example: {
				...exampleSummary,
				current: true,
				definition: { id: 'digest', ...exampleDefinition },
				versions: [exampleSummary],
			},
		},
	},
	problems: ['not-found'],
} as const satisfies EndpointDefinition

export function addBlueprintRoutes(add: AddEndpoint): void {
	add(putBlueprintEndpoint, async ({ params: { id }, body, db }) => {
		if (body.id !== undefined && body.id !== id) {
			throw invalidInput([
				{ in: 'body', path: '/id', message: `must be '${id}' as in the path, or left out` },
			])
		}
		const { created, ...registered } = await registerBlueprint(db, { ...body, id })
		return jsonResponse(registered, created ? 201 : 200)
	})

	add(listBlueprintsEndpoint, async ({ db }) => jsonResponse({ blueprints: await listBlueprints(db) }))

	add(getBlueprintEndpoint, async ({ params: { id }, query, db }) =>
		jsonResponse(await readBlueprint(db, id, query.version)),
	)
}

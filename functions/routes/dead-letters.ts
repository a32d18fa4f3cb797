/** `/dead-letters`: nodes whose workers kept dying, or that nobody could run. */
import { z } from '@hono/zod-openapi'
import type { Doorbell } from '../../src/ports/doorbell.js'
import type { Redactor } from '../../src/redaction.js'
import { discardDeadLetter, listDeadLetters, replayDeadLetter } from '../../src/run/dead-letters.js'
import { jsonResponse } from '../answer.js'
import type { AddEndpoint, EndpointDefinition } from '../endpoint.js'
import { errorSchema, generationSchema, pageFields } from './fields.js'
import { retriedSchema, RUN_ID } from './runs/schemas.js'

const DEAD_LETTER_ID = 'WyIwMTkyZDNjNCIsImNoYXJnZSIsIiIsIiJd'

const deadLetterParams = z.strictObject({
	// Made of ids, so longer than one of them.
	id: z
		.string()
		.max(4000, 'must not be longer than 4000 characters')
		.openapi({ description: '`id` of a dead letter.', example: DEAD_LETTER_ID }),
})

const deadLetterSchema = z
	.object({
		id: z.string(),
		runId: z.string(),
		nodeId: z.string(),
		generation: generationSchema,
		recovers: z.array(z.string()).optional().openapi({
			description: 'Of a fallback: the failed nodes that it stands in for, nearest first.',
		}),
		blueprint: z.string(),
		version: z.string(),
		state: z
			.enum(['failed', 'recovered'])
			.openapi({ description: '`recovered`: its fallback has completed.' }),
		why: z.string(),
		error: errorSchema.optional(),
		attempts: z.int(),
		crashes: z.int().openapi({ description: 'How often a worker died with it in hand.' }),
		since: z.string().openapi({ format: 'date-time' }),
	})
	.openapi('DeadLetter')

const listDeadLettersEndpoint = {
	method: 'get',
	path: '/dead-letters',
	operationId: 'listDeadLetters',
	tag: 'Operations',
	scope: 'read',
	summary: 'List dead letters',
	description: 'Nodes whose workers kept dying, and nodes that no worker could run; newest first.',
	query: z.strictObject(pageFields(50, 200)),
	answers: {
		200: {
			description: 'A page of dead letters. There are more if it has a `nextCursor`.',
			schema: z
				.object({ deadLetters: z.array(deadLetterSchema), nextCursor: z.string().optional() })
				.openapi('DeadLetterPage'),
			example: {
				deadLetters: [
					{
						id: DEAD_LETTER_ID,
						runId: RUN_ID,
						nodeId: 'charge',
						generation: '0',
						blueprint: 'order',
						version: '1.0.0',
						state: 'failed',
						why: 'Workers died 6 times while they ran this node',
						error: {
							name: 'Error',
							message: 'Workers died 6 times while they ran this node',
						},
						attempts: 1,
						crashes: 6,
						since: '2026-03-01T12:00:00.000Z',
					},
				],
			},
		},
	},
} as const satisfies EndpointDefinition

const replayDeadLetterEndpoint = {
	method: 'post',
	path: '/dead-letters/{id}/replay',
	operationId: 'replayDeadLetter',
	tag: 'Operations',
	scope: 'operate',
	summary: 'Try a dead letter again',
	description: 'The same as retrying its node: see `POST /runs/{id}/retry`.',
	params: deadLetterParams,
	answers: {
		200: {
			description: 'The node is tried again.',
			schema: retriedSchema,
			example: { runId: RUN_ID, status: 'running', nodeIds: ['charge'] },
		},
	},
	problems: ['not-found', 'conflict'],
} as const satisfies EndpointDefinition

const discardDeadLetterEndpoint = {
	method: 'post',
	path: '/dead-letters/{id}/discard',
	operationId: 'discardDeadLetter',
	tag: 'Operations',
	scope: 'operate',
	summary: 'Take a dead letter off the list',
	description: 'Its node stays failed. Repeating it changes nothing.',
	params: deadLetterParams,
	answers: {
		200: {
			description: 'It is no longer listed.',
			schema: z.object({ runId: z.string(), nodeId: z.string() }).openapi('DiscardedDeadLetter'),
			example: { runId: RUN_ID, nodeId: 'charge' },
		},
	},
	problems: ['not-found', 'conflict'],
} as const satisfies EndpointDefinition

export function addDeadLetterRoutes(add: AddEndpoint, doorbell: Doorbell, redactor: Redactor): void {
	add(listDeadLettersEndpoint, async ({ query, db }) =>
		jsonResponse(redactor.value(await listDeadLetters(db, query))),
	)

	add(replayDeadLetterEndpoint, async ({ params, db }) => {
		const replayed = await replayDeadLetter(db, params.id)
		doorbell.ring({ type: 'outbox' })
		return jsonResponse(replayed)
	})

	add(discardDeadLetterEndpoint, async ({ params, db }) => {
		const { runId, nodeId } = await discardDeadLetter(db, params.id)
		return jsonResponse({ runId, nodeId })
	})
}

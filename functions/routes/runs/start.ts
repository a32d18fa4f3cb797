/** `POST /runs`: one statement, shared by those that come at once, and the run is durable. */
import { z } from '@hono/zod-openapi'
import type { Doorbell } from '../../../src/ports/doorbell.js'
import { jsonResponse } from '../../answer.js'
import type { AddEndpoint, EndpointDefinition } from '../../endpoint.js'
import type { StartRun } from '../../starter.js'
import { identifier, objectValue } from '../fields.js'
import { RUN_ID, stateSchema } from './schemas.js'

const startRunEndpoint = {
	method: 'post',
	path: '/runs',
	operationId: 'startRun',
	tag: 'Runs',
	scope: 'start',
	summary: 'Start a run',
	description:
		'The run is durable when this answers. With an `Idempotency-Key` the start may be repeated safely for 24 hours: the ' +
		'same request gives the first answer again, another request with the same key is refused with 409. Keys of ' +
		'different API keys never meet.',
	headers: z.object({
		'Idempotency-Key': z
			.string()
			.min(1, 'must not be empty')
			.max(256, 'must not be longer than 256 characters')
			.regex(/^[\x20-\x7e]*$/, 'must be printable ASCII')
			.optional()
			.openapi({
				description: 'Any text that names this start, such as a UUID.',
				example: 'order-1042',
			}),
		traceparent: z.string().optional().openapi({
			description: 'W3C trace context, handed on to every node. Ignored if it is not valid.',
			example: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
		}),
	}),
	body: {
		schema: z
			.strictObject({
				blueprint: identifier('Id of a registered blueprint.').openapi({
					example: 'content-moderation',
				}),
				input: objectValue.optional().openapi({
					type: 'object',
					additionalProperties: true,
					description: 'The context that the run starts with. Default: empty.',
				}),
				version: identifier(
					'A `metadata.version` or a content hash. Default: the current version.',
				).optional(),
				tags: z
					.array(
						z
							.string()
							.min(1, 'must not be empty')
							.max(100, 'must not be longer than 100 characters'),
					)
					.max(20, 'must not have more than 20 entries')
					.optional()
					.openapi({ description: 'Labels to find the run by.' }),
			})
			.openapi('StartRun'),
		example: {
			blueprint: 'content-moderation',
			input: { userId: 7, userPost: 'Have a nice day' },
			tags: ['demo'],
		},
	},
	answers: {
		202: {
			description: 'The run is started.',
			schema: stateSchema,
			example: { runId: RUN_ID, status: 'running' },
			headers: {
				Location: 'Where to watch the run.',
				'Idempotency-Replayed':
					'`true` if an earlier request with this `Idempotency-Key` started the run.',
			},
		},
	},
	problems: ['not-found', 'conflict'],
} as const satisfies EndpointDefinition

export function addStartRoute(add: AddEndpoint, doorbell: Doorbell, startRun: StartRun): void {
	add(startRunEndpoint, async ({ body, headers, caller, db }) => {
		const idempotencyKey = headers['Idempotency-Key']
		const traceparent = validTraceparent(headers.traceparent)
		const started = await startRun(db, {
			...body,
			idempotencyScope: caller.name,
			...(idempotencyKey === undefined ? {} : { idempotencyKey }),
			...(traceparent === undefined ? {} : { traceparent }),
		})
		if (!started.repeated) doorbell.ring({ type: 'outbox' })
		// A repeated start gets the first answer again, whatever has become of the run.
		return jsonResponse({ runId: started.runId, status: 'running' }, 202, {
			Location: `/runs/${encodeURIComponent(started.runId)}`,
			...(started.repeated ? { 'Idempotency-Replayed': 'true' } : {}),
		})
	})
}

/** W3C asks to ignore what is malformed rather than to refuse the request. */
function validTraceparent(header: string | undefined): string | undefined {
	return header !== undefined &&
		/^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/.test(header)
		? header
		: undefined
}

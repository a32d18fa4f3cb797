/** `POST /runs/:id/…`: what a person or another system does to a run under way. */
import { z } from '@hono/zod-openapi'
import type { ValueCodec } from '../../../src/context/values.js'
import type { Doorbell } from '../../../src/ports/doorbell.js'
import { cancelRun } from '../../../src/run/cancel.js'
import { resumeRun } from '../../../src/run/resume.js'
import { jsonResponse } from '../../answer.js'
import type { AddEndpoint, EndpointDefinition } from '../../endpoint.js'
import { identifier } from '../fields.js'
import { RUN_ID, runParams, stateSchema, status } from './schemas.js'

const cancelRunEndpoint = {
	method: 'post',
	path: '/runs/{id}/cancel',
	operationId: 'cancelRun',
	tag: 'Runs',
	scope: 'operate',
	summary: 'Cancel a run',
	description:
		'Queued nodes never start, running ones are told to abort, child runs are cancelled too. Repeating it changes nothing: the answer has the reason of the first time.',
	params: runParams,
	body: {
		schema: z
			.strictObject({
				reason: z
					.string()
					.min(1, 'must not be empty')
					.max(1000, 'must not be longer than 1000 characters')
					.optional(),
			})
			.openapi('CancelRun'),
		optional: true,
		example: { reason: 'The order was withdrawn' },
	},
	answers: {
		200: {
			description: 'The run is cancelled.',
			schema: stateSchema.extend({ reason: z.string() }).openapi('CancelledRun'),
			example: { runId: RUN_ID, status: 'cancelled', reason: 'The order was withdrawn' },
		},
	},
	problems: ['not-found', 'conflict'],
} as const satisfies EndpointDefinition

const resumeRunEndpoint = {
	method: 'post',
	path: '/runs/{id}/resume',
	operationId: 'resumeRun',
	tag: 'Runs',
	scope: 'operate',
	summary: 'End a wait',
	description:
		'Continues a run behind a node that waits for something from outside. Refused with 409 if none waits, or if several do and none is named; with 400 if all edges out of the node have actions, and none has this one.',
	params: runParams,
	body: {
		schema: z
			.strictObject({
				nodeId: identifier('The waiting node; needed if several wait.').optional(),
				action: z
					.string()
					.max(256, 'must not be longer than 256 characters')
					.optional()
					.openapi({ description: 'Selects the edges out of the node.' }),
				output: z.unknown().optional().openapi({
					description: 'The node’s output. Default: what the node returned when it began to wait.',
				}),
			})
			.openapi('ResumeRun'),
		optional: true,
		example: { nodeId: 'approval', action: 'approved', output: { by: 'ada' } },
	},
	answers: {
		200: {
			description: 'The wait is over.',
			schema: z.object({ runId: z.string(), nodeId: z.string(), status }).openapi('ResumedRun'),
			example: { runId: RUN_ID, nodeId: 'approval', status: 'running' },
		},
	},
	problems: ['not-found', 'conflict'],
} as const satisfies EndpointDefinition

export function addSteeringRoutes(add: AddEndpoint, doorbell: Doorbell, codec: ValueCodec): void {
	add(cancelRunEndpoint, async ({ params, body, db }) => {
		const { runId, status, reason, cancelled } = await cancelRun(db, params.id, body?.reason)
		if (cancelled.length > 0) {
			doorbell.ring({ type: 'cancelled', runIds: cancelled })
			doorbell.ring({ type: 'ended', runIds: cancelled })
			// The parent of a cancelled child has to hear of it.
			doorbell.ring({ type: 'outbox' })
		}
		return jsonResponse({ runId, status, reason })
	})

	add(resumeRunEndpoint, async ({ params, body, db }) => {
		const resumed = await resumeRun(db, params.id, body ?? {}, codec)
		doorbell.ring({ type: 'outbox' })
		return jsonResponse(resumed)
	})
}

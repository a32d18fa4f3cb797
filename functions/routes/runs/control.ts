/** `POST /runs/:id/{pause,unpause,retry}`: holding a run, letting it go on, trying again what has failed. */
import { z } from '@hono/zod-openapi'
import type { Doorbell } from '../../../src/ports/doorbell.js'
import { pauseRun, unpauseRun } from '../../../src/run/pause.js'
import { retryRun } from '../../../src/run/retry.js'
import { jsonResponse } from '../../answer.js'
import type { AddEndpoint, EndpointDefinition } from '../../endpoint.js'
import { identifier } from '../fields.js'
import { retriedSchema, RUN_ID, runParams, stateSchema } from './schemas.js'

const pauseRunEndpoint = {
	method: 'post',
	path: '/runs/{id}/pause',
	operationId: 'pauseRun',
	tag: 'Runs',
	scope: 'operate',
	summary: 'Pause a run',
	description:
		'Nothing of the run or its children starts any more; what runs may finish. Timers that fire and waits that are ended meanwhile go on when the run is unpaused. Repeating it changes nothing.',
	params: runParams,
	answers: {
		200: {
			description: 'The run is paused.',
			schema: stateSchema,
			example: { runId: RUN_ID, status: 'paused' },
		},
	},
	problems: ['not-found', 'conflict'],
} as const satisfies EndpointDefinition

const unpauseRunEndpoint = {
	method: 'post',
	path: '/runs/{id}/unpause',
	operationId: 'unpauseRun',
	tag: 'Runs',
	scope: 'operate',
	summary: 'Let a paused run go on',
	description:
		'Its children go on with it; one that was paused with its parent is refused with 409. Repeating it changes nothing.',
	params: runParams,
	answers: {
		200: {
			description: 'The run goes on.',
			schema: stateSchema,
			example: { runId: RUN_ID, status: 'running' },
		},
	},
	problems: ['not-found', 'conflict'],
} as const satisfies EndpointDefinition

const retryRunEndpoint = {
	method: 'post',
	path: '/runs/{id}/retry',
	operationId: 'retryRun',
	tag: 'Runs',
	scope: 'operate',
	summary: 'Try failed nodes again',
	description:
		'Gives failed nodes one more attempt, while the run goes on or after it has failed. Of a node whose fallback failed too, the fallback is tried, unless the node is named. Refused with 409 if nothing has failed, and for child runs: those are retried through their parent.',
	params: runParams,
	body: {
		schema: z
			.strictObject({
				nodeId: identifier('Only this node. Default: all that have failed.').optional(),
			})
			.openapi('RetryRun'),
		optional: true,
		example: { nodeId: 'charge' },
	},
	answers: {
		200: {
			description: 'These nodes are tried again.',
			schema: retriedSchema,
			example: { runId: RUN_ID, status: 'running', nodeIds: ['charge'] },
		},
	},
	problems: ['not-found', 'conflict'],
} as const satisfies EndpointDefinition

export function addControlRoutes(add: AddEndpoint, doorbell: Doorbell): void {
	add(pauseRunEndpoint, async ({ params, db }) => {
		const { runId, status } = await pauseRun(db, params.id)
		return jsonResponse({ runId, status })
	})

	add(unpauseRunEndpoint, async ({ params, db }) => {
		const { runId, status, changed } = await unpauseRun(db, params.id)
		if (changed) doorbell.ring({ type: 'outbox' })
		return jsonResponse({ runId, status })
	})

	add(retryRunEndpoint, async ({ params, body, db }) => {
		const retried = await retryRun(db, params.id, body ?? {})
		doorbell.ring({ type: 'outbox' })
		return jsonResponse(retried)
	})
}

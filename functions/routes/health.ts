/** `/healthz` and `/readyz`, for load balancers and supervisors. */
import { z } from '@hono/zod-openapi'
import { withDeadline } from '../../src/db/errors.js'
import { jsonResponse } from '../answer.js'
import { isMigrated } from '../../src/db/is-migrated.js'
import type { AddEndpoint, EndpointDefinition } from '../endpoint.js'
import { HttpProblem } from '../problem.js'

/** A database that takes longer to answer `select` is not ready. */
const READY_DEADLINE_MS = 2000

const healthEndpoint = {
	method: 'get',
	path: '/healthz',
	operationId: 'getHealth',
	tag: 'Operations',
	scope: 'open',
	summary: 'Whether this process runs',
	answers: {
		200: {
			description: 'It does.',
			schema: z.object({ status: z.literal('ok') }),
			example: { status: 'ok' },
		},
	},
} as const satisfies EndpointDefinition

const readyEndpoint = {
	method: 'get',
	path: '/readyz',
	operationId: 'getReadiness',
	tag: 'Operations',
	scope: 'open',
	summary: 'Whether requests can be served',
	description: 'The database answers within 2 s and has been migrated.',
	answers: {
		200: {
			description: 'They can.',
			schema: z.object({ status: z.literal('ready') }),
			example: { status: 'ready' },
		},
	},
	problems: ['internal', 'unavailable'],
} as const satisfies EndpointDefinition

export function addHealthRoutes(add: AddEndpoint): void {
	add(healthEndpoint, () => jsonResponse({ status: 'ok' }))

	add(readyEndpoint, async ({ db }) => {
		if (!(await withDeadline('Postgres', READY_DEADLINE_MS, isMigrated(db))))
			throw new HttpProblem(
				'unavailable',
				'The database has not been migrated: run npm run db:migrate.',
			)
		return jsonResponse({ status: 'ready' })
	})
}

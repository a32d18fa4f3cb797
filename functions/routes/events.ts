/** `POST /events/:name`: a named event for every run that waits for it. */
import { z } from '@hono/zod-openapi'
import type { ValueCodec } from '../../src/context/values.js'
import type { Doorbell } from '../../src/ports/doorbell.js'
import { sendEvent } from '../../src/run/events.js'
import { WEBHOOK_EVENT_PREFIX } from '../../src/run/webhooks.js'
import { jsonResponse } from '../answer.js'
import type { AddEndpoint, EndpointDefinition } from '../endpoint.js'
import { identifier } from './fields.js'
import { RUN_ID } from './runs/schemas.js'

const sendEventEndpoint = {
	method: 'post',
	path: '/events/{name}',
	operationId: 'sendEvent',
	tag: 'Events',
	scope: 'operate',
	summary: 'Send an event',
	description:
		'Ends every wait for this event, in whichever runs; the payload is the output of the nodes that waited. Waits with ' +
		'a correlation key take only events with the same `key`, waits without one take every event of that name. An event ' +
		'that nobody waits for is kept for a while (an hour, unless the server is configured otherwise) and then ends the ' +
		'next wait that matches. Repeating the request sends a second event.',
	params: z.strictObject({
		name: identifier('Name of the event.')
			.refine(
				(name) => !name.startsWith(WEBHOOK_EVENT_PREFIX),
				`must not begin with ${WEBHOOK_EVENT_PREFIX}`,
			)
			.openapi({ example: 'payment-received' }),
	}),
	body: {
		schema: z
			.strictObject({
				key: identifier('Correlation key.').optional(),
				payload: z
					.unknown()
					.optional()
					.openapi({ description: 'The output of the nodes that waited.' }),
			})
			.openapi('SendEvent'),
		optional: true,
		example: { key: 'order-1042', payload: { amount: 12.5 } },
	},
	answers: {
		202: {
			description: 'The event is taken in: it has ended these waits, or is kept, or neither.',
			schema: z
				.object({
					woken: z.array(z.object({ runId: z.string(), nodeId: z.string() })),
					kept: z.boolean().openapi({ description: 'Kept for a wait that is still to come.' }),
				})
				.openapi('SentEvent'),
			example: { woken: [{ runId: RUN_ID, nodeId: 'payment' }], kept: false },
		},
	},
} as const satisfies EndpointDefinition

/** @param keepMs how long an event is kept that nobody waits for */
export function addEventRoute(add: AddEndpoint, doorbell: Doorbell, codec: ValueCodec, keepMs: number): void {
	add(sendEventEndpoint, async ({ params, body, db }) => {
		const sent = await sendEvent(db, { name: params.name, ...body }, { keepMs, codec })
		if (sent.woken.length > 0) doorbell.ring({ type: 'outbox' })
		return jsonResponse(sent, 202)
	})
}

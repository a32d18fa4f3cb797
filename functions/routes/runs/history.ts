/** `GET /runs/:id/nodes` and `GET /runs/:id/events`: what a run has done so far. */
import { z } from '@hono/zod-openapi'
import type { ValueCodec } from '../../../src/context/values.js'
import { NODE_STATES } from '../../../src/db/schema.js'
import type { Redactor } from '../../../src/redaction.js'
import { listNodes, type NodeRun } from '../../../src/run/node-history.js'
import { listRunEvents } from '../../../src/run/run-events.js'
import { jsonResponse, jsonTextResponse } from '../../answer.js'
import type { AddEndpoint, EndpointDefinition } from '../../endpoint.js'
import { errorSchema, generationSchema, pageFields } from '../fields.js'
import { asJson } from './read.js'
import { RUN_ID, runParams } from './schemas.js'

const moment = z.string().openapi({ format: 'date-time' })

const nodeSchema = z
	.object({
		nodeId: z.string(),
		generation: generationSchema,
		recovers: z.array(z.string()).optional().openapi({
			description: 'Of a fallback: the failed nodes that it stands in for, nearest first.',
		}),
		state: z.enum(NODE_STATES),
		attempt: z.int().openapi({ description: 'The latest attempt, from 1.' }),
		crashes: z.int().openapi({ description: 'How often a worker died with it in hand.' }),
		workerId: z.string().optional(),
		createdAt: moment,
		claimedAt: moment.optional(),
		finishedAt: moment.optional(),
		dueAt: moment
			.optional()
			.openapi({ description: 'Of a retry, a timer, the timeout of a wait: not before.' }),
		action: z.string().optional(),
		error: errorSchema.optional(),
		deadLetter: z.string().optional().openapi({ description: 'Why no worker could bring it to an end.' }),
		waitReason: z.string().optional().openapi({
			description: 'What it waits for: `timer`, `external_event`, or what the node gave.',
		}),
		childRunId: z.string().optional(),
		unrunnableSince: moment.optional().openapi({
			description:
				'Of a node that is ready: since when no worker that took it had its implementation. It becomes a dead letter after an hour, unless the workers are configured otherwise.',
		}),
		attempts: z
			.array(
				z.object({
					attempt: z.int(),
					outcome: z.enum(['failed', 'crashed']),
					error: errorSchema.optional(),
					workerId: z.string().optional(),
					claimedAt: moment.optional(),
					recordedAt: moment,
				}),
			)
			.openapi({ description: 'Those that were followed by another one, oldest first.' }),
		output: z.unknown().optional(),
	})
	.openapi('NodeRun')

const listNodesEndpoint = {
	method: 'get',
	path: '/runs/{id}/nodes',
	operationId: 'listRunNodes',
	tag: 'Runs',
	scope: 'read',
	summary: 'List a run’s nodes',
	description:
		'Every node that the run has reached, in each turn of its loops, with all attempts; by node, then by turn. While a run is live, only the newest 100 turns of its loops are kept. Values under names that the server is configured to redact are left out.',
	params: runParams,
	query: z.strictObject({
		...pageFields(100, 1000),
		include: z
			.literal('output', 'must be output')
			.optional()
			.openapi({ description: 'Also the nodes’ outputs.', example: 'output' }),
	}),
	answers: {
		200: {
			description: 'A page of nodes. There are more if it has a `nextCursor`.',
			schema: z
				.object({ nodes: z.array(nodeSchema), nextCursor: z.string().optional() })
				.openapi('NodePage'),
			example: {
				nodes: [
					{
						nodeId: 'verdict',
						generation: '0',
						state: 'completed',
						attempt: 2,
						crashes: 0,
						workerId: '7c9e6679-7425-40de-944b-e07fc1f90ae7',
						createdAt: '2026-03-01T12:00:00.000Z',
						claimedAt: '2026-03-01T12:00:01.010Z',
						finishedAt: '2026-03-01T12:00:01.250Z',
						attempts: [
							{
								attempt: 1,
								outcome: 'failed',
								error: { name: 'Error', message: 'Too many requests' },
								workerId: '7c9e6679-7425-40de-944b-e07fc1f90ae7',
								claimedAt: '2026-03-01T12:00:00.010Z',
								recordedAt: '2026-03-01T12:00:00.250Z',
							},
						],
					},
				],
			},
		},
	},
	problems: ['not-found'],
} as const satisfies EndpointDefinition

const listEventsEndpoint = {
	method: 'get',
	path: '/runs/{id}/events',
	operationId: 'listRunEvents',
	tag: 'Runs',
	scope: 'read',
	summary: 'List a run’s events',
	description:
		'Flowcraft’s events in the order of time, put together from the run’s history: Flowcraft’s `generateMermaidForRun` draws the run from them. `node:finish` tells the action; outputs stand in the run’s context.',
	params: runParams,
	query: z.strictObject(pageFields(500, 2000)),
	answers: {
		200: {
			description: 'A page of events. There are more if it has a `nextCursor`.',
			schema: z
				.object({
					events: z.array(
						z
							.object({
								type: z.string().openapi({ example: 'node:finish' }),
								payload: z.record(z.string(), z.unknown()),
								at: moment,
								generation: generationSchema.optional(),
								attempt: z.int().optional(),
							})
							.openapi('RunEvent'),
					),
					nextCursor: z.string().optional(),
				})
				.openapi('EventPage'),
			example: {
				events: [
					{
						at: '2026-03-01T12:00:00.000Z',
						type: 'workflow:start',
						payload: { blueprintId: 'content-moderation', executionId: RUN_ID },
					},
				],
			},
		},
	},
	problems: ['not-found'],
} as const satisfies EndpointDefinition

/** @param decodes true if values may be wrapped by a serializer of the user's: they are shown as what they stand for */
export function addHistoryRoutes(
	add: AddEndpoint,
	codec: ValueCodec,
	decodes: boolean,
	redactor: Redactor,
): void {
	add(listNodesEndpoint, async ({ params, query: { include, ...page }, db }) => {
		const { nodes, nextCursor } = await listNodes(db, params.id, {
			...page,
			withOutput: include === 'output',
		})
		const show = (output: string): string =>
			redactor.json(decodes ? (asJson(codec, output) ?? output) : output)
		const texts = nodes.map((node) => nodeText(node, show, redactor))
		const more = nextCursor === undefined ? '' : `,"nextCursor":${JSON.stringify(nextCursor)}`
		return jsonTextResponse(`{"nodes":[${texts.join(',')}]${more}}`)
	})

	add(listEventsEndpoint, async ({ params, query, db }) =>
		jsonResponse(redactor.value(await listRunEvents(db, params.id, query))),
	)
}

/** The output is pasted in as it was read: nothing large is parsed to be written again. */
function nodeText(
	{ outputJson, ...node }: NodeRun,
	show: (output: string) => string,
	redactor: Redactor,
): string {
	const text = redactor.json(JSON.stringify(node))
	return outputJson === undefined ? text : `${text.slice(0, -1)},"output":${show(outputJson)}}`
}

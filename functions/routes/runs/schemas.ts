/** What the operations on runs have in common. The schemas of answers are documentation: the use cases make them. */
import { z } from '@hono/zod-openapi'
import { RUN_STATUSES } from '../../../src/db/schema.js'
import { identifier } from '../fields.js'

export const RUN_ID = '0192d3c4-5b6a-7c8d-9e0f-1a2b3c4d5e6f'
export const status = z.enum(RUN_STATUSES)
export const runParams = z.strictObject({ id: identifier('Id of a run.').openapi({ example: RUN_ID }) })

const timestamp = (description: string) =>
	z.string().openapi({ format: 'date-time', description, example: '2026-03-01T12:00:00.000Z' })

const summaryFields = {
	runId: z.string().openapi({ example: RUN_ID }),
	blueprint: z.string().openapi({ example: 'content-moderation' }),
	version: z.string().openapi({
		description: 'The blueprint’s `metadata.version`, or its content hash without one.',
		example: '1.0.0',
	}),
	status: status.openapi({ description: '`completed`, `failed` and `cancelled` are final.' }),
	reason: z.string().optional().openapi({ description: 'Why it failed or was cancelled.' }),
	tags: z.array(z.string()).optional(),
	parentRunId: z
		.string()
		.optional()
		.openapi({ description: 'Of a child run: the run whose subflow node started it.' }),
	parentNodeId: z.string().optional(),
	createdAt: timestamp('When it was started.'),
	updatedAt: timestamp('When its state last changed.'),
	finishedAt: timestamp('When it reached a final status.').optional(),
}

export const summarySchema = z.object(summaryFields).openapi('RunSummary')

export const runSchema = z
	.object({
		...summaryFields,
		result: z
			.object({ context: z.record(z.string(), z.unknown()), status })
			.optional()
			.openapi({
				description:
					'Only of a run that has ended. The context has what the run was started with, `_outputs.<node>` and what nodes set.',
			}),
		errors: z
			.array(
				z.looseObject({
					nodeId: z.string(),
					message: z
						.string()
						.openapi({ description: 'The message of the error that the node threw.' }),
					attempt: z.int().openapi({ description: 'Which attempt failed, from 1.' }),
					name: z.string().optional(),
					isFatal: z.boolean().optional(),
					stack: z.string().optional(),
				}),
			)
			.optional(),
		awaiting: z
			.array(
				z.object({
					nodeId: z.string(),
					reason: z.string().openapi({
						description: '`timer`, `external_event`, `child`, or what the node gave.',
					}),
					eventName: z.string().optional().openapi({
						description: 'The event that ends the wait, beside a resume.',
					}),
					correlationKey: z.string().optional(),
					wakeUpAt: z.string().optional().openapi({ format: 'date-time' }),
					childRunId: z.string().optional(),
				}),
			)
			.optional(),
	})
	.openapi('Run')

export const stateSchema = z.object({ runId: z.string(), status }).openapi('RunState')

export const retriedSchema = z
	.object({ runId: z.string(), status, nodeIds: z.array(z.string()) })
	.openapi('RetriedRun')

export const exampleSummary = {
	runId: RUN_ID,
	blueprint: 'content-moderation',
	version: '1.0.0',
	status: 'completed',
	createdAt: '2026-03-01T12:00:00.000Z',
	updatedAt: '2026-03-01T12:00:00.250Z',
	finishedAt: '2026-03-01T12:00:00.250Z',
}

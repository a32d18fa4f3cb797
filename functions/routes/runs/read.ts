/** `GET /runs` and `GET /runs/:id`: listing, reading, waiting for the end. */
import { z } from '@hono/zod-openapi'
import { createValueCodec, type ValueCodec } from '../../../src/context/values.js'
import { RUN_STATUSES, type RunStatus } from '../../../src/db/schema.js'
import { NotFoundError } from '../../../src/errors.js'
import type { Doorbell } from '../../../src/ports/doorbell.js'
import { isRunStatus, listRuns, readRun, type Run } from '../../../src/run/read.js'
import { waitForRun } from '../../../src/run/wait.js'
import { jsonResponse, jsonTextResponse } from '../../answer.js'
import type { AddEndpoint, Call, EndpointDefinition } from '../../endpoint.js'
import { duration, identifier, pageFields } from '../fields.js'
import { exampleSummary, RUN_ID, runParams, runSchema, summarySchema } from './schemas.js'

/** The longest that a request waits for a run's end. */
const MAX_WAIT_MS = 60_000

const getRunEndpoint = {
	method: 'get',
	path: '/runs/{id}',
	operationId: 'getRun',
	tag: 'Runs',
	scope: 'read',
	summary: 'Read a run',
	description:
		'With `wait`, answers when the run has ended, or after that time with the run as it is then.',
	params: runParams,
	query: z.strictObject({
		wait: duration(
			'How long to wait for the run’s end: `20s`, `500ms`, `1m`, or plain seconds; 60 s at most, longer counts as 60 s.',
		).optional(),
	}),
	answers: {
		200: {
			description: 'The run.',
			schema: runSchema,
			example: {
				...exampleSummary,
				result: {
					context: { userPost: 'Have a nice day', '_outputs.verdict': 'approved' },
					status: 'completed',
				},
			},
		},
	},
	problems: ['not-found'],
} as const satisfies EndpointDefinition

const listRunsEndpoint = {
	method: 'get',
	path: '/runs',
	operationId: 'listRuns',
	tag: 'Runs',
	scope: 'read',
	summary: 'List runs',
	description: 'Newest first, child runs included. Runs that start while you turn pages move nothing.',
	query: z.strictObject({
		status: z
			.union([z.string(), z.array(z.string())])
			.transform((given) => [given].flat().flatMap((list) => list.split(',')))
			.refine(
				(statuses): statuses is RunStatus[] => statuses.every(isRunStatus),
				`must be among ${RUN_STATUSES.join(', ')}`,
			)
			.optional()
			.openapi({
				type: 'array',
				items: { type: 'string', enum: [...RUN_STATUSES] },
				description: 'Only runs in one of these: repeated, or separated by commas.',
				example: ['running', 'awaiting'],
			}),
		blueprint: identifier('Only runs of this blueprint.')
			.openapi({ example: 'content-moderation' })
			.optional(),
		tag: identifier('Only runs with this tag.').openapi({ example: 'demo' }).optional(),
		parent: identifier('Only children of this run.').openapi({ example: RUN_ID }).optional(),
		...pageFields(50, 200),
	}),
	answers: {
		200: {
			description: 'A page of runs. There are more if it has a `nextCursor`.',
			schema: z
				.object({ runs: z.array(summarySchema), nextCursor: z.string().optional() })
				.openapi('RunPage'),
			example: { runs: [exampleSummary] },
		},
	},
} as const satisfies EndpointDefinition

/** @param decodes true if values may be wrapped by a serializer of the user's: they are shown as what they stand for */
export function addReadRoutes(
	add: AddEndpoint,
	doorbell: Doorbell,
	codec: ValueCodec,
	decodes: boolean,
): void {
	add(getRunEndpoint, async (call) => {
		const run = await runAfterWait(call, doorbell)
		if (run === undefined) throw new NotFoundError(`There is no run '${call.params.id}'.`)
		return jsonTextResponse(runText(decodes ? decoded(run, codec) : run))
	})

	add(listRunsEndpoint, async ({ query, db }) => jsonResponse(await listRuns(db, query)))
}

/** The run at its end or when the time is over, earlier if the server stops. */
async function runAfterWait(
	{ params, query, db, signal, stopping }: Call<typeof getRunEndpoint>,
	doorbell: Doorbell,
): Promise<Run | undefined> {
	const timeoutMs = Math.min(query.wait ?? 0, MAX_WAIT_MS)
	if (timeoutMs === 0) return readRun(db, params.id)
	try {
		return await waitForRun(db, params.id, {
			timeoutMs,
			signal: stopping === undefined ? signal : AbortSignal.any([signal, stopping]),
			onHint: (look) =>
				doorbell.listen((ring) => {
					if (ring.type === 'ended' && ring.runIds.includes(params.id)) look()
				}),
		})
	} catch (error) {
		if (stopping?.aborted !== true || error !== stopping.reason) throw error
		return readRun(db, params.id)
	}
}

/**
 * The answer's text. The context is pasted in as it was read: no key is lost or reordered on the way (`__proto__`,
 * numbers as keys), and nothing large is parsed to be written again.
 */
function runText({ contextJson, ...run }: Run): string {
	const text = JSON.stringify(run)
	if (contextJson === undefined) return text
	return `${text.slice(0, -1)},"result":{"context":${contextJson},"status":${JSON.stringify(run.status)}}}`
}

/** The run with what a serializer has wrapped shown as JSON, as far as it is. */
function decoded(run: Run, codec: ValueCodec): Run {
	if (run.contextJson === undefined) return run
	const entries = Object.entries(JSON.parse(run.contextJson) as Record<string, unknown>).map(
		([key, value]) => {
			const stored = JSON.stringify(value)
			return `${JSON.stringify(key)}:${asJson(codec, stored) ?? stored}`
		},
	)
	return { ...run, contextJson: `{${entries.join(',')}}` }
}

const plainJson = createValueCodec()

/** What a stored value stands for, as JSON; null if it is no JSON value. */
export function asJson(codec: ValueCodec, stored: string): string | null {
	try {
		return plainJson.encode('', codec.decode(stored))
	} catch {
		return null
	}
}

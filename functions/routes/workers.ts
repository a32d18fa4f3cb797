/** `/workers`: who is there to run nodes. */
import { z } from '@hono/zod-openapi'
import { type Executor, isoColumn, query } from '../../src/db/query.js'
import { jsonResponse } from '../answer.js'
import type { AddEndpoint, EndpointDefinition } from '../endpoint.js'

/** How long workers that have gone are still listed: an hour. */
const RECENT_MS = 60 * 60 * 1000
const MAX_WORKERS = 1000

const workerSchema = z
	.object({
		workerId: z.string(),
		name: z.string(),
		version: z.string().nullable(),
		queues: z.array(z.string()),
		slots: z.int().openapi({ description: 'How many nodes it runs at once.' }),
		startedAt: z.string().openapi({ format: 'date-time' }),
		heartbeatAt: z.string().openapi({ format: 'date-time' }),
		status: z.enum(['alive', 'draining', 'stopped', 'dead']),
	})
	.openapi('Worker')

const listWorkersEndpoint = {
	method: 'get',
	path: '/workers',
	operationId: 'listWorkers',
	tag: 'Operations',
	scope: 'read',
	summary: 'List workers',
	description:
		'Those that are there, and those that stopped or died within the last hour; newest first, 1000 at most.',
	answers: {
		200: {
			description: 'The workers.',
			schema: z.object({ workers: z.array(workerSchema) }).openapi('WorkerList'),
			example: {
				workers: [
					{
						workerId: '7c9e6679-7425-40de-944b-e07fc1f90ae7',
						name: 'vm-1',
						version: '0.1.0',
						queues: ['flowcraft-jobs'],
						slots: 32,
						startedAt: '2026-03-01T12:00:00.000Z',
						heartbeatAt: '2026-03-01T12:05:00.000Z',
						status: 'alive',
					},
				],
			},
		},
	},
} as const satisfies EndpointDefinition

export function addWorkerRoutes(add: AddEndpoint): void {
	add(listWorkersEndpoint, async ({ db }) => jsonResponse({ workers: await listWorkers(db) }))
}

type WorkerRow = Omit<z.output<typeof workerSchema>, 'queues'> & { queues: string }

async function listWorkers(db: Executor): Promise<z.output<typeof workerSchema>[]> {
	const rows = await query<WorkerRow>(
		db,
		// The lease decides, on the database's clock: a worker may be dead before a sweep has said so.
		`select w.worker_id::text as "workerId", w.name, w.version, to_json(w.queues)::text as queues, w.slots,
			${isoColumn('w.started_at')} as "startedAt", ${isoColumn('w.heartbeat_at')} as "heartbeatAt",
			case
				when w.stopped_at is not null then 'stopped'
				when w.dead_at is not null or w.lease_until < clock_timestamp() then 'dead'
				when w.draining_at is not null then 'draining'
				else 'alive'
			end as status
		from flowcraft_workers w
		where coalesce(w.stopped_at, w.dead_at, w.lease_until) > clock_timestamp() - $1::int * interval '1 millisecond'
		order by w.started_at desc, w.worker_id limit ${MAX_WORKERS}`,
		[RECENT_MS],
	)
	return rows.map((row) => ({ ...row, queues: JSON.parse(row.queues) as string[] }))
}

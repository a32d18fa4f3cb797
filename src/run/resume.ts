/** Resuming a run that waits for something from outside. */
import { createValueCodec, type ValueCodec } from '../context/values.js'
import { type Executor, query } from '../db/query.js'
import { ConflictError, NotFoundError } from '../errors.js'
import { canBeRunId } from './ids.js'
import type { RunStatus } from '../db/schema.js'

export interface ResumeInput {
	/** The waiting node. Needed when several wait. */
	readonly nodeId?: string
	/** Selects the edges out of the node, as a node's own action would. */
	readonly action?: string
	/** The node's output. Default: what the node returned when it began to wait. */
	readonly output?: unknown
}

export interface ResumedRun {
	readonly runId: string
	readonly nodeId: string
	readonly status: RunStatus
}

/**
 * Ends the wait of one node; a worker continues from there.
 * @throws NotFoundError; ConflictError when nothing waits, or several nodes do and none was named
 */
export async function resumeRun(
	db: Executor,
	runId: string,
	input: ResumeInput = {},
	codec: ValueCodec = createValueCodec(),
): Promise<ResumedRun> {
	if (!canBeRunId(runId)) throw new NotFoundError('There is no such run.')
	const resume = JSON.stringify({
		...(input.action === undefined ? {} : { action: input.action }),
		// As text: what stands in the database is what the codec wrote.
		...(input.output === undefined ? {} : { output: codec.encode('output', input.output) }),
	})
	const [row] = await query<{ outcome: string; node_id: string; waiting: string; status: RunStatus }>(
		db,
		`select outcome, node_id, to_json(waiting)::text as waiting, status
		from flowcraft_resume_node($1::text, $2::text, $3::text)`,
		[runId, input.nodeId ?? null, resume],
	)
	if (row === undefined || row.outcome === 'unknown') throw new NotFoundError(`There is no run '${runId}'.`)
	if (row.outcome === 'resumed') return { runId, nodeId: row.node_id, status: row.status }
	const waiting = (JSON.parse(row.waiting) as string[]).map((id) => `'${id}'`).join(', ')
	if (row.outcome === 'ambiguous')
		throw new ConflictError(`Several nodes of run '${runId}' wait: name one of ${waiting} as nodeId.`)
	const subject = input.nodeId === undefined ? 'Nothing waits' : `Node '${input.nodeId}' does not wait`
	throw new ConflictError(
		`${subject} in run '${runId}', which is ${row.status}.${waiting === '' ? '' : ` These nodes wait: ${waiting}.`}`,
	)
}

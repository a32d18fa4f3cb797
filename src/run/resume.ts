/** Resuming a run that waits for something from outside. */
import { createValueCodec, type ValueCodec } from '../context/values.js'
import { type Executor, query } from '../db/query.js'
import { ConflictError, InvalidInputError, NotFoundError } from '../errors.js'
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
 * @throws NotFoundError; ConflictError when nothing waits, or several nodes do and none was named; InvalidInputError
 * when all edges out of the node have actions, and none has this one
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
	const [row] = await query<{
		outcome: string
		node_id: string
		waiting: string
		actions: string
		status: RunStatus
		children: string | null
	}>(
		db,
		`select outcome, node_id, to_json(waiting)::text as waiting, to_json(actions)::text as actions, status,
			-- A node whose child run waits does not wait itself: the refusal says what can be resumed.
			case when outcome = 'not_waiting' then (
				select json_agg(json_build_object('nodeId', n.node_id, 'childRunId', n.child_run_id) order by n.node_id)::text
				from flowcraft_nodes n join flowcraft_statuses s on s.run_id = n.child_run_id
				where n.run_id = $1::text and n.state = 'child' and s.status = 'awaiting'
					and n.node_id = coalesce($2::text, n.node_id)
			) end as children
		from flowcraft_resume_node($1::text, $2::text, $3::text)`,
		[runId, input.nodeId ?? null, resume],
	)
	if (row === undefined || row.outcome === 'unknown') throw new NotFoundError(`There is no run '${runId}'.`)
	if (row.outcome === 'resumed') return { runId, nodeId: row.node_id, status: row.status }
	if (row.outcome === 'no_edge') {
		const actions = (JSON.parse(row.actions) as string[]).map((action) => `'${action}'`).join(', ')
		throw new InvalidInputError(`Node '${row.node_id}' cannot be resumed so`, [
			{
				path: '/action',
				message: `${input.action === undefined ? 'is missing' : `is '${input.action}'`}; all edges out of the node have one of: ${actions}`,
			},
		])
	}
	const waiting = (JSON.parse(row.waiting) as string[]).map((id) => `'${id}'`).join(', ')
	if (row.outcome === 'ambiguous')
		throw new ConflictError(`Several nodes of run '${runId}' wait: name one of ${waiting} as nodeId.`)
	if (row.children !== null) {
		const children = (JSON.parse(row.children) as { nodeId: string; childRunId: string }[]).map(
			({ nodeId, childRunId }) => `Node '${nodeId}' waits for its child run '${childRunId}'`,
		)
		throw new ConflictError(`${children.join('; ')}: resume what waits there, with that run's id.`)
	}
	const subject = input.nodeId === undefined ? 'Nothing waits' : `Node '${input.nodeId}' does not wait`
	throw new ConflictError(
		`${subject} in run '${runId}', which is ${row.status}.${waiting === '' ? '' : ` These nodes wait: ${waiting}.`}`,
	)
}

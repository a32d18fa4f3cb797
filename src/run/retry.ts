/** Retrying what has failed: another attempt, which a worker plans and runs as any other. */
import { type Executor, query } from '../db/query.js'
import type { RunStatus } from '../db/schema.js'
import { ConflictError, NotFoundError } from '../errors.js'
import type { NodeKey } from '../plan/node-key.js'

export interface RetryInput {
	/** Only this node. Default: all that have failed. */
	readonly nodeId?: string
}

export interface RetriedRun {
	readonly runId: string
	readonly status: RunStatus
	/** The nodes that have another attempt now. */
	readonly nodeIds: readonly string[]
}

/**
 * Gives failed nodes one more attempt each, while the run goes on or after it has failed; then it is live again. Of a
 * node whose fallback failed too, the fallback is tried, unless the node is named: then it is tried itself, and its
 * fallback again only if it fails again.
 *
 * @throws NotFoundError; ConflictError if nothing has failed, a fallback of it is under way, the run was cancelled, or
 * it is a child: that is retried by retrying the node that started it
 */
export async function retryRun(db: Executor, runId: string, input: RetryInput = {}): Promise<RetriedRun> {
	return retry(db, runId, input.nodeId === undefined ? undefined : { nodeId: input.nodeId })
}

/**
 * The same for one instance of a node.
 * @throws as `retryRun`; NotFoundError too if the run has no such node
 */
export async function retryNode(
	db: Executor,
	{ runId, nodeId, generation, recovers }: NodeKey,
): Promise<RetriedRun> {
	return retry(db, runId, { nodeId, generation, recovers })
}

interface RetryRow extends Record<string, unknown> {
	readonly outcome: string
	readonly status: RunStatus
	readonly nodes: string
	readonly parent: string | null
	/** Whether the run has the wanted node. */
	readonly known: boolean
}

async function retry(
	db: Executor,
	runId: string,
	wanted: { readonly nodeId: string; readonly generation?: string; readonly recovers?: string } | undefined,
): Promise<RetriedRun> {
	const [row] = await query<RetryRow>(
		db,
		`select outcome, status, to_json(nodes)::text as nodes, parent,
			exists (
				select from flowcraft_nodes n where n.run_id = $1::text and n.node_id = $2::text
					and n.generation = $3::text and n.recovers = $4::text
			) as known
		from flowcraft_retry_run($1::text, $2::text, $3::text, $4::text)`,
		[runId, wanted?.nodeId ?? null, wanted?.generation ?? null, wanted?.recovers ?? null],
	)
	if (row === undefined || row.outcome === 'unknown') throw new NotFoundError(`There is no run '${runId}'.`)
	if (wanted?.generation !== undefined && !row.known)
		throw new NotFoundError(`Run '${runId}' has no such node.`)
	const nodeIds = JSON.parse(row.nodes) as string[]
	if (row.outcome === 'retried') return { runId, status: row.status, nodeIds }
	throw new ConflictError(refusal(row, runId, wanted?.nodeId, nodeIds.map((id) => `'${id}'`).join(', ')))
}

function refusal(
	{ outcome, status, parent }: RetryRow,
	runId: string,
	nodeId: string | undefined,
	nodes: string,
): string {
	switch (outcome) {
		case 'cancelled':
			return `Run '${runId}' was cancelled: it stays so. Start another one.`
		case 'child':
			return `Run '${runId}' is a child of run '${parent}': retry its node there.`
		case 'recovering':
			return `${nodeId === undefined ? 'What has failed' : `Node '${nodeId}'`} in run '${runId}' is being recovered by its fallback: ${nodes}.`
		default: {
			const subject = nodeId === undefined ? 'Nothing' : `Node '${nodeId}'`
			return `${subject} has ${nodeId === undefined ? '' : 'not '}failed in run '${runId}', which is ${status}.${nodes === '' ? '' : ` These nodes have: ${nodes}.`}`
		}
	}
}

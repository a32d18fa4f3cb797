/**
 * The engine's core without its processes: a database of one's own, a worker that is a row in the registry, a relay
 * that is a function, and commits as the real planner plans them. For tests of what the functions in `src/db/sql` do.
 */
import { readFileSync } from 'node:fs'
import { type NodeDefinition, PropertyEvaluator, type WorkflowBlueprint } from 'flowcraft'
import type { Sql } from 'postgres'
import { type BlueprintGraph, createGraph } from '../../src/blueprint/graph.js'
import { registerBlueprint } from '../../src/blueprint/register.js'
import { type ClaimedNode, claimNodes, type ClaimOutcome } from '../../src/claim/claim.js'
import { registerWorker } from '../../src/claim/worker-registry.js'
import {
	type CommitOutcome,
	commitNodes,
	type NodeCommit,
	type StoredInput,
} from '../../src/commit/commit.js'
import { createDatabase } from '../../src/db/client.js'
import { type Executor, query, type Row } from '../../src/db/query.js'
import type { NodeState, RunStatus } from '../../src/db/schema.js'
import { refreshChild, settleOutbox, takeOutbox } from '../../src/outbox/outbox.js'
import type { NodeKey } from '../../src/plan/node-key.js'
import { type PlannedInput, planCompletion, planFailure } from '../../src/plan/plan.js'
import { startRun, type StartRunInput } from '../../src/run/start.js'
import { freshDatabase } from './services/index.js'

export interface RunRow extends Row {
	readonly status: RunStatus
	readonly reason: string | null
	readonly live: number
	readonly waiting: number
	readonly failed: number
	readonly seq: number
}

export interface NodeRow extends Row {
	readonly node_id: string
	readonly generation: string
	readonly recovers: string
	readonly state: NodeState
	readonly attempt: number
	readonly crashes: number
	readonly reemits: number
	readonly output: string | null
	readonly error: string | null
	readonly wake: string | null
	readonly child_run_id: string | null
}

export interface Completion {
	readonly output?: unknown
	readonly action?: string
	readonly writes?: Readonly<Record<string, unknown>>
}

export interface Core {
	readonly url: string
	readonly sql: Sql
	rows<T extends Row>(text: string, ...parameters: (string | number | null)[]): Promise<T[]>
	register(blueprint: WorkflowBlueprint): Promise<void>
	definition(blueprintId: string, nodeId: string): NodeDefinition
	/** Starts a run and returns its id. */
	start(blueprint: string, input?: Omit<StartRunInput, 'blueprint'>): Promise<string>
	/** Enters a worker into the registry and returns its id. */
	worker(leaseMs?: number): Promise<string>
	claim(workerId: string, key: NodeKey): Promise<ClaimOutcome>
	/** Claims a node that must be free. */
	claimed(workerId: string, runId: string, nodeId: string, more?: Partial<NodeKey>): Promise<ClaimedNode>
	/** What a worker commits when this node completes. */
	completed(node: ClaimedNode, completion?: Completion): NodeCommit
	/** What a worker commits when this node has failed for good. */
	failed(node: ClaimedNode, message?: string, isFatal?: boolean): NodeCommit
	commit(...commits: NodeCommit[]): Promise<readonly CommitOutcome[]>
	run(runId: string): Promise<RunRow>
	/** By node id; of several generations or substitutes, the last one created. */
	nodes(runId: string): Promise<Record<string, NodeRow>>
	/** `node` of the rows in the outbox, sorted; `child:node` for rows that are no jobs. */
	outbox(runId: string): Promise<string[]>
	/** What a relay does: takes all that is due, brings parents up to date, returns the jobs. */
	drain(): Promise<NodeKey[]>
	/** What no state of the database may ever contradict. Empty when all is well. */
	violations(): Promise<string[]>
	drop(): Promise<void>
}

/** A job's key. */
export const keyOf = (runId: string, nodeId: string, more: Partial<NodeKey> = {}): NodeKey => ({
	runId,
	nodeId,
	generation: '',
	recovers: '',
	...more,
})

type Edge = readonly [
	source: string,
	target: string,
	more?: Omit<WorkflowBlueprint['edges'][number], 'source' | 'target'>,
]
type NodeOptions = Partial<Omit<WorkflowBlueprint['nodes'][number], 'id'>>

/** A blueprint from its edges; nodes without edges, and whatever a node needs beside its id, stand in `nodes`. */
export function flow(
	id: string,
	edges: readonly Edge[],
	nodes: Readonly<Record<string, NodeOptions>> = {},
): WorkflowBlueprint {
	const ids = new Set([...edges.flatMap(([source, target]) => [source, target]), ...Object.keys(nodes)])
	return {
		id,
		nodes: [...ids].map((nodeId) => ({ id: nodeId, uses: 'work', ...nodes[nodeId] })),
		edges: edges.map(([source, target, more]) => ({ source, target, ...more })),
	}
}

export async function createCore(): Promise<Core> {
	const fresh = await freshDatabase()
	const database = createDatabase(fresh.url, { max: 12, applicationName: 'flowcraft-test' })
	const { sql } = database
	const graphs = new Map<string, BlueprintGraph>()
	const evaluator = new PropertyEvaluator()

	const graphOf = (blueprintId: string): BlueprintGraph => {
		const graph = graphs.get(blueprintId)
		if (graph === undefined) throw new Error(`Blueprint '${blueprintId}' was not registered by this test`)
		return graph
	}
	const stored = (input: PlannedInput): StoredInput =>
		input.type === 'value' ? { type: 'value', text: JSON.stringify(input.value) ?? null } : input

	const core: Core = {
		url: fresh.url,
		sql,
		rows: (text, ...parameters) => query(sql, text, parameters),
		async register(blueprint) {
			await registerBlueprint(sql, blueprint)
			graphs.set(blueprint.id, createGraph(blueprint))
		},
		definition(blueprintId, nodeId) {
			const node = graphOf(blueprintId).nodes.get(nodeId)
			if (node === undefined) throw new Error(`Blueprint '${blueprintId}' has no node '${nodeId}'`)
			return node
		},
		start: async (blueprint, input = {}) => (await startRun(sql, { ...input, blueprint })).runId,
		async worker(leaseMs = 600_000) {
			const workerId = crypto.randomUUID()
			await registerWorker(sql, {
				workerId,
				name: 'test',
				version: '',
				queues: [],
				slots: 1,
				offers: [],
				leaseMs,
			})
			return workerId
		},
		claim: async (workerId, key) => (await claimNodes(sql, workerId, [key]))[0] as ClaimOutcome,
		async claimed(workerId, runId, nodeId, more) {
			const outcome = await core.claim(workerId, keyOf(runId, nodeId, more))
			if (outcome.status !== 'claimed')
				throw new Error(`Node '${nodeId}' could not be claimed: ${outcome.status}`)
			return outcome.node
		},
		completed(node, { output, action, writes } = {}) {
			const plan = planCompletion(
				graphOf(node.blueprintId),
				node.key,
				{ output, ...(action === undefined ? {} : { action }) },
				{ evaluator, context: {} },
			)
			return {
				key: node.key,
				token: node.token,
				outcome: 'completed',
				output: JSON.stringify(output) ?? null,
				action,
				writes: Object.entries(writes ?? {}).map(
					([key, value]) => [key, JSON.stringify(value) ?? null] as const,
				),
				next: plan.next.map((next) => ({ ...next, input: stored(next.input) })),
				arrivals: plan.arrivals.map((arrival) => ({ ...arrival, input: stored(arrival.input) })),
				recovered: plan.recovered,
			}
		},
		failed(node, message = 'It broke', isFatal = false) {
			const plan = planFailure(graphOf(node.blueprintId), node.key, { isFatal })
			return {
				key: node.key,
				token: node.token,
				outcome: 'failed',
				error: JSON.stringify({ name: 'Error', message }),
				reason: `Node '${node.key.nodeId}' failed: ${message}`,
				next: plan.next.map((next) => ({ ...next, input: stored(next.input) })),
			}
		},
		commit: async (...commits) => (await commitNodes(sql, commits)).outcomes,
		async run(runId) {
			const [row] = await query<RunRow>(
				sql,
				`select status, reason, live_count as live, waiting_count as waiting, failed_count as failed, commit_seq::int as seq
				from flowcraft_statuses where run_id = $1`,
				[runId],
			)
			if (row === undefined) throw new Error(`There is no run '${runId}'`)
			return row
		},
		async nodes(runId) {
			const rows = await query<NodeRow>(
				sql,
				`select node_id, generation, recovers, state, attempt, crashes, reemits, output, error, wake, child_run_id
				from flowcraft_nodes where run_id = $1 order by created_at`,
				[runId],
			)
			return Object.fromEntries(rows.map((row) => [row.node_id, row]))
		},
		async outbox(runId) {
			const rows = await query<{ node: string }>(
				sql,
				`select case kind when 'job' then '' else kind || ':' end || node_id as node from flowcraft_outbox where run_id = $1 order by 1`,
				[runId],
			)
			return rows.map(({ node }) => node)
		},
		async drain() {
			const jobs: NodeKey[] = []
			for (;;) {
				const token = crypto.randomUUID()
				const rows = await takeOutbox(sql, token, 500, 60_000)
				if (rows.length === 0) return jobs
				for (const row of rows) {
					if (row.kind === 'child') await refreshChild(sql, row.key)
					else jobs.push(row.key)
				}
				await settleOutbox(
					sql,
					token,
					rows.map(({ id }) => id),
					[],
				)
			}
		},
		violations: () => findViolations(sql),
		async drop() {
			await database.close()
			await fresh.drop()
		},
	}
	return core
}

/**
 * Sources as they stand, for tests that look at a function's plan.
 * @public
 */
export const sourceOf = (file: string): string =>
	readFileSync(new URL(`../../src/db/sql/${file}`, import.meta.url), 'utf8')

export async function findViolations(db: Executor): Promise<string[]> {
	const rows = await query<{ violation: string }>(
		db,
		`with counted as (
			select s.run_id, s.status, s.finished_at, s.parent_run_id, s.live_count, s.waiting_count, s.failed_count,
				count(n.node_id) filter (where n.state in ('ready', 'running', 'waiting', 'child')) as live,
				count(n.node_id) filter (where n.state = 'waiting' or (n.state = 'child' and n.child_status = 'awaiting')) as waiting,
				count(n.node_id) filter (where n.state = 'failed') as failed
			from flowcraft_statuses s left join flowcraft_nodes n on n.run_id = s.run_id
			group by s.run_id
		)
		select format('run %s is %s with live_count %s, but %s nodes are live', run_id, status, live_count, live) as violation
			from counted where live <> live_count
		union all
		select format('run %s is %s with waiting_count %s, but %s nodes wait', run_id, status, waiting_count, waiting)
			from counted where waiting <> waiting_count and finished_at is null
		union all
		select format('run %s is %s with failed_count %s, but %s nodes have failed', run_id, status, failed_count, failed)
			from counted where failed <> failed_count
		union all
		select format('run %s is %s, but nothing of it is live', run_id, status) from counted where finished_at is null and live = 0
		union all
		select format('run %s is %s, but %s of its nodes are live', run_id, status, live) from counted where finished_at is not null and live > 0
		union all
		select format('run %s is %s, with %s of %s live nodes waiting', run_id, status, waiting, live) from counted
			where status in ('running', 'awaiting') and (status = 'awaiting') <> (waiting = live)
		union all
		select format('run %s is %s, with %s failed nodes', run_id, status, failed) from counted
			where status in ('completed', 'failed') and (status = 'failed') <> (failed > 0)
		union all
		select format('run %s has ended, but its child %s is %s', parent.run_id, child.run_id, child.status)
			from counted child join counted parent on parent.run_id = child.parent_run_id
			where parent.finished_at is not null and child.finished_at is null
		union all
		select format('cancelled run %s has a row in the outbox for node %s', s.run_id, o.node_id)
			from flowcraft_outbox o join flowcraft_statuses s on s.run_id = o.run_id where s.status = 'cancelled' and o.kind <> 'event'
		union all
		select format('join %s of run %s counts %s arrivals, %s taken, of %s and %s', n.node_id, n.run_id, n.arrived, n.taken, a.arrived, a.taken)
			from flowcraft_nodes n cross join lateral (
				select count(*) as arrived, coalesce(sum(a.taken), 0) as taken from flowcraft_arrivals a
				where a.run_id = n.run_id and a.node_id = n.node_id and a.generation = n.generation
			) a where n.expected is not null and (n.arrived <> a.arrived or n.taken <> a.taken)
		union all
		select format('join %s of run %s is %s with %s of %s arrivals', n.node_id, n.run_id, n.state, n.arrived, n.expected)
			from flowcraft_nodes n where n.expected is not null and n.recovers = ''
				and (n.state = 'pending') <> (n.arrived < n.expected or n.taken = 0)
		union all
		select format('event %s is kept, although node %s of run %s waits for it', k.name, n.node_id, n.run_id)
			from flowcraft_kept_events k join flowcraft_nodes n on n.state = 'waiting' and n.wait_event = k.name
				and (n.wait_key is null or n.wait_key = k.key)
			where k.expires_at > clock_timestamp()
		order by 1 limit 20`,
	)
	return rows.map(({ violation }) => violation)
}

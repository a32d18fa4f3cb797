/**
 * Reads the history after the faults and says what in it must not be. It believes nobody but the tables: the engine's own,
 * and `lab_executions`, where every execution of a node left a row of its own (`workflows.ts`).
 *
 * - every accepted run is there, has ended as its blueprint says, with every node that belongs to that end, once
 * - every finished node was executed, its output is its own, and executions beyond the first are explained: by an attempt
 *   that the history calls failed or crashed, by a worker that gave the node back, or by a Postgres that went down under
 *   its (asynchronously committed) claim
 * - joins, counters, parents and children agree (`findViolations`)
 * - nothing is left over: no outbox row, no node or lease of a worker that is gone
 */
import { findViolations } from '../../support/core.js'
import { EXECUTION_COLUMNS, type Execution, type Lab } from './lab.js'
import type { AcceptedRun } from './workload.js'

export interface CheckOptions {
	readonly ledger: readonly AcceptedRun[]
	/** A history of nothing but failures proves nothing. */
	readonly minimumCompleted: number
	/** Runs of these may still wait; default none. */
	readonly mayWait?: readonly string[]
}

export interface Report {
	/** Empty when all is well. */
	readonly violations: readonly string[]
	readonly counts: ReportCounts
}

export interface ReportCounts {
	accepted: number
	completed: number
	failed: number
	waiting: number
	/** Child runs included. */
	runs: number
	finishedNodes: number
	joins: number
	executions: number
	/** Executions beyond the first of their node, by what explains them. */
	repeated: { attempts: number; crashes: number; givenBack: number; lostClaims: number }
	faults: number
}

/** What the journal says when Postgres went down without warning: claims of the last moments may be lost. */
export const POSTGRES_DOWN = 'postgres went down'
/** Asynchronous commits are on disk after three times `wal_writer_delay` (200 ms). */
const ASYNCHRONOUS_MS = 1_000
const SHOWN = 20

export async function checkHistory(lab: Lab, options: CheckOptions): Promise<Report> {
	const violations = await findViolations(lab.database.sql)
	const counts: ReportCounts = {
		accepted: options.ledger.length,
		completed: 0,
		failed: 0,
		waiting: 0,
		runs: 0,
		finishedNodes: 0,
		joins: 0,
		executions: 0,
		repeated: { attempts: 0, crashes: 0, givenBack: 0, lostClaims: 0 },
		faults: lab.journal.length,
	}
	await checkRuns(lab, options, violations, counts)
	await checkExecutions(lab, violations, counts)
	await checkLeftovers(lab, violations)
	if (counts.completed < options.minimumCompleted)
		violations.push(`only ${counts.completed} runs completed, ${options.minimumCompleted} were expected`)
	return { violations, counts }
}

/** Prints the counts. @throws with the first violations, if there are any */
export function expectSound({ violations, counts }: Report): void {
	console.log(JSON.stringify(counts))
	if (violations.length > 0)
		throw new Error(`${violations.length} violations:\n${violations.slice(0, SHOWN).join('\n')}`)
}

async function checkRuns(
	lab: Lab,
	{ ledger, mayWait = [] }: CheckOptions,
	violations: string[],
	counts: ReportCounts,
): Promise<void> {
	const runs = await lab.rows<{ run_id: string; status: string; finished: boolean }>(
		'select run_id, status, finished_at is not null as finished from flowcraft_statuses',
	)
	const status = new Map(runs.map((run) => [run.run_id, run]))
	const finished = await lab.rows<{ run_id: string; node_id: string; rows: number; strangers: number }>(
		`select n.run_id, n.node_id, count(*)::int as rows,
			count(*) filter (where n.state = 'completed' and n.output not like '%:' || n.node_id || '"' and n.output not like '[%')::int as strangers
		from flowcraft_nodes n where n.state in ('completed', 'recovered') group by n.run_id, n.node_id`,
	)
	const nodes = new Map(finished.map((row) => [`${row.run_id}/${row.node_id}`, row]))
	const [totals] = await lab.rows<{ nodes: number; joins: number }>(
		`select count(*) filter (where state in ('completed', 'recovered'))::int as nodes,
			count(*) filter (where expected is not null and state = 'completed')::int as joins from flowcraft_nodes`,
	)
	counts.runs = runs.length
	counts.finishedNodes = totals?.nodes ?? 0
	counts.joins = totals?.joins ?? 0

	for (const { runId, kind } of ledger) {
		const run = status.get(runId)
		const name = `run ${runId} of ${kind.blueprint.id}`
		if (run === undefined) {
			violations.push(`${name} was accepted and is lost`)
			continue
		}
		if (run.status === 'awaiting' && mayWait.includes(kind.blueprint.id)) {
			counts.waiting += 1
			continue
		}
		if (run.status === 'completed') counts.completed += 1
		if (run.status === 'failed') counts.failed += 1
		if (run.status !== kind.status) {
			violations.push(`${name} is ${run.status}, not ${kind.status}`)
			continue
		}
		for (const [nodeId, expected] of Object.entries(kind.finished)) {
			const node = nodes.get(`${runId}/${nodeId}`)
			if (node?.rows !== expected)
				violations.push(
					`${name} has finished node ${nodeId} ${node?.rows ?? 0} times, not ${expected}`,
				)
			else if (node.strangers > 0) violations.push(`${name} has a foreign output at node ${nodeId}`)
		}
	}
}

/** Executions beyond the first of their node, and whether something explains them. */
async function checkExecutions(lab: Lab, violations: string[], counts: ReportCounts): Promise<void> {
	const [totals] = await lab.rows<{ executions: number }>(
		'select count(*)::int as executions from lab_executions',
	)
	counts.executions = totals?.executions ?? 0

	const unexecuted = await lab.rows<{ run_id: string; node_id: string }>(
		`select n.run_id, n.node_id from flowcraft_nodes n
		where n.state = 'completed' and n.output like '"%:' || n.node_id || '"' and n.wake is null and not exists (
			select from lab_executions e where e.run_id = n.run_id and e.node_id = n.node_id
				and e.generation = n.generation and e.recovers = n.recovers and e.ended = 'returned'
		)`,
	)
	for (const node of unexecuted)
		violations.push(
			`node ${node.node_id} of run ${node.run_id} has completed, but no execution of it has returned`,
		)

	const repeated = await lab.rows<{
		run_id: string
		node_id: string
		generation: string
		recovers: string
		executions: number
		failed: number
		crashed: number
	}>(
		`select e.run_id, e.node_id, e.generation, e.recovers, e.executions,
			count(a.id) filter (where a.outcome = 'failed')::int as failed,
			count(a.id) filter (where a.outcome = 'crashed')::int as crashed
		from (
			select run_id, node_id, generation, recovers, count(*)::int as executions from lab_executions
			group by run_id, node_id, generation, recovers having count(*) > 1
		) e left join flowcraft_attempts a using (run_id, node_id, generation, recovers)
		group by e.run_id, e.node_id, e.generation, e.recovers, e.executions`,
	)
	// Executed, but what follows could not be planned or committed: Postgres was away for too long, or the worker stopped.
	const givenBack = lab.givenBack()
	const downs = lab.journal.filter(({ what }) => what === POSTGRES_DOWN).map(({ at }) => at)
	for (const node of repeated) {
		let left = node.executions - 1
		const explain = (by: keyof ReportCounts['repeated'], most: number): void => {
			const explained = Math.min(left, most)
			counts.repeated[by] += explained
			left -= explained
		}
		explain('attempts', node.failed)
		explain('crashes', node.crashed)
		if (left === 0) continue
		const executions = await lab.rows<Execution>(
			`select ${EXECUTION_COLUMNS} from lab_executions
			where run_id = $1 and node_id = $2 and generation = $3 and recovers = $4 order by started_at`,
			node.run_id,
			node.node_id,
			node.generation,
			node.recovers,
		)
		explain(
			'givenBack',
			executions.filter(({ ended }) => ended?.startsWith('aborted: WorkerDraining')).length +
				givenBack.filter((place) => place === `${node.run_id}/${node.node_id}`).length,
		)
		explain(
			'lostClaims',
			executions.filter(({ started, ended_ms }) =>
				downs.some(
					(at) =>
						at > started - ASYNCHRONOUS_MS &&
						(ended_ms === null || at < ended_ms + ASYNCHRONOUS_MS),
				),
			).length,
		)
		if (left > 0)
			violations.push(
				`node ${node.node_id} of run ${node.run_id} was executed ${node.executions} times, ${left} of them for no reason: ${JSON.stringify(executions)}`,
			)
	}
}

async function checkLeftovers(lab: Lab, violations: string[]): Promise<void> {
	const left = await lab.rows<{ violation: string }>(
		`select format('outbox row %s (%s) for node %s of run %s, which is %s, is left over', o.id, o.kind, o.node_id, o.run_id, coalesce(s.status, 'unknown')) as violation
			from flowcraft_outbox o left join flowcraft_statuses s using (run_id)
			where (s.finished_at is not null or s.run_id is null) and coalesce(o.last_error, '') not like 'unroutable:%'
		union all
		select format('node %s of run %s is %s for worker %s, which is gone', n.node_id, n.run_id, n.state, n.worker_id)
			from flowcraft_nodes n left join flowcraft_workers w using (worker_id)
			where n.state = 'running' and (w.worker_id is null or w.dead_at is not null or w.stopped_at is not null)
		union all
		select format('worker %s is silent, but has its lease still', w.worker_id)
			from flowcraft_workers w where w.dead_at is null and w.stopped_at is null and w.lease_until < clock_timestamp() - interval '10 s'
		union all
		select format('arrival of %s at join %s of run %s, which is not there', a.source, a.node_id, a.run_id)
			from flowcraft_arrivals a where not exists (select from flowcraft_nodes n where n.run_id = a.run_id and n.node_id = a.node_id)
		limit 50`,
	)
	violations.push(...left.map(({ violation }) => violation))
}

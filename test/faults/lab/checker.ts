/**
 * Reads the history after the faults and says what in it must not be. It believes nobody but the tables: the engine's own,
 * and `lab_executions`, where every execution of a node left a row of its own (`workflows.ts`).
 *
 * - every accepted run is there, has ended as its blueprint says, with every node that belongs to that end, once
 * - every finished node was executed, under the claim that stands with it, and its output is its own
 * - every other execution of it is accounted for: by the attempt in the history that has its claim, called failed or
 *   crashed; by its worker, which says that it gave the node back; or, if its process did not have the node when it began,
 *   by a crash of Postgres that took the claim with it, which is committed asynchronously
 * - what nodes write through `onCommit` is there once for each that has completed, and for no other
 * - joins, counters, parents and children agree (`findViolations`)
 * - nothing is left over: no outbox row, no node or lease of a worker that is gone
 */
import type { Row } from '../../../src/db/query.js'
import { findViolations } from '../../support/core.js'
import { booking } from './blueprints.js'
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
	/** Rows that were written through `onCommit`. */
	bookings: number
	executions: number
	/** Executions beyond the first of their node, by what explains them. */
	repeated: { attempts: number; crashes: number; givenBack: number; lostClaims: number }
	faults: number
}

/** What the journal says when Postgres went down without warning: claims of the last moments may be lost. */
export const POSTGRES_DOWN = 'postgres went down'
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
		bookings: 0,
		executions: 0,
		repeated: { attempts: 0, crashes: 0, givenBack: 0, lostClaims: 0 },
		faults: lab.journal.length,
	}
	await checkRuns(lab, options, violations, counts)
	await checkExecutions(lab, violations, counts)
	await checkBookings(lab, violations, counts)
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
	const runs = await lab.rows<{
		run_id: string
		status: string
		reason: string | null
		finished: boolean
	}>('select run_id, status, reason, finished_at is not null as finished from flowcraft_statuses')
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
			violations.push(`${name} is ${run.status}, not ${kind.status}: ${run.reason ?? 'no reason'}`)
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

/** Of nodes that were executed more than once, each execution but the one that stands must have met its end somehow. */
async function checkExecutions(lab: Lab, violations: string[], counts: ReportCounts): Promise<void> {
	const [totals] = await lab.rows<{ executions: number }>(
		'select count(*)::int as executions from lab_executions',
	)
	counts.executions = totals?.executions ?? 0

	const unexecuted = await lab.rows<{ run_id: string; node_id: string }>(
		`select n.run_id, n.node_id from flowcraft_nodes n
		where n.state = 'completed' and n.output like '"%:' || n.node_id || '"' and n.wake is null and not exists (
			select from lab_executions e where e.run_id = n.run_id and e.node_id = n.node_id
				and e.generation = n.generation and e.recovers = n.recovers and e.ended = 'returned' and e.claim = n.claim_token
		)`,
	)
	for (const node of unexecuted)
		violations.push(
			`node ${node.node_id} of run ${node.run_id} has completed, but no execution of it has returned under its claim`,
		)

	const crashedAt = lab.journal.filter(({ what }) => what === POSTGRES_DOWN).map(({ at }) => at)
	const givenBack = [...lab.givenBack()]
	for (const [node, executions] of await repeatedNodes(lab)) {
		const superseded = await supersededAttempts(lab, node)
		const stands = new Set(node.claim === null ? [] : [node.claim])
		for (const execution of executions) {
			// A claim is one execution's: whoever finds the claim of another one has lost its own before it began.
			const claim =
				execution.claim !== null && !claimsBefore(executions, execution) ? execution.claim : null
			if (claim !== null && stands.delete(claim)) continue
			const end = takeFirst(superseded, (attempt) =>
				claim === null
					? attempt.pid === execution.pid && !executions.some((other) => isClaimOf(attempt, other))
					: isClaimOf(attempt, execution),
			)
			if (end !== undefined) {
				counts.repeated[end.outcome === 'failed' ? 'attempts' : 'crashes'] += 1
				continue
			}
			const returned = takeFirst(
				givenBack,
				({ runId, nodeId, worker }) =>
					runId === node.run_id && nodeId === node.node_id && worker === execution.worker,
			)
			if (returned !== undefined) {
				counts.repeated.givenBack += 1
				continue
			}
			if (claim === null && crashedAt.some((at) => at > node.created && at < execution.started)) {
				counts.repeated.lostClaims += 1
				continue
			}
			violations.push(
				`node ${node.node_id} of run ${node.run_id} was executed for no reason by ${execution.worker}: ${JSON.stringify({ node, executions, superseded })}`,
			)
		}
	}
}

interface RepeatedNode extends Row {
	readonly run_id: string
	readonly node_id: string
	readonly generation: string
	readonly recovers: string
	/** The last one. */
	readonly claim: string | null
	/** As epoch milliseconds: nobody has claimed it before. */
	readonly created: number
}

async function repeatedNodes(lab: Lab): Promise<(readonly [RepeatedNode, Execution[]])[]> {
	const nodes = await lab.rows<RepeatedNode>(
		`select n.run_id, n.node_id, n.generation, n.recovers, n.claim_token::text as claim,
			extract(epoch from n.created_at)::float8 * 1000 as created
		from flowcraft_nodes n join (
			select run_id, node_id, generation, recovers from lab_executions
			group by run_id, node_id, generation, recovers having count(*) > 1
		) e using (run_id, node_id, generation, recovers)`,
	)
	const found: (readonly [RepeatedNode, Execution[]])[] = []
	for (const node of nodes)
		found.push([
			node,
			await lab.rows<Execution>(
				`select ${EXECUTION_COLUMNS} from lab_executions
				where run_id = $1 and node_id = $2 and generation = $3 and recovers = $4 order by started_at`,
				node.run_id,
				node.node_id,
				node.generation,
				node.recovers,
			),
		])
	return found
}

interface SupersededAttempt extends Row {
	readonly outcome: 'failed' | 'crashed'
	readonly worker_id: string
	readonly claimed_at: string
	/** Of the worker's process; null if it is in no registry any more. */
	readonly pid: number | null
}

const supersededAttempts = (lab: Lab, node: RepeatedNode): Promise<SupersededAttempt[]> =>
	lab.rows<SupersededAttempt>(
		`select a.outcome, a.worker_id::text, a.claimed_at::text, substring(w.name from '[0-9]+$')::int as pid
		from flowcraft_attempts a left join flowcraft_workers w using (worker_id)
		where a.run_id = $1 and a.node_id = $2 and a.generation = $3 and a.recovers = $4 order by a.id`,
		node.run_id,
		node.node_id,
		node.generation,
		node.recovers,
	)

const isClaimOf = (attempt: SupersededAttempt, execution: Execution): boolean =>
	attempt.worker_id === execution.worker_id && attempt.claimed_at === execution.claimed_at

/** Whether another execution has begun under the same claim, after this one: then it is that one's. */
const claimsBefore = (executions: readonly Execution[], execution: Execution): boolean =>
	executions.slice(executions.indexOf(execution) + 1).some(({ claim }) => claim === execution.claim)

function takeFirst<T>(list: T[], isIt: (item: T) => boolean): T | undefined {
	const place = list.findIndex(isIt)
	return place < 0 ? undefined : list.splice(place, 1)[0]
}

async function checkBookings(lab: Lab, violations: string[], counts: ReportCounts): Promise<void> {
	const [totals] = await lab.rows<{ bookings: number }>(
		'select count(*)::int as bookings from lab_bookings',
	)
	counts.bookings = totals?.bookings ?? 0
	const found = await lab.rows<{ violation: string }>(
		`with completed as (
			select n.run_id, n.node_id, n.generation, n.recovers from flowcraft_nodes n join flowcraft_statuses s using (run_id)
			join jsonb_to_recordset($1::text::jsonb) as b(blueprint_id text, node_id text)
				on b.blueprint_id = s.blueprint_id and b.node_id = n.node_id
			where n.state = 'completed'
		), counted as (
			select run_id, node_id, generation, recovers, count(*)::int as bookings from lab_bookings
			group by run_id, node_id, generation, recovers
		)
		select case when c.run_id is null
				then format('onCommit effect of node %s of run %s, which has not completed', b.node_id, b.run_id)
				else format('%s onCommit effects of node %s of run %s, not one', coalesce(b.bookings, 0), c.node_id, c.run_id) end as violation
		from completed c full join counted b using (run_id, node_id, generation, recovers)
		where c.run_id is null or b.bookings is distinct from 1
		limit 50`,
		JSON.stringify(booking),
	)
	violations.push(...found.map(({ violation }) => violation))
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

/** The sweep's statements: `src/db/sql/80_sweep.sql` to `82_sweep_generations.sql` hold the rules. */
import { type Executor, query } from '../db/query.js'
import type { RunStatus } from '../db/schema.js'

/** The time by the database's clock, as it writes it. */
export async function databaseTime(db: Executor): Promise<string> {
	const [row] = await query<{ now: string }>(db, 'select clock_timestamp()::text as now')
	if (row === undefined) throw new Error('The database did not tell the time')
	return row.now
}

/**
 * Declares silent workers dead and makes what dead and stopped workers held ready again.
 * @param reachedAt `databaseTime` when the database came within the caller's reach again, null if it has never been out of it:
 *   until then no heartbeat could land, so that every lease counts from there
 */
export async function sweepWorkers(
	db: Executor,
	limit: number,
	reachedAt: string | null = null,
): Promise<{ buried: number; recovered: number }> {
	const [row] = await query<{ buried: number; recovered: number }>(
		db,
		'select buried, recovered from flowcraft_sweep_workers($1::int, $2::text::timestamptz)',
		[limit, reachedAt],
	)
	return row ?? { buried: 0, recovered: 0 }
}

/**
 * Declares all workers and relays dead, whatever their leases and claims say: only for a process that is alone with its
 * database. What workers had in hand is for the next sweep, what relays had taken for the next relay.
 */
export async function buryAll(db: Executor): Promise<void> {
	await query(
		db,
		`with workers as (
			update flowcraft_workers set dead_at = clock_timestamp() where dead_at is null and stopped_at is null
		)
		update flowcraft_outbox set claimed_until = '-infinity' where claim_token is not null`,
	)
}

/**
 * Emits again what could run but whose message is lost.
 * @param backlog messages wait in the broker: only nodes that were passed by count as lost
 * @returns how many were emitted again
 */
export async function sweepLost(
	db: Executor,
	stalledMs: number,
	backlog: boolean,
	limit: number,
): Promise<number> {
	const [row] = await query<{ emitted: number }>(
		db,
		'select flowcraft_sweep_lost($1::bigint, $2::boolean, $3::int) as emitted',
		[stalledMs, backlog, limit],
	)
	return row?.emitted ?? 0
}

/** Checks the counters of quiet live runs after `after`, and sets right those that do not agree with their nodes. */
export async function sweepRuns(
	db: Executor,
	after: string,
	limit: number,
	quietMs: number,
): Promise<{ repaired: string[]; next: string | null }> {
	const [row] = await query<{ repaired: string; next: string | null }>(
		db,
		'select to_json(repaired)::text as repaired, next from flowcraft_sweep_runs($1::text, $2::int, $3::bigint)',
		[after, limit, quietMs],
	)
	return { repaired: JSON.parse(row?.repaired ?? '[]') as string[], next: row?.next ?? null }
}

/**
 * Deletes what nodes in loops of live runs have left behind, beyond the newest `keep` turns of each.
 * @param after look at `runs` live runs after this one, oldest first; '' for the oldest
 * @param rows ends the round when so many nodes are gone
 */
export async function sweepGenerations(
	db: Executor,
	after: string,
	runs: number,
	keep: number,
	rows: number,
): Promise<{ deleted: number; next: string | null }> {
	const [row] = await query<{ deleted: number; next: string | null }>(
		db,
		'select deleted, next from flowcraft_sweep_generations($1::text, $2::int, $3::int, $4::int)',
		[after, runs, keep, rows],
	)
	return { deleted: row?.deleted ?? 0, next: row?.next ?? null }
}

/** Deletes what was kept for its time. */
export async function sweepExpired(db: Executor, workerMs: number): Promise<number> {
	const [row] = await query<{ deleted: number }>(
		db,
		'select flowcraft_sweep_expired($1::bigint) as deleted',
		[workerMs],
	)
	return row?.deleted ?? 0
}

/**
 * Runs that the sweep would find stalled, after `after` in the order of their ids. Changes nothing.
 * @param backlog messages wait in the broker: only nodes that were passed by count as lost
 */
export async function stalledRuns(
	db: Executor,
	after: string,
	stalledMs: number,
	backlog: boolean,
	limit: number,
): Promise<string[]> {
	const rows = await query<{ run_id: string }>(
		db,
		'select run_id from flowcraft_stalled_runs($1::text, $2::bigint, $3::boolean, $4::int) as run_id',
		[after, stalledMs, backlog, limit],
	)
	return rows.map((row) => row.run_id)
}

/**
 * Emits again what of one run could run but whose worker is dead or whose message is lost.
 * @returns the run's status, null if there is no such run, and the ids of the nodes that were emitted
 */
export async function reconcileRun(
	db: Executor,
	runId: string,
	stalledMs: number,
	backlog: boolean,
): Promise<{ status: RunStatus | null; emitted: string[] }> {
	const [row] = await query<{ status: RunStatus | null; emitted: string }>(
		db,
		'select status, to_json(emitted)::text as emitted from flowcraft_reconcile_run($1::text, $2::bigint, $3::boolean)',
		[runId, stalledMs, backlog],
	)
	return { status: row?.status ?? null, emitted: JSON.parse(row?.emitted ?? '[]') as string[] }
}

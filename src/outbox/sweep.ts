/** The sweep's statements: `src/db/sql/80_sweep.sql` holds the rules. */
import { type Executor, query } from '../db/query.js'

/** Declares silent workers dead and makes what dead and stopped workers held ready again. */
export async function sweepWorkers(db: Executor, limit: number): Promise<{ buried: number; recovered: number }> {
	const [row] = await query<{ buried: number; recovered: number }>(db, 'select buried, recovered from flowcraft_sweep_workers($1::int)', [limit])
	return row ?? { buried: 0, recovered: 0 }
}

/**
 * Emits again what could run but whose message is lost.
 * @param backlog messages wait in the broker: only nodes that were passed by count as lost
 * @returns how many were emitted again
 */
export async function sweepLost(db: Executor, stalledMs: number, backlog: boolean, limit: number): Promise<number> {
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

/** Deletes what was kept for its time. */
export async function sweepExpired(db: Executor, workerMs: number): Promise<number> {
	const [row] = await query<{ deleted: number }>(db, 'select flowcraft_sweep_expired($1::bigint) as deleted', [workerMs])
	return row?.deleted ?? 0
}

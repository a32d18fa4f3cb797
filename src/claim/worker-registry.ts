/** The registry of workers: one row per process, whose lease covers everything that the process has claimed. */
import { type Executor, query, textArray } from '../db/query.js'

export interface WorkerRegistration {
	readonly workerId: string
	/** For people: host and process id, or a name of the operator's. */
	readonly name: string
	readonly version: string
	readonly queues: readonly string[]
	readonly slots: number
	/** Blueprint versions on offer, as `id@hash`. */
	readonly offers: readonly string[]
	readonly leaseMs: number
}

/** How many workers take from the queues of the worker `own`: it and others. */
const WORKERS = `(
	select 1 + count(*)::int from flowcraft_workers w
	where w.stopped_at is null and w.dead_at is null and w.draining_at is null and w.lease_until > clock_timestamp()
		and w.queues && own.queues and w.worker_id <> own.worker_id
)`

/** Announces a worker; its lease begins. Returns how many take from its queues now. */
export async function registerWorker(db: Executor, worker: WorkerRegistration): Promise<number> {
	const [row] = await query<{ workers: number }>(
		db,
		`insert into flowcraft_workers as own (worker_id, name, version, queues, slots, offers, lease_until)
		values ($1::text::uuid, $2::text, $3::text, $4::text::text[], $5::int, $6::text::text[],
			clock_timestamp() + $7::bigint * interval '1 millisecond')
		returning ${WORKERS} as workers`,
		[
			worker.workerId,
			worker.name,
			worker.version,
			textArray(worker.queues),
			worker.slots,
			textArray(worker.offers),
			worker.leaseMs,
		],
	)
	return row?.workers ?? 1
}

/**
 * Extends the lease, and says how many workers take from the queues of this one. No row: the sweep has declared it dead,
 * and nothing that it holds is its own any more.
 */
export const HEARTBEAT_STATEMENT = `update flowcraft_workers as own
	set heartbeat_at = clock_timestamp(), lease_until = clock_timestamp() + $2::bigint * interval '1 millisecond'
	where own.worker_id = $1::text::uuid and own.dead_at is null and own.stopped_at is null
	returning ${WORKERS} as workers`

/** Says that a worker takes no new nodes. */
export async function markDraining(db: Executor, workerId: string): Promise<void> {
	await query(
		db,
		'update flowcraft_workers set draining_at = clock_timestamp() where worker_id = $1::text::uuid',
		[workerId],
	)
}

/** Says that a worker has gone; what it still holds is taken from it by the next sweep. */
export async function markStopped(db: Executor, workerId: string): Promise<void> {
	await query(
		db,
		'update flowcraft_workers set stopped_at = clock_timestamp() where worker_id = $1::text::uuid',
		[workerId],
	)
}

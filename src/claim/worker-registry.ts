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

/** Announces a worker; its lease begins. */
export async function registerWorker(db: Executor, worker: WorkerRegistration): Promise<void> {
	await query(
		db,
		`insert into flowcraft_workers (worker_id, name, version, queues, slots, offers, lease_until)
		values ($1::text::uuid, $2::text, $3::text, $4::text::text[], $5::int, $6::text::text[],
			clock_timestamp() + $7::bigint * interval '1 millisecond')`,
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
}

/** Extends the lease. False: the sweep has declared this worker dead, and nothing that it holds is its own any more. */
export const HEARTBEAT_STATEMENT = `update flowcraft_workers
	set heartbeat_at = clock_timestamp(), lease_until = clock_timestamp() + $2::bigint * interval '1 millisecond'
	where worker_id = $1::text::uuid and dead_at is null and stopped_at is null
	returning 1 as alive`

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

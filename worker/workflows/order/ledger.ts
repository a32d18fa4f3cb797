/**
 * The shop's own table, beside the engine's: one row for each order that has come to its end. It is written in the commit
 * of the node that ends the order (`onCommit`), so there is a row exactly if the run says so, whatever crashes.
 */
import type { CommitTransaction } from '../../transaction/handle.js'

export interface LedgerEntry {
	readonly orderId: string
	readonly runId: string
	readonly status: 'paid' | 'cancelled'
	readonly totalCents: number
}

/**
 * Makes the table at its first use: an example has no migrations. Two transactions that create one table at once would
 * get in each other's way, hence the lock.
 */
async function createTable(tx: CommitTransaction): Promise<void> {
	const [found] = await tx`select to_regclass('example_orders') is not null as exists`
	if (found?.['exists'] === true) return
	await tx`select pg_advisory_xact_lock(hashtext('example_orders'))`
	await tx`
		create table if not exists example_orders (
			order_id text primary key,
			run_id text not null,
			status text not null,
			total_cents int not null,
			ended_at timestamptz not null default now()
		)`
}

export async function enter(tx: CommitTransaction, entry: LedgerEntry): Promise<void> {
	await createTable(tx)
	await tx`
		insert into example_orders (order_id, run_id, status, total_cents)
		values (${entry.orderId}, ${entry.runId}, ${entry.status}, ${entry.totalCents})`
}

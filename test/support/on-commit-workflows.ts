/** For real workers: a node that writes to a ledger and publishes an event, both with its result. */
import type { NodeContext, RuntimeDependencies } from 'flowcraft'
import type { DurableDependencies } from '../../worker/execution/durable-dependencies.js'

/** Whoever holds this advisory lock keeps the transaction open, after its SQL. */
export const HOLD_BEFORE_COMMIT = 4711
/** Whoever holds this one keeps the COMMIT under way: a deferred trigger of the ledger waits for it. */
export const HOLD_COMMIT = 4712

export const blueprints = { book: { id: 'book', nodes: [{ id: 'n', uses: 'book' }], edges: [] } }

export const registry = {
	book: async ({ context, dependencies }: NodeContext<RuntimeDependencies, DurableDependencies>) => {
		const run = dependencies.runtime.executionId
		const queue = await context.get('queue')
		dependencies.publish('', String(queue), { run })
		dependencies.onCommit(async (tx) => {
			await tx`insert into ledger values (${run})`
			await tx`select pg_advisory_xact_lock_shared(${HOLD_BEFORE_COMMIT})`
		})
		return { output: 'booked' }
	},
}

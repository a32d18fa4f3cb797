/**
 * One lane of a relay: takes rows, delivers them, takes the next. While there are full batches the next one is taken
 * before the last is delivered: Postgres, this process and RabbitMQ work at the same time.
 */
import type { Batch } from './publication.js'

export interface Pipeline {
	/** One round. Returns how many rows it took; a failure of an earlier batch is the next round's. */
	tick(): Promise<number>
	/** Resolves when what has been taken is delivered. No round may begin any more. */
	idle(): Promise<void>
}

/** Full batches on their way to the broker at once. */
const MAX_BATCHES_UNDER_WAY = 3

export function createPipeline(
	take: () => Promise<Batch>,
	deliver: (batch: Batch) => Promise<void>,
): Pipeline {
	const underWay = new Set<Promise<void>>()
	let taking: Promise<Batch> | undefined
	let failure: { readonly error: unknown } | undefined
	return {
		async tick() {
			while (underWay.size >= MAX_BATCHES_UNDER_WAY) await Promise.race(underWay)
			if (failure !== undefined) {
				const { error } = failure
				failure = undefined
				throw error
			}
			const next = taking ?? take()
			taking = undefined
			const batch = await next
			if (!batch.isFull) {
				await deliver(batch)
			} else {
				taking = take()
				taking.catch(() => {})
				// It is asked for at the end of the turn; publishing takes many milliseconds of this one.
				await new Promise(setImmediate)
				const settled = deliver(batch)
					.catch((error: unknown) => void (failure = { error }))
					.finally(() => underWay.delete(settled))
				underWay.add(settled)
			}
			return batch.rows.length
		},
		async idle() {
			// What has been taken is not left to wait for the end of its claim.
			const last = await taking?.catch(() => undefined)
			if (last !== undefined) await deliver(last).catch(() => {})
			await Promise.all(underWay)
		},
	}
}

/** Load in a closed loop: as many runs in flight as asked for, until all have been started and have ended. */
import { setTimeout as delay } from 'node:timers/promises'

/** Whatever runs workflows: ours, or one that it is compared with. */
export interface Engine {
	/** Starts runs; resolves when all of them are accepted. */
	start(workload: string, count: number): Promise<void>
	/** How many runs have not ended. */
	live(): Promise<number>
}

export interface Load {
	readonly workload: string
	/** Runs in all. */
	readonly total: number
	/** Runs at once. */
	readonly inFlight: number
}

/** Long against a statement's time, so that looking costs little, and short against what is measured. */
const LOOK_EVERY_MS = 20
/** Nothing ends any more: something is broken. One run of 10,000 nodes may take minutes on a busy machine. */
const STALLED_AFTER_MS = 600_000

/**
 * Seconds from the first start to the end of the last run.
 * @throws when no run has ended for ten minutes
 */
export async function timeLoad(engine: Engine, { workload, total, inFlight }: Load): Promise<number> {
	const begin = performance.now()
	let started = 0
	let ended = 0
	let progressAt = begin
	for (;;) {
		const live = started === 0 ? 0 : await engine.live()
		if (started - live > ended) {
			ended = started - live
			progressAt = performance.now()
		}
		if (ended >= total) return (performance.now() - begin) / 1000
		if (performance.now() - progressAt > STALLED_AFTER_MS)
			throw new Error(`${workload}: ${ended} of ${total} runs have ended, and none for ten minutes`)
		const room = Math.min(inFlight - live, total - started)
		if (room > 0) {
			await engine.start(workload, room)
			started += room
		}
		await delay(LOOK_EVERY_MS)
	}
}

/**
 * Load in a closed loop: as many runs in flight as asked for.
 *
 *   timeLoad   a number of runs, from the first start to the end of the last
 *   paceLoad   what ends per second once everything is warm, for as long as asked
 */
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

export interface SteadyLoad {
	readonly workload: string
	/** Runs at once. */
	readonly inFlight: number
	/** Not measured: caches, plans, connections, and the compiler of the processes. */
	readonly warmUpSeconds: number
	/** Measured, up to the next end of a run. */
	readonly seconds: number
}

/** Long against a statement's time, so that looking costs little, and short against what is measured. */
const LOOK_EVERY_MS = 20
/** Of a run that is alone, the time until its end is seen is part of what is measured; and looking at one is cheap. */
const LOOK_AT_ONE_EVERY_MS = 10
/** Nothing ends any more: something is broken. One run of 10,000 nodes may take minutes on a busy machine. */
const STALLED_AFTER_MS = 600_000

/**
 * Seconds from the first start to the end of the last run.
 * @throws when no run has ended for ten minutes
 */
export async function timeLoad(engine: Engine, { workload, total, inFlight }: Load): Promise<number> {
	const begin = performance.now()
	await keepInFlight(engine, workload, inFlight, (started) => total - started)
	return (performance.now() - begin) / 1000
}

export interface Pace<R> {
	readonly runs: number
	readonly seconds: number
	/** What was read where the measured time begins, and where it ends. */
	readonly before: R
	readonly after: R
}

/**
 * How many runs have ended in how many seconds, from one end to another, when the system had been warmed. Resolves when
 * all runs have.
 * @param read called twice, outside the measured time
 * @throws when no run has ended for ten minutes
 */
export async function paceLoad<R>(
	engine: Engine,
	{ workload, inFlight, warmUpSeconds, seconds }: SteadyLoad,
	read: () => Promise<R>,
): Promise<Pace<R>> {
	const warmAt = performance.now() + warmUpSeconds * 1000
	let begin: { readonly at: number; readonly ended: number; readonly before: R } | undefined
	let measured: Pace<R> | undefined
	await keepInFlight(
		engine,
		workload,
		inFlight,
		() => (measured === undefined ? Number.POSITIVE_INFINITY : 0),
		async (ended) => {
			const now = performance.now()
			if (begin === undefined) {
				if (now < warmAt) return
				const before = await read()
				begin = { at: performance.now(), ended, before }
			} else if (measured === undefined && now - begin.at >= seconds * 1000) {
				measured = {
					runs: ended - begin.ended,
					seconds: (now - begin.at) / 1000,
					before: begin.before,
					after: await read(),
				}
			}
		},
	)
	if (measured === undefined) throw new Error(`${workload}: it ended before it was measured`)
	return measured
}

/**
 * Starts runs whenever there is room, until none is left to start and all have ended.
 * @param left how many runs are still to be started
 * @param onEnded called with how many have ended, whenever that has grown
 */
async function keepInFlight(
	engine: Engine,
	workload: string,
	inFlight: number,
	left: (started: number) => number,
	onEnded?: (ended: number) => Promise<void>,
): Promise<void> {
	const lookEveryMs = inFlight === 1 ? LOOK_AT_ONE_EVERY_MS : LOOK_EVERY_MS
	let progressAt = performance.now()
	let started = 0
	let ended = 0
	for (;;) {
		const live = started === 0 ? 0 : await engine.live()
		if (started - live > ended) {
			ended = started - live
			progressAt = performance.now()
			await onEnded?.(ended)
		}
		const room = Math.min(inFlight - live, left(started))
		if (room <= 0 && live === 0) return
		if (performance.now() - progressAt > STALLED_AFTER_MS)
			throw new Error(`${workload}: ${live} runs are live, and none has ended for ten minutes`)
		if (room > 0) {
			await engine.start(workload, room)
			started += room
		}
		await delay(lookEveryMs)
	}
}

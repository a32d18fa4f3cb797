/**
 * The soak: mixed workflows, started over HTTP as fast as the system takes them, under a random schedule of all faults;
 * then everything has to end, and the checker reads the history.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { checkHistory } from '../lab/checker.js'
import type { Lab } from '../lab/lab.js'
import { createWorkload, type Workload } from '../lab/workload.js'
import { createSchedule } from './schedule.js'
import type { Verdict } from './verdict.js'

export interface SoakOptions {
	readonly seed: number
	/** How long faults strike; then it takes as long as it takes to end everything. */
	readonly durationMs: number
	/** Told now and then how it goes. */
	readonly onProgress?: (text: string) => void
}

/** Live runs above which nothing is started: the load follows what the system can take. */
const MAX_LIVE_RUNS = 120
const RUNS_AT_ONCE = 30
const FINISH_DEADLINE_MS = 300_000
const PROGRESS_EVERY_MS = 15_000
/** Of all accepted runs; those of blueprints that fail are about one in fifteen. */
const MINIMUM_COMPLETED = 0.85

export async function soak(lab: Lab, options: SoakOptions): Promise<Verdict> {
	const { seed, durationMs, onProgress = () => {} } = options
	await lab.supervise({ functions: 2, relay: 2, worker: 2 })
	const workload = createWorkload(lab, { seed })
	const schedule = createSchedule(lab, seed)
	const begin = performance.now()
	const until = begin + durationMs
	let refusedStarts = 0

	const load = async (): Promise<void> => {
		while (performance.now() < until) {
			const live = await liveRuns(lab)
			if (live !== undefined && live < MAX_LIVE_RUNS) {
				// Nobody answered for a minute: not accepted, so not owed.
				await workload.start(RUNS_AT_ONCE).catch(() => (refusedStarts += 1))
			} else {
				await delay(100)
			}
		}
	}
	const keepResuming = async (): Promise<void> => {
		while (performance.now() < until) {
			await workload.resumeWaiting().catch(() => {})
			await delay(500)
		}
	}
	const report = async (): Promise<void> => {
		while (performance.now() < until) {
			await delay(Math.min(PROGRESS_EVERY_MS, Math.max(until - performance.now(), 0)))
			const struck = [...schedule.struck.values()].reduce((sum, count) => sum + count, 0)
			const [done] = await lab
				.rows<{ nodes: number }>(
					`select count(*)::int as nodes from flowcraft_nodes where state in ('completed', 'recovered')`,
				)
				.catch(() => [])
			onProgress(
				`${Math.round((performance.now() - begin) / 1000)} s: ${workload.ledger.length} runs accepted, ${done?.nodes ?? '?'} nodes finished, ${struck} faults`,
			)
		}
	}
	await Promise.all([load(), keepResuming(), report(), schedule.run(until)])

	onProgress('The last fault has struck; what was accepted has to end now.')
	const unfinished = await finish(workload)
	const { violations, counts } = await checkHistory(lab, {
		ledger: workload.ledger,
		minimumCompleted: Math.floor(workload.ledger.length * MINIMUM_COMPLETED),
	})
	const statuses = await lab.rows<{ status: string; runs: number }>(
		'select status, count(*)::int as runs from flowcraft_statuses group by status order by status',
	)
	return {
		seed,
		seconds: (performance.now() - begin) / 1000,
		statuses: new Map(statuses.map(({ status, runs }) => [status, runs])),
		counts,
		refusedStarts,
		faults: schedule.struck,
		violations: unfinished === undefined ? violations : [unfinished, ...violations],
	}
}

/** Undefined while Postgres is down. */
async function liveRuns(lab: Lab): Promise<number | undefined> {
	try {
		const [row] = await lab.rows<{ live: number }>(
			'select count(*)::int as live from flowcraft_statuses where finished_at is null',
		)
		return row?.live
	} catch {
		return undefined
	}
}

/** What did not end, as a violation. */
async function finish(workload: Workload): Promise<string | undefined> {
	try {
		await workload.finish({ deadlineMs: FINISH_DEADLINE_MS })
		return undefined
	} catch (error) {
		return `not everything has ended: ${error instanceof Error ? error.message : String(error)}`
	}
}

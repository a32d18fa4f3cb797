/**
 * The soak: mixed workflows, started over HTTP as fast as the system takes them, under a random schedule of all faults;
 * then everything has to end, and the checker reads the history.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { checkHistory } from '../lab/checker.js'
import { freshQueueName } from '../../support/services/index.js'
import { waitFor } from '../../support/wait-for.js'
import { mixed } from '../lab/blueprints.js'
import { checkEffects, openEffects } from '../lab/effects.js'
import { type Lab, type LabOptions, openLab } from '../lab/lab.js'
import { createWorkload, type Workload } from '../lab/workload.js'
import { createSchedule } from './schedule.js'
import type { Verdict } from './verdict.js'

export interface SoakOptions {
	readonly seed: number
	/** How long faults strike; then it takes as long as it takes to end everything. */
	readonly durationMs: number
	/** Live runs above which nothing is started: the load follows what the system can take. */
	readonly maxLiveRuns: number
	/** Longest pause between two faults of one striker, in ms. */
	readonly maxPauseMs: number
	/** Told now and then how it goes. */
	readonly onProgress?: (text: string) => void
}

const RUNS_AT_ONCE = 15
/** All that runs can do, wide joins and events included. */
const KINDS = [
	...mixed.map(({ blueprint }) => blueprint.id),
	'lab-event',
	...Array.from({ length: 6 }, () => 'lab-wide'),
]
const FINISH_DEADLINE_MS = 300_000
const PROGRESS_EVERY_MS = 15_000
/** Of all accepted runs; those of blueprints that fail are about one in fifteen. */
const MINIMUM_COMPLETED = 0.85

/** A laboratory of its own for a soak, whose nodes leave effects outside the engine's tables. */
export async function openSoak(options: LabOptions): Promise<{ lab: Lab; exchange: string }> {
	const exchange = `${freshQueueName()}-effects`
	const lab = await openLab({ ...options, environment: { LAB_EXCHANGE: exchange } })
	await openEffects(lab, exchange)
	return { lab, exchange }
}

export async function soak(
	{ lab, exchange }: { readonly lab: Lab; readonly exchange: string },
	options: SoakOptions,
): Promise<Verdict> {
	const { seed, durationMs, maxLiveRuns, maxPauseMs, onProgress = () => {} } = options
	await lab.supervise({ functions: 2, relay: 2, worker: 2 })
	const workload = createWorkload(lab, { seed })
	const schedule = createSchedule(lab, seed, maxPauseMs)
	const begin = performance.now()
	const until = begin + durationMs
	let refusedStarts = 0

	const load = async (): Promise<void> => {
		while (performance.now() < until) {
			const live = await liveRuns(lab)
			if (live !== undefined && live < maxLiveRuns) {
				// Nobody answered for a minute: not accepted, so not owed.
				await workload.start(RUNS_AT_ONCE, { blueprints: KINDS }).catch(() => (refusedStarts += 1))
			} else {
				await delay(100)
			}
		}
	}
	let sent = 0
	/** To each run one, some before and some after it waits. Sent again when the answer was lost, it is kept in vain. */
	const sendThem = async (): Promise<void> => {
		for (let run = workload.ledger[sent]; run !== undefined; run = workload.ledger[sent]) {
			if (run.kind.takesEvent === true) {
				const response = await lab.request('/events/lab-event', {
					method: 'POST',
					headers: { 'Content-Type': 'application/json' },
					body: JSON.stringify({ key: `${run.seed}:a`, payload: `${run.seed}:event` }),
				})
				if (!response.ok) throw new Error(`An event was refused: ${await response.text()}`)
			}
			sent += 1
		}
	}
	// One at a time: two would count what they send twice, and leave somebody out.
	let sending: Promise<void> | undefined
	const sendEvents = (): Promise<void> => (sending ??= sendThem().finally(() => (sending = undefined)))
	const keepResuming = async (): Promise<void> => {
		while (performance.now() < until) {
			await Promise.all([workload.resumeWaiting(), sendEvents()]).catch(() => {})
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
	const unfinished = await finish(lab, workload, sendEvents)
	const { violations, counts } = await checkHistory(lab, {
		ledger: workload.ledger,
		minimumCompleted: Math.floor(workload.ledger.length * MINIMUM_COMPLETED),
	})
	const effects = await checkEffects(lab, exchange)
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
		effects,
		violations: [...(unfinished === undefined ? [] : [unfinished]), ...violations, ...effects.violations],
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
async function finish(
	lab: Lab,
	workload: Workload,
	sendEvents: () => Promise<void>,
): Promise<string | undefined> {
	try {
		await sendEvents()
		await workload.finish({ deadlineMs: FINISH_DEADLINE_MS })
		await waitFor(
			'every effect to be published',
			async () => (await lab.rows('select 1 from flowcraft_outbox limit 1')).length === 0,
			{ deadlineMs: FINISH_DEADLINE_MS, everyMs: 200 },
		)
		return undefined
	} catch (error) {
		return `not everything has ended: ${error instanceof Error ? error.message : String(error)}`
	}
}

import { setTimeout as delay } from 'node:timers/promises'
import { query } from '../../../src/db/query.js'
import { waitFor } from '../../support/wait-for.js'
import type { RunningProcess } from '../../support/process.js'
import { readCounters } from '../costs.js'
import type { Stage } from '../session.js'
import type { System } from '../system.js'

/** After work, until timers and pools have come to rest. */
const SETTLE_MS = 2_000

export const idle: Stage = {
	name: 'idle',
	summary: 'CPU and statements of a relay and a worker that have nothing to do',
	async run(session) {
		const system = await session.system()
		await delay(SETTLE_MS)
		const begin = performance.now()
		const before = await readCounters(system.watched)
		await delay(session.sizes.idleSeconds * 1_000)
		const after = await readCounters(system.watched)
		const seconds = (performance.now() - begin) / 1_000
		for (const [program, cpu] of Object.entries(after.cpu))
			session.results.add(
				`idle, ${program}`,
				((cpu - (before.cpu[program] ?? 0)) / seconds) * 100,
				'% CPU',
			)
		session.results.add(
			'idle, statements',
			(after.statements - before.statements) / seconds,
			'statements/s',
		)
	},
}

/** What a process still holds for each of thousands of runs that only wait: the answer should be nothing. */
export const awaiting: Stage = {
	name: 'awaiting',
	summary: 'memory of relay and worker for runs that wait',
	async run(session) {
		// A process that has done nothing else: what larger work has left would be collected meanwhile.
		await session.quiet()
		const system = await session.system()
		const runs = session.sizes.awaitingRuns
		// The first half fills what is filled once, such as caches of code and plans.
		await startWaiting(system, runs)
		const before = await heaps(system)
		await startWaiting(system, runs)
		const after = await heaps(system)
		for (const [name, bytes] of Object.entries(after))
			session.results.add(
				`memory per awaiting run, ${name}`,
				(bytes - (before[name] ?? Number.NaN)) / runs,
				'bytes',
			)
		await session.quiet()
	},
}

async function startWaiting(system: System, runs: number): Promise<void> {
	const awaitingNow = async (): Promise<number> => {
		const [row] = await query<{ awaiting: number }>(
			system.database.sql,
			`select count(*)::int as awaiting from flowcraft_statuses where status = 'awaiting'`,
		)
		return row?.awaiting ?? 0
	}
	const wanted = (await awaitingNow()) + runs
	await system.start('waiting', runs)
	await waitFor(`${runs} runs to wait`, awaitingNow, {
		deadlineMs: 300_000,
		everyMs: 50,
		until: (count) => count === wanted,
	})
	await delay(SETTLE_MS)
}

async function heaps(system: System): Promise<Record<string, number>> {
	return { relay: await heapOf(system.relay), worker: await heapOf(system.workers[0]) }
}

async function heapOf(running: RunningProcess | undefined): Promise<number> {
	if (running === undefined) return Number.NaN
	const reports = (): string[] => running.lines.filter((line) => line.startsWith('Heap after collection:'))
	const known = reports().length
	await running.kill('SIGUSR2')
	await waitFor('the size of the heap', () => reports().length > known)
	return Number(/(\d+) bytes/.exec(reports().at(-1) ?? '')?.[1])
}

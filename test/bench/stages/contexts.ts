import { randomBytes } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { query } from '../../../src/db/query.js'
import { resumeRun } from '../../../src/run/resume.js'
import { startRun } from '../../../src/run/start.js'
import { timeLoad } from '../in-flight.js'
import type { Stage } from '../session.js'
import type { System } from '../system.js'
import { NODES } from '../workflows.js'

const STARTS_AT_ONCE = 4

/**
 * Nodes that read one small key, in runs whose context is small or large. The runs wait after their start, which writes
 * the context; the nodes are measured from the resumes on.
 */
export const contexts: Stage = {
	name: 'context',
	summary: 'small nodes in contexts of 10 KiB, 1 MiB and 10 MiB',
	async run(session) {
		const system = await session.system()
		const runs = session.sizes.contextRuns
		for (const bytes of session.sizes.contextBytes) {
			const waiting = await startWaiting(system, runs, bytes)
			const engine = {
				live: () => system.live(),
				start: async (_: string, count: number) => {
					for (const runId of waiting.splice(0, count)) await resumeRun(system.database.sql, runId)
				},
			}
			await session.measureWork(
				`small nodes, context of ${nameOf(bytes)}`,
				system.watched,
				runs * (NODES['large-context'] ?? Number.NaN),
				() => timeLoad(engine, { workload: 'large-context', total: runs, inFlight: runs }),
			)
		}
	},
}

async function startWaiting(system: System, runs: number, bytes: number): Promise<string[]> {
	const runIds: string[] = []
	let left = runs
	await Promise.all(
		Array.from({ length: STARTS_AT_ONCE }, async () => {
			while (left-- > 0) {
				// Not to be compressed: what is stored is as large as it says.
				const ballast = randomBytes((bytes * 3) / 4).toString('base64')
				const { runId } = await startRun(system.database.sql, {
					blueprint: 'large-context',
					input: { n: 1, ballast },
				})
				runIds.push(runId)
			}
		}),
	)
	for (;;) {
		const [row] = await query<{ awaiting: number }>(
			system.database.sql,
			`select count(*)::int as awaiting from flowcraft_statuses where status = 'awaiting'`,
		)
		if (row?.awaiting === runs) return runIds
		await delay(20)
	}
}

const nameOf = (bytes: number): string =>
	bytes >= 1024 * 1024 ? `${bytes / 1024 / 1024} MiB` : `${bytes / 1024} KiB`

import { createDatabase } from '../../../src/db/client.js'
import { type Executor, query } from '../../../src/db/query.js'
import { startRun } from '../../../src/run/start.js'
import { setTimeout as delay } from 'node:timers/promises'
import { openPublisher } from '../floors/amqp.js'
import type { Stage } from '../session.js'
import { percentile } from '../statistics.js'

/** Long against a run of one node. */
const LOOK_EVERY_MS = 50

/** A run of one node, one at a time on an idle system, and the least that it can cost, in turn. */
export const latency: Stage = {
	name: 'latency',
	summary: 'one-node runs on an idle system, beside one commit and one confirm',
	async run(session) {
		const system = await session.system()
		const { lab, results, sizes } = session
		const database = createDatabase(system.databaseUrl, { max: 1, applicationName: 'bench' })
		const publisher = await openPublisher(lab.rabbitMq.url)
		const runs: number[] = []
		const floors: number[] = []
		try {
			await query(database.sql, 'create table if not exists bench_rows (v text)')
			for (let i = 0; i < sizes.latencySamples; i++) {
				const { runId } = await startRun(database.sql, { blueprint: 'chain-1', input: { n: 1 } })
				runs.push(await timeUntilEnd(database.sql, runId))

				const begin = performance.now()
				await query(database.sql, `insert into bench_rows (v) values ('a')`)
				const committed = performance.now() - begin
				floors.push(committed + (await publisher.confirmMs()))
				// The relay and the worker come to rest, as on a system where nothing happens.
				await delay(Math.random() * 100)
			}
		} finally {
			await publisher.close()
			await database.close()
		}
		for (const [name, share] of [
			['p50', 0.5],
			['p95', 0.95],
			['p99', 0.99],
		] as const) {
			results.add(`one node, ${name}`, percentile(runs, share), 'ms')
			results.add(`one commit and one confirm, ${name}`, percentile(floors, share), 'ms')
		}
	},
}

/**
 * From the write that accepts a run to the write that ends it, in ms, by the clock of Postgres: each is visible as long
 * after it as its commit takes. Looking all the time would take from the run the cores that it needs.
 */
async function timeUntilEnd(db: Executor, runId: string): Promise<number> {
	for (;;) {
		await delay(LOOK_EVERY_MS)
		const [row] = await query<{ ms: number | null }>(
			db,
			`select (extract(epoch from finished_at - created_at) * 1000)::float8 as ms from flowcraft_statuses
			where run_id = $1::text`,
			[runId],
		)
		if (typeof row?.ms === 'number') return row.ms
	}
}

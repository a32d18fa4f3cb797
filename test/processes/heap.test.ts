/**
 * What relay and worker keep in memory once all garbage is collected does not grow with what they have done: warmed up,
 * it stays where it is. A few thousand nodes in `npm test`, a hundred thousand in `npm run test:full`.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createDatabase, type Database } from '../../src/db/client.js'
import { query } from '../../src/db/query.js'
import { startRun } from '../../src/run/start.js'
import { NODES as NODES_OF } from '../bench/workflows.js'
import { type RunningProcess, spawnProcess } from '../support/process.js'
import { freshDatabase, type FreshDatabase, freshQueueName, rabbitMq } from '../support/services/index.js'
import { isFull, testSize } from '../support/size.js'
import { waitFor } from '../support/wait-for.js'

const NODES = testSize('HEAP_NODES', { small: 3_000, full: 100_000 })
const WARM_UP_NODES = testSize('HEAP_WARM_UP_NODES', { small: 2_000, full: 20_000 })
/** Of the first sample. Little is warm after a short warm-up: code is still being compiled, caches fill. */
const TOLERANCE = isFull ? 0.1 : 0.15
const SAMPLES = isFull ? 10 : 3
/** Failures and their retries, joins, chains and batches. */
const WORKLOADS = ['fan-out-100', 'chain-10', 'batch-50', 'chain-3-flaky']
const ROUND_NODES = WORKLOADS.reduce((sum, workload) => sum + (NODES_OF[workload] ?? 0), 0)
const RUNS_AT_ONCE = 20

let fresh: FreshDatabase
let database: Database
let processes: Record<'relay' | 'worker', RunningProcess>

beforeAll(async () => {
	fresh = await freshDatabase()
	database = createDatabase(fresh.url, { max: 5 })
	const env = {
		DATABASE_URL: fresh.url,
		RABBITMQ_URL: (await rabbitMq()).url,
		QUEUE_NAME: freshQueueName(),
		WORKFLOWS: 'test/bench/workflows.ts',
		LOG_LEVEL: 'info',
	}
	const spawn = (entry: string, readyLine: RegExp): Promise<RunningProcess> =>
		spawnProcess({
			entry,
			nodeArgs: ['--expose-gc', '--import', './test/bench/heap-on-signal.js'],
			env,
			readyLine,
			deadlineMs: 60_000,
		})
	const [relay, worker] = await Promise.all([
		spawn('worker/relay.main.ts', /The relay runs/),
		spawn('worker/worker.main.ts', /The worker listens/),
	])
	processes = { relay, worker }
})
afterAll(async () => {
	await Promise.all(Object.values(processes).map((running) => running.stop({ deadlineMs: 60_000 })))
	await database.close()
	await fresh.drop()
})

const items = Array.from({ length: 50 }, (_, position) => position)

/** Runs at least so many nodes, and waits until nothing of them is left to do. */
async function runNodes(nodes: number): Promise<void> {
	const wanted = Array.from({ length: Math.ceil(nodes / ROUND_NODES) }, () => WORKLOADS).flat()
	while (wanted.length > 0) {
		for (const blueprint of wanted.splice(0, RUNS_AT_ONCE))
			await startRun(database.sql, { blueprint, input: { n: 1, items } })
		await waitFor(
			'all runs to end',
			async () => {
				const [row] = await query<{ live: number }>(
					database.sql,
					`select count(*)::int as live from flowcraft_statuses where finished_at is null`,
				)
				return row?.live
			},
			{ until: (live) => live === 0, deadlineMs: 120_000 },
		)
	}
}

/** Megabytes in use after a collection. */
async function heapOf(running: RunningProcess): Promise<number> {
	const said = (): string[] => running.lines.filter((line) => line.startsWith('Heap after collection'))
	const before = said().length
	await running.kill('SIGUSR2')
	const lines = await waitFor('the heap', said, { until: (all) => all.length > before })
	return Number(/\d+/.exec(lines.at(-1) ?? '')?.[0]) / 2 ** 20
}

test(
	`the heaps of relay and worker stay within ${TOLERANCE * 100} % over ${NODES} nodes`,
	async () => {
		await runNodes(WARM_UP_NODES)
		const heaps = { relay: [await heapOf(processes.relay)], worker: [await heapOf(processes.worker)] }
		for (let sample = 0; sample < SAMPLES; sample += 1) {
			await runNodes(NODES / SAMPLES)
			for (const role of ['relay', 'worker'] as const) heaps[role].push(await heapOf(processes[role]))
		}
		const shown = (values: readonly number[]): string => values.map((value) => value.toFixed(1)).join(' ')
		console.log(`MB after collection: relay ${shown(heaps.relay)}; worker ${shown(heaps.worker)}`)
		for (const [first = 0, ...later] of [heaps.relay, heaps.worker]) {
			for (const heap of later) {
				expect(heap).toBeLessThan(first * (1 + TOLERANCE))
				expect(heap).toBeGreaterThan(first * (1 - TOLERANCE))
			}
		}
	},
	isFull ? 3_600_000 : 300_000,
)

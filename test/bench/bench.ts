/**
 * `npm run bench`: how fast runs go through real servers and real processes: one relay, one worker.
 *
 * Absolute figures belong to the machine and the moment, so each is set against a floor that is measured in the same
 * run: the same driver committing one three-row transaction at a time from as many connections. Medians of the
 * repetitions; the table goes to the terminal, the figures to `bench-results.json`.
 */
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { createDatabase, type Database } from '../../src/db/client.js'
import { query } from '../../src/db/query.js'
import { startRun } from '../../src/run/start.js'
import { waitForRun } from '../../src/run/wait.js'
import { type RunningProcess, spawnProcess } from '../support/process.js'
import { freshDatabase, freshQueueName, rabbitMq, redis, stopServices } from '../support/services/index.js'
import { waitFor } from '../support/wait-for.js'

const { values: flags } = parseArgs({
	options: {
		repetitions: { type: 'string', default: '3' },
		runs: { type: 'string', default: '500' },
		help: { type: 'boolean', default: false },
	},
})
if (flags.help) {
	console.log(
		'npm run bench -- [--repetitions 3] [--runs 500]\n\nMeasures nodes per second and latency; writes bench-results.json.',
	)
	process.exit(0)
}
const REPETITIONS = Number(flags.repetitions)
const RUNS = Number(flags.runs)
/** Published figure of Flowcraft's own RabbitMQ adapter on such a machine: a chain of three, one worker. */
const REFERENCE_CHAIN_NODES_PER_SECOND = 26

interface Measurement {
	readonly name: string
	readonly unit: string
	readonly samples: readonly number[]
}

const median = (samples: readonly number[]): number =>
	samples.toSorted((a, b) => a - b)[Math.floor(samples.length / 2)] ?? Number.NaN
const percentile = (samples: readonly number[], p: number): number =>
	samples.toSorted((a, b) => a - b)[Math.min(samples.length - 1, Math.floor(samples.length * p))] ??
	Number.NaN

/** Starts `runs` runs, a few at a time, and waits until all have ended. */
async function throughput(
	database: Database,
	blueprint: string,
	runs: number,
	nodesPerRun: number,
): Promise<number> {
	const tag = `bench-${crypto.randomUUID()}`
	const begin = performance.now()
	let started = 0
	const starters = Array.from({ length: 4 }, async () => {
		while (started++ < runs) await startRun(database.sql, { blueprint, tags: [tag], input: { n: 1 } })
	})
	await Promise.all(starters)
	await waitFor(
		`${runs} runs of ${blueprint} to end`,
		async () => {
			const [row] = await query<{ live: number }>(
				database.sql,
				`select count(*)::int as live from flowcraft_statuses where tags @> $1::text::text[] and tags <> '{}' and finished_at is null`,
				[`{${tag}}`],
			)
			return row?.live === 0
		},
		{ deadlineMs: 300_000, everyMs: 20 },
	)
	return (runs * nodesPerRun) / ((performance.now() - begin) / 1000)
}

/** From the commit of a start to the commit of the run's end, one at a time, on an idle system, in ms. */
async function latency(database: Database, blueprint: string, count: number): Promise<number[]> {
	const samples: number[] = []
	for (let i = 0; i < count; i++) {
		const begin = performance.now()
		const { runId } = await startRun(database.sql, { blueprint })
		await waitForRun(database.sql, runId, { timeoutMs: 10_000, minPollMs: 1, maxPollMs: 2 })
		samples.push(performance.now() - begin)
	}
	return samples
}

/** Transactions of three rows per second, through the same driver, from `clients` connections. */
async function floor(url: string, clients: number, seconds: number): Promise<number> {
	const database = createDatabase(url, { max: clients })
	await query(
		database.sql,
		'create table if not exists bench_floor (id bigint generated always as identity primary key, v text)',
	)
	let done = 0
	const end = performance.now() + seconds * 1000
	await Promise.all(
		Array.from({ length: clients }, async () => {
			while (performance.now() < end) {
				await query(database.sql, `insert into bench_floor (v) values ('a'), ('b'), ('c')`)
				done += 1
			}
		}),
	)
	await database.close()
	return done / seconds
}

async function cpuSeconds(process: RunningProcess): Promise<number> {
	const { readFile } = await import('node:fs/promises')
	const [, rest = ''] = (await readFile(`/proc/${process.pid}/stat`, 'utf8')).split(') ')
	const fields = rest.split(' ')
	return (Number(fields[11]) + Number(fields[12])) / 100
}

async function main(): Promise<void> {
	const fresh = await freshDatabase()
	const environment = {
		DATABASE_URL: fresh.url,
		RABBITMQ_URL: (await rabbitMq()).url,
		REDIS_URL: (await redis()).url,
		QUEUE_NAME: freshQueueName(),
		LOG_LEVEL: 'info',
	}
	const relay = await spawnProcess({
		entry: 'worker/relay.main.ts',
		env: environment,
		readyLine: /The relay runs/,
	})
	const worker = await spawnProcess({
		entry: 'worker/worker.main.ts',
		env: { ...environment, WORKFLOWS: 'test/bench/workflows.ts' },
		readyLine: /The worker listens/,
	})
	const database = createDatabase(fresh.url, { max: 6 })
	const measurements: Measurement[] = []
	const measure = async (name: string, unit: string, sample: () => Promise<number>): Promise<void> => {
		const samples: number[] = []
		for (let i = 0; i < REPETITIONS; i++) samples.push(await sample())
		measurements.push({ name, unit, samples })
		console.log(
			`${name}: ${median(samples).toFixed(1)} ${unit} (${samples.map((sample) => sample.toFixed(1)).join(', ')})`,
		)
	}

	try {
		await throughput(database, 'chain-3', 50, 3) // Warms up caches, plans and connections.
		await measure('floor, 1 connection', 'transactions/s', () => floor(fresh.url, 1, 2))
		await measure('floor, 32 connections', 'transactions/s', () => floor(fresh.url, 32, 2))
		await measure('chain of 3', 'nodes/s', () => throughput(database, 'chain-3', RUNS, 3))
		await measure('chain of 10', 'nodes/s', () =>
			throughput(database, 'chain-10', Math.ceil(RUNS / 5), 10),
		)
		await measure('fan-out 100', 'nodes/s', () => throughput(database, 'fan-out-100', 10, 102))
		await measure('fan-out 1,000', 'nodes/s', () => throughput(database, 'fan-out-1000', 1, 1002))
		const latencies = await latency(database, 'chain-1', 100)
		for (const [name, p] of [
			['p50', 0.5],
			['p95', 0.95],
			['p99', 0.99],
		] as const) {
			measurements.push({ name: `one node, ${name}`, unit: 'ms', samples: [percentile(latencies, p)] })
			console.log(`one node, start to end, ${name}: ${percentile(latencies, p).toFixed(1)} ms`)
		}
		for (const [name, process] of [
			['relay', relay],
			['worker', worker],
		] as const) {
			const before = await cpuSeconds(process)
			await new Promise((resolve) => setTimeout(resolve, 10_000))
			const percent = ((await cpuSeconds(process)) - before) * 10
			measurements.push({ name: `${name}, idle`, unit: '% CPU', samples: [percent] })
			console.log(`${name}, idle: ${percent.toFixed(1)} % CPU`)
		}
		report(measurements)
	} finally {
		await Promise.all([relay.stop(), worker.stop()])
		await database.close()
		await fresh.drop()
		await stopServices()
	}
}

function report(measurements: readonly Measurement[]): void {
	const value = (name: string): number =>
		median(measurements.find((each) => each.name === name)?.samples ?? [])
	const chain = value('chain of 3')
	const ratios = {
		'chain of 3 against the reference adapter': chain / REFERENCE_CHAIN_NODES_PER_SECOND,
		'chain of 3 against the floor with 1 connection': chain / value('floor, 1 connection'),
		'chain of 3 against the floor with 32 connections': chain / value('floor, 32 connections'),
		'fan-out 1,000 against fan-out 100': value('fan-out 1,000') / value('fan-out 100'),
	}
	console.log('')
	for (const [name, ratio] of Object.entries(ratios)) console.log(`${name}: ${ratio.toFixed(2)}×`)
	writeFileSync(
		'bench-results.json',
		`${JSON.stringify({ node: process.version, measurements, ratios }, null, '\t')}\n`,
	)
}

await main()

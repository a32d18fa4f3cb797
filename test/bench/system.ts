/** Our own processes on a database of their own: a relay and any number of workers. */
import { basename, join } from 'node:path'
import { createDatabase, type Database } from '../../src/db/client.js'
import { startRuns } from '../../src/run/start.js'
import { freePort } from '../../worker/embedded/cluster.js'
import { type RunningProcess, spawnProcess } from '../support/process.js'
import { freshQueueName } from '../support/services/index.js'
import { type Watched } from './costs.js'
import type { Engine } from './in-flight.js'
import type { Lab, LabDatabase } from './lab.js'
import { openLook } from './look.js'

/** Nodes at once: what a worker on a machine of its own would have whose nodes wait more than they compute. */
const WORKER_CONCURRENCY = 1_024
/** Statements that start runs under way at once, and runs in each: what a functions server does that has many requests. */
const STARTERS = 2
const STARTS_AT_ONCE = 50

export interface SystemOptions {
	readonly workers?: number
	/** One that has something in it already; default: a new one, which goes away with the system. */
	readonly database?: LabDatabase
	/** Of relay and workers, over the benchmark's own. */
	readonly environment?: Readonly<Record<string, string>>
	/** Each process leaves a `.cpuprofile` in a folder of its own in there when it stops. */
	readonly profileFolder?: string | undefined
}

export interface System extends Engine {
	readonly database: Database
	readonly databaseUrl: string
	readonly queue: string
	readonly relay: RunningProcess
	readonly workers: readonly RunningProcess[]
	readonly watched: Watched
	stop(): Promise<void>
}

export async function startSystem(lab: Lab, options: SystemOptions = {}): Promise<System> {
	const { workers: workerCount = 1, profileFolder } = options
	const owned = options.database === undefined ? await lab.createDatabase() : undefined
	const databaseUrl = (options.database ?? owned)?.url ?? ''
	const queue = freshQueueName()
	const environment = {
		DATABASE_URL: databaseUrl,
		RABBITMQ_URL: lab.rabbitMq.url,
		REDIS_URL: lab.redis.url,
		QUEUE_NAME: queue,
		LOG_LEVEL: 'info',
		...options.environment,
	}
	const metricsPorts: number[] = []
	const spawn = async (entry: string, readyLine: RegExp, extra: Record<string, string> = {}) => {
		const port = await freePort()
		metricsPorts.push(port)
		return spawnProcess({
			entry,
			nodeArgs: [
				...(profileFolder === undefined
					? []
					: ['--cpu-prof', '--cpu-prof-dir', join(profileFolder, basename(entry, '.main.ts'))]),
				...['--expose-gc', '--import', './test/bench/heap-on-signal.js'],
			],
			env: { ...environment, ...extra, METRICS_PORT: String(port) },
			readyLine,
			deadlineMs: 60_000,
		})
	}
	const relay = await spawn('worker/relay.main.ts', /The relay runs/)
	const workers: RunningProcess[] = []
	for (let i = 0; i < workerCount; i++)
		workers.push(
			await spawn('worker/worker.main.ts', /The worker listens/, {
				WORKFLOWS: 'test/bench/workflows.ts',
				CONCURRENCY: options.environment?.['CONCURRENCY'] ?? String(WORKER_CONCURRENCY),
			}),
		)
	const database = createDatabase(databaseUrl, { max: STARTERS + 1, applicationName: 'bench' })
	const look = await openLook(databaseUrl, 'flowcraft_statuses where finished_at is null')

	return {
		database,
		databaseUrl,
		queue,
		relay,
		workers,
		watched: {
			databaseUrl,
			metricsPorts,
			pids: {
				postgres: [lab.postgres.pid],
				rabbitmq: [lab.rabbitMq.pid],
				relay: [relay.pid],
				worker: workers.map(({ pid }) => pid),
			},
		},
		async start(workload, count) {
			let left = count
			await Promise.all(
				Array.from({ length: STARTERS }, async () => {
					while (left > 0) {
						const size = Math.min(left, STARTS_AT_ONCE)
						left -= size
						await startAll(database, workload, size)
					}
				}),
			)
		},
		live: () => look.live(),
		async stop() {
			await Promise.all([relay.stop(), ...workers.map((worker) => worker.stop())])
			await Promise.all([database.close(), look.close()])
			await owned?.drop()
		},
	}
}

async function startAll({ sql }: Database, workload: string, count: number): Promise<void> {
	const start = { blueprint: workload, input: inputOf(workload) }
	for (const result of await startRuns(
		sql,
		Array.from({ length: count }, () => start),
	))
		if (result.status === 'rejected') throw result.reason
}

function inputOf(workload: string): Record<string, unknown> {
	const items = /^batch-(\d+)$/.exec(workload)?.[1]
	if (items === undefined) return { n: 1 }
	return { n: 1, items: Array.from({ length: Number(items) }, (_, i) => i) }
}

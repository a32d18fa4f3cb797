/** Processes die in the middle of the demo, really (SIGKILL), and every run ends as it should all the same. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { createDatabase, type Database } from '../../src/db/client.js'
import { query } from '../../src/db/query.js'
import { samplePosts } from '../../worker/workflows/content-moderation/sample-posts.js'
import { type RunningProcess, spawnProcess } from '../support/process.js'
import {
	freshDatabase,
	freshFolder,
	freshQueueName,
	rabbitMq,
	redis,
	type FreshDatabase,
} from '../support/services/index.js'
import { testSize } from '../support/size.js'
import { waitFor } from '../support/wait-for.js'

/** Each sample post this many times: enough that the middle of the demo is easily met. */
const REPEAT = testSize('KILLS_REPEAT', { small: 3, full: 8 })
const LEASE_MS = 1_500

const running: RunningProcess[] = []
async function spawn(options: Parameters<typeof spawnProcess>[0]): Promise<RunningProcess> {
	const spawned = await spawnProcess(options)
	running.push(spawned)
	return spawned
}
afterEach(async () => {
	await Promise.all(running.splice(0).map((each) => each.kill()))
})

const startDemo = (url: string): Promise<RunningProcess> =>
	spawn({
		entry: 'worker/demo.ts',
		args: ['--repeat', String(REPEAT), '--timeout', '60'],
		env: { FLOWCRAFT_URL: url },
	})

/** Some runs have ended, others have not. */
const middleOf = (demo: RunningProcess): Promise<string> => demo.waitForLine(/finished ([3-9]\d|1\d\d) of/)

async function expectAllVerdicts(demo: RunningProcess): Promise<void> {
	const exit = await demo.exited
	expect(exit, demo.tail()).toMatchObject({ code: 0 })
	expect(demo.lines.at(-1)).toMatch(/^(\d+) of \1 verdicts as expected/)
}

describe('on Postgres, RabbitMQ and Redis', () => {
	let fresh: FreshDatabase
	let database: Database
	let environment: Record<string, string>

	beforeAll(async () => {
		fresh = await freshDatabase()
		database = createDatabase(fresh.url, { max: 2 })
		environment = {
			DATABASE_URL: fresh.url,
			RABBITMQ_URL: (await rabbitMq()).url,
			REDIS_URL: (await redis()).url,
			QUEUE_NAME: freshQueueName(),
			LEASE_MS: String(LEASE_MS),
			SWEEP_MS: '200',
			RELAY_CLAIM_MS: '1000',
			STALLED_MS: '3000',
		}
	})
	afterAll(async () => {
		await database.close()
		await fresh.drop()
	})

	const startFunctions = async (): Promise<string> => {
		const functions = await spawn({
			entry: 'functions/node.ts',
			env: { ...environment, PORT: '0' },
			readyLine: /"url"/,
		})
		return /"url":"([^"]+)"/.exec(functions.lines.join('\n'))?.[1] ?? ''
	}
	const startRelay = (): Promise<RunningProcess> =>
		spawn({ entry: 'worker/relay.main.ts', env: environment, readyLine: /The relay runs/ })
	const startWorker = (): Promise<RunningProcess> =>
		spawn({ entry: 'worker/worker.main.ts', env: environment, readyLine: /The worker listens/ })

	/** No run is left behind, no counter is off, nothing waits to be sent. */
	async function expectNothingLeft(): Promise<void> {
		const [left] = await query<{ live: number; nodes: number; outbox: number }>(
			database.sql,
			`select (select count(*)::int from flowcraft_statuses where finished_at is null) as live,
				(select count(*)::int from flowcraft_nodes where state in ('ready', 'running', 'waiting', 'child')) as nodes,
				(select count(*)::int from flowcraft_outbox) as outbox`,
		)
		expect(left).toMatchObject({ live: 0, nodes: 0 })
	}

	test('a worker killed in the middle of the demo costs time, and no verdict', async () => {
		const url = await startFunctions()
		await startRelay()
		const worker = await startWorker()
		const demo = await startDemo(url)
		await middleOf(demo)
		await worker.kill('SIGKILL')
		await startWorker()
		await expectAllVerdicts(demo)
		await expectNothingLeft()
	})

	test('a relay killed in the middle of the demo costs time, and no verdict', async () => {
		const url = await startFunctions()
		const relay = await startRelay()
		await startWorker()
		const demo = await startDemo(url)
		await middleOf(demo)
		await relay.kill('SIGKILL')
		await startRelay()
		await expectAllVerdicts(demo)
		await expectNothingLeft()
	})

	test('the functions killed and started again on their port lose nothing that they accepted', async () => {
		await startRelay()
		await startWorker()
		const first = await spawn({
			entry: 'functions/node.ts',
			env: { ...environment, PORT: '0' },
			readyLine: /"url"/,
		})
		const url = /"url":"([^"]+)"/.exec(first.lines.join('\n'))?.[1] ?? ''
		const demo = await startDemo(url)
		await demo.waitForLine(/started [2-9]\d/)
		await first.kill('SIGKILL')
		await spawn({
			entry: 'functions/node.ts',
			env: { ...environment, PORT: new URL(url).port },
			readyLine: /"url"/,
		})
		await expectAllVerdicts(demo)
		await expectNothingLeft()
	})

	test('a worker that is told to stop gives its work to another one without waiting for a lease', async () => {
		const url = await startFunctions()
		await startRelay()
		const worker = await startWorker()
		const demo = await startDemo(url)
		await middleOf(demo)
		await startWorker()
		expect(await worker.stop()).toMatchObject({ code: 0 })
		await expectAllVerdicts(demo)
		const crashes = await query<{ crashes: number }>(
			database.sql,
			`select crashes from flowcraft_nodes where worker_id in
			(select worker_id from flowcraft_workers where stopped_at is not null) and crashes > 0`,
		)
		expect(crashes).toEqual([])
	})

	test('functions accept starts with relay and worker down, and the runs end when these come', async () => {
		// The workflow comes with a worker.
		await (await startWorker()).stop()
		const demo = await startDemo(await startFunctions())
		await waitFor('all starts to be accepted', async () => {
			const [row] = await query<{ live: number }>(
				database.sql,
				'select count(*)::int as live from flowcraft_statuses where finished_at is null',
			)
			return row?.live === samplePosts.length * REPEAT
		})
		await Promise.all([startRelay(), startWorker()])
		await expectAllVerdicts(demo)
	})
})

test('embedded: the one process killed in the middle of the demo and started again ends every run, at once', async () => {
	const dataDir = freshFolder('kills')
	// With the lease and the grace for lost messages that it has by default, both far longer than this may take.
	const environment = { DATA_DIR: dataDir, PORT: '0' }
	const first = await spawn({
		entry: 'worker/all-in-one.ts',
		env: environment,
		readyLine: /flowcraft-outbox runs at/,
		deadlineMs: 60_000,
	})
	const url = /runs at (http:\S+),/.exec(first.lines.join('\n'))?.[1] ?? ''
	const demo = await startDemo(url)
	await middleOf(demo)
	await first.kill('SIGKILL')
	const again = await spawn({
		entry: 'worker/all-in-one.ts',
		env: { ...environment, PORT: new URL(url).port },
		readyLine: /flowcraft-outbox runs at/,
		deadlineMs: 60_000,
	})
	const upAt = Date.now()
	await expectAllVerdicts(demo)
	expect(Date.now() - upAt).toBeLessThan(14_000)
	expect(again.lines.join('\n')).toContain('What an earlier process has left goes on')
	expect(await again.stop({ deadlineMs: 30_000 })).toMatchObject({ code: 0 })
}, 120_000)

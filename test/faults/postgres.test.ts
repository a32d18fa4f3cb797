/** Postgres is the truth, and it fails too: connections die in storms, answers get lost, it restarts without warning. */
import { setTimeout as delay } from 'node:timers/promises'
import postgres from 'postgres'
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest'
import type { TcpProxy } from '../support/tcp-proxy.js'
import { waitFor } from '../support/wait-for.js'
import { checkHistory, expectSound, POSTGRES_DOWN } from './lab/checker.js'
import { onBroker, restartPostgresImmediately, terminateBackends } from './lab/faults.js'
import { type Execution, type Lab, type LabProcess, openLab, SLACK_MS, TIMES } from './lab/lab.js'
import { outputOf } from './lab/wire.js'
import { createWorkload, type Workload } from './lab/workload.js'

// Processes start, servers recover and leases pass, on a machine that may be several times too busy.
vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 })

let lab: Lab
let functionsRoad: TcpProxy
let workerRoad: TcpProxy
/** One set for all tests, with pools that a load saturates. */
let standing: LabProcess[] = []
let worker: LabProcess
let workload: Workload
beforeAll(async () => {
	lab = await openLab({ postgres: 'private' })
	functionsRoad = await lab.road('postgres')
	workerRoad = await lab.road('postgres')
	standing = await Promise.all([
		lab.startWorker({ roads: { postgres: workerRoad }, environment: { WORKER_POOL: '2' } }),
		lab.startFunctions({ roads: { postgres: functionsRoad }, environment: { DATABASE_POOL_SIZE: '2' } }),
		lab.startRelay(),
	])
	worker = standing[0] as LabProcess
	workload = createWorkload(lab, { seed: 1 })
})
afterEach(() => lab.rest(standing))
afterAll(() => lab.close())

async function expectSoundEnd(): Promise<void> {
	await workload.finish({ deadlineMs: 180_000 })
	expectSound(
		await checkHistory(lab, {
			ledger: workload.ledger,
			minimumCompleted: Math.floor(workload.ledger.length * 0.9),
		}),
	)
	expect(standing.map(({ isRunning }) => isRunning)).toEqual(standing.map(() => true))
}

/** Strikes again and again while the load goes on, with a breath in between. */
async function expectSoundAfterStorm(strike: () => Promise<unknown>, count: number): Promise<void> {
	const loading = workload.start(56, { parallel: 16 })
	for (let struck = 0; struck < count; struck += 1) {
		await strike()
		await delay(100)
	}
	await loading
	await expectSoundEnd()
	// Whatever was claimed, given back or finished in the storm was asked again until it was known.
	expect(worker.process.lines.filter((line) => line.includes('Forgotten nodes'))).toEqual([])
}

test('a storm of terminated idle backends with saturated pools', () =>
	expectSoundAfterStorm(() => terminateBackends(lab, 'idle'), 20))

test('a storm of terminated active backends with saturated pools', () =>
	expectSoundAfterStorm(() => terminateBackends(lab, 'active'), 40))

test('the answer to a commit lost: asked again, it is known, and the node does not run again', async () => {
	const run = await workload.startOne('lab-chain', { hold: 'a' })
	await lab.executing(run.runId, 'a')
	let cut = (): void => {}
	const deaf = workerRoad.when('to server', outputOf(run.seed, 'a'), (connection) => {
		connection.blackhole('to client')
		cut = () => connection.cut()
	})
	await lab.openGate(run.runId, 'a')
	await deaf
	await waitFor('the commit', async () => {
		const [node] = await lab.rows<{ state: string }>(
			`select state from flowcraft_nodes where run_id = $1 and node_id = 'a'`,
			run.runId,
		)
		return node?.state === 'completed'
	})
	cut()
	await expectSoundEnd()
	expect(await lab.rows('select 1 from lab_executions where run_id = $1', run.runId)).toHaveLength(3)
})

test('the answer to a start lost: asked again with its key, it is the same run', async () => {
	let cut = (): void => {}
	const deaf = functionsRoad.when('to server', 's1-', (connection) => {
		connection.blackhole('to client')
		cut = () => connection.cut()
	})
	const starting = workload.startOne('lab-chain')
	await deaf
	await waitFor('the run to stand', async () => {
		const [row] = await lab.rows<{ live: number }>(
			"select count(*)::int as live from flowcraft_statuses where finished_at is null or finished_at > clock_timestamp() - interval '5 s'",
		)
		return (row?.live ?? 0) > 0
	})
	cut()
	const run = await starting
	await expectSoundEnd()
	expect(
		await lab.rows(
			`select run_id from flowcraft_contexts where key = 'order' and value like $1`,
			`%"${run.seed}"%`,
		),
	).toEqual([{ run_id: run.runId }])
})

test('Postgres away at the commit: asked until it is back, and the node does not run again', async () => {
	const run = await workload.startOne('lab-chain', { hold: 'a' })
	await lab.executing(run.runId, 'a')
	const away = workerRoad.when('to server', outputOf(run.seed, 'a'), () => {
		workerRoad.refuse()
		workerRoad.cut()
	})
	await lab.openGate(run.runId, 'a')
	await away
	await worker.process.waitForLine(/A commit has to be repeated/)
	await workerRoad.accept()
	await expectSoundEnd()
	expect(
		await lab.rows(`select 1 from lab_executions where run_id = $1 and node_id = 'a'`, run.runId),
	).toHaveLength(1)
})

test('Postgres restarted immediately under load, twice', async () => {
	const loading = workload.start(70, { parallel: 16 })
	await delay(300)
	await restartPostgresImmediately(lab)
	await delay(300)
	await restartPostgresImmediately(lab)
	await loading
	await expectSoundEnd()
})

test('a claim that Postgres has lost in a crash: the node is found ready without a message, and its result is written once', async () => {
	// The claim is committed asynchronously; usually it is lost, now and then a heartbeat has saved it.
	for (let tries = 0; ; tries += 1) {
		const mark = `s1-${workload.ledger.length + 1}`
		const claimed = workerRoad.when('to client', 'claimed', () => {
			lab.note(POSTGRES_DOWN)
			void lab.servers.postgres?.kill('SIGQUIT')
		})
		const run = await workload.startOne('lab-chain', { hold: 'a' })
		await claimed
		await lab.servers.postgres?.kill('SIGQUIT')
		const [before] = await waitFor('Postgres to be back', async () => {
			if (lab.servers.postgres?.pid === 0) await lab.servers.postgres.restart()
			return lab.rows<{ state: string }>(
				`select state from flowcraft_nodes where run_id = $1 and node_id = 'a'`,
				run.runId,
			)
		})
		await lab.openGate(run.runId, 'a')
		await expectSoundEnd()
		if (before?.state === 'ready') break
		expect(tries, `the claim of ${mark} was saved each time`).toBeLessThan(15)
	}
})

test('an idle transaction held open, with a snapshot and the lock of a run, holds up that run and no other', async () => {
	const held = await workload.startOne('lab-wait')
	await waitFor('it to wait', async () => {
		const [run] = await lab.rows<{ status: string }>(
			'select status from flowcraft_statuses where run_id = $1',
			held.runId,
		)
		return run?.status === 'awaiting'
	})
	const sql = postgres(lab.databaseUrl, {
		max: 1,
		onnotice: () => {},
		connection: { application_name: 'lab' },
	})
	const idle = await sql.reserve()
	try {
		await idle`begin isolation level repeatable read`
		await idle`select count(*) from flowcraft_nodes`
		await idle`select from flowcraft_statuses where run_id = ${held.runId} for update`
		// Minutes of a moderate load in seconds: what grows behind an open snapshot grows with the rows that change.
		const begin = Date.now()
		await workload.start(112, { parallel: 16 })
		await waitFor(
			'all other runs to end',
			async () => {
				if (Date.now() - begin > 500) await resumeOthers(held.runId)
				const [left] = await lab.rows<{ live: number }>(
					'select count(*)::int as live from flowcraft_statuses where finished_at is null and run_id <> $1',
					held.runId,
				)
				return left?.live === 0
			},
			{ deadlineMs: 120_000, everyMs: 200 },
		)
		console.log(`112 runs ended beside the open transaction, in ${Date.now() - begin} ms`)
		await idle`commit`
	} finally {
		idle.release()
		await sql.end({ timeout: 1 })
	}
	await expectSoundEnd()
})

/** Whether the sweep has declared the worker dead that had claimed this. */
async function wasBuried({ worker_id: workerId }: Execution): Promise<boolean> {
	const rows = await lab.rows(
		'select 1 from flowcraft_workers where worker_id = $1::text::uuid and dead_at is not null',
		workerId,
	)
	return rows.length > 0
}

test('Postgres down for longer than the lease: the living keep what they have, and one that died meanwhile is missed a lease later', async () => {
	const victim = await lab.startWorker()
	// The other one has lost its connection between the tests, and must not come back after everything is dealt out.
	await waitFor('both workers to listen', async () => {
		const { consumerCount } = await onBroker(lab, (channel) => channel.checkQueue(lab.queue))
		return consumerCount === 2
	})
	const before = workload.ledger.length
	await workload.start(12, { blueprints: ['lab-chain'], order: { hold: 'a' } })
	const held = await Promise.all(
		workload.ledger.slice(before).map(({ runId }) => lab.executing(runId, 'a')),
	)
	const kept = held.filter((each) => each.worker === worker.name)
	const left = held.filter((each) => each.worker === victim.name)
	expect(Math.min(kept.length, left.length)).toBeGreaterThan(0)

	lab.note(POSTGRES_DOWN)
	await lab.servers.postgres?.kill('SIGQUIT')
	await victim.kill()
	await delay(TIMES.LEASE_MS * 2)
	await lab.servers.postgres?.restart()
	const upAt = Date.now()
	// The lease begins when the relay's sweep, which has failed meanwhile, comes again.
	const sweepPauseMs = 5_000 * 1.25
	const again = await Promise.all(left.map(({ run_id: runId }) => lab.executing(runId, 'a', 2)))
	const latest = Math.max(...again.map(({ started }) => started)) - upAt
	console.log(`${again.length} nodes ran elsewhere within ${Math.round(latest)} ms of Postgres's return`)
	expect(latest).toBeLessThan(sweepPauseMs + TIMES.LEASE_MS + 2_000 + SLACK_MS)
	for (const { run_id: runId } of held) await lab.openGate(runId, 'a')
	await expectSoundEnd()
	expect(await Promise.all(kept.map(wasBuried))).toEqual(kept.map(() => false))
	expect(await Promise.all(left.map(wasBuried))).toEqual(left.map(() => true))
	const executions = await lab.rows<{ worker: string }>(
		`select worker from lab_executions where node_id = 'a' and run_id = any(array(select jsonb_array_elements_text($1::text::jsonb)))`,
		JSON.stringify(kept.map(({ run_id: runId }) => runId)),
	)
	expect(executions).toEqual(kept.map(() => ({ worker: worker.name })))
})

test('Postgres out of reach for longer than the lease, although it runs: nobody is declared dead, nothing runs twice', async () => {
	const run = await workload.startOne('lab-chain', { hold: 'a' })
	const execution = await lab.executing(run.runId, 'a')
	const roads = [lab.roads.postgres, functionsRoad, workerRoad]
	for (const road of roads) {
		road.refuse()
		road.cut()
	}
	await delay(TIMES.LEASE_MS * 2)
	await Promise.all(roads.map((road) => road.accept()))
	await lab.openGate(run.runId, 'a')
	await expectSoundEnd()
	expect(await wasBuried(execution)).toBe(false)
	expect(
		await lab.rows(`select 1 from lab_executions where run_id = $1 and node_id = 'a'`, run.runId),
	).toHaveLength(1)
})

test('the answer to a claim lost: asked again, it is the same claim, and the node runs once', async () => {
	const given = (): number => worker.process.lines.filter((line) => line.includes('are given back')).length
	const before = given()
	const deaf = workerRoad.when('to client', 'claimed', (connection) => connection.cut())
	const run = await workload.startOne('lab-chain')
	await deaf
	await expectSoundEnd()
	// It need not be given back to be run.
	expect(given()).toBe(before)
	expect(await lab.rows('select 1 from lab_executions where run_id = $1', run.runId)).toHaveLength(3)
})

/** The held run would block its resume, and with it the client. */
async function resumeOthers(heldRunId: string): Promise<void> {
	const waiting = await lab.rows<{ run_id: string }>(
		`select run_id from flowcraft_statuses where status = 'awaiting' and blueprint_id = 'lab-wait' and run_id <> $1`,
		heldRunId,
	)
	for (const { run_id: runId } of waiting) {
		const run = workload.ledger.find((each) => each.runId === runId)
		await lab.request(`/runs/${runId}/resume`, {
			method: 'POST',
			headers: { 'Content-Type': 'application/json' },
			body: JSON.stringify({ nodeId: 'wait', output: `${run?.seed}:wait` }),
		})
	}
}

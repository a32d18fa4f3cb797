/** Workers die at every step, and some come back: every node is finished once, elsewhere if need be. */
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest'
import type { TcpProxy } from '../support/tcp-proxy.js'
import { waitFor } from '../support/wait-for.js'
import { checkHistory, expectSound } from './lab/checker.js'
import { type Lab, type LabProcess, openLab, SLACK_MS, TIMES } from './lab/lab.js'
import { ACK, CLAIM, outputOf } from './lab/wire.js'
import { createWorkload, type Workload } from './lab/workload.js'

// Processes start, servers recover and leases pass, on a machine that may be several times too busy.
vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 })

let lab: Lab
/** Functions and a relay, and a worker without a road to the broker until it is needed; victims are each test's own. */
let standing: LabProcess[] = []
let other: LabProcess | undefined
let otherRoad: TcpProxy
beforeAll(async () => {
	lab = await openLab()
	otherRoad = await lab.road('rabbitMq')
	standing = await Promise.all([lab.startFunctions(), lab.startRelay()])
})
afterEach(() => lab.rest([...standing, ...(other === undefined ? [] : [other])]))
afterAll(() => lab.close())

let seed = 0

interface Scene {
	readonly workload: Workload
	readonly victim: LabProcess
	/** The victim's own. */
	readonly roads: { readonly postgres: TcpProxy; readonly rabbitMq: TcpProxy }
	/** Registered and alive, but without a road to the broker. */
	readonly other: LabProcess
	/** Opens that road. */
	callOther(): Promise<void>
}

async function begin(): Promise<Scene> {
	const roads = { postgres: await lab.road('postgres'), rabbitMq: await lab.road('rabbitMq') }
	otherRoad.refuse()
	otherRoad.cut()
	if (other?.isRunning !== true) other = await lab.startWorker({ roads: { rabbitMq: otherRoad } })
	await waitFor('the other worker to be cut off', () => otherRoad.connections === 0)
	return {
		workload: createWorkload(lab, { seed: (seed += 1) }),
		victim: await lab.startWorker({ roads }),
		roads,
		other,
		callOther: () => otherRoad.accept(),
	}
}

async function expectSoundEnd(workload: Workload, minimumCompleted: number): Promise<void> {
	await workload.finish()
	expectSound(await checkHistory(lab, { ledger: workload.ledger, minimumCompleted }))
}

/** Who executed it, in order, and how each execution ended. */
const executions = (runId: string, nodeId: string) =>
	lab.rows<{ worker: string; ended: string | null }>(
		'select worker, ended from lab_executions where run_id = $1 and node_id = $2 order by started_at',
		runId,
		nodeId,
	)

const node = async (runId: string, nodeId: string) =>
	(
		await lab.rows<{ state: string; crashes: number; attempt: number; output: string | null }>(
			'select state, crashes, attempt, output from flowcraft_nodes where run_id = $1 and node_id = $2',
			runId,
			nodeId,
		)
	)[0]

test('a worker killed before its claim: the message goes to another one, and no crash is counted', async () => {
	const { workload, victim, roads, other, callOther } = await begin()
	const killed = roads.postgres.when('to server', CLAIM, (connection) => {
		connection.cut()
		void victim.kill()
	})
	const { runId } = await workload.startOne('lab-chain')
	await killed
	await callOther()
	await expectSoundEnd(workload, 1)
	expect(await executions(runId, 'a')).toEqual([{ worker: other.name, ended: 'returned' }])
	expect(await node(runId, 'a')).toMatchObject({ crashes: 0, attempt: 1 })
})

test('a worker killed between claim and ack: the message that comes again is held, and the node runs after the lease', async () => {
	const { workload, victim, roads, other, callOther } = await begin()
	// The blueprint takes its time, so that the ack is on its way before the node runs.
	roads.postgres.delay(100)
	const killed = roads.rabbitMq.when('to server', ACK, (connection) => {
		connection.cut()
		void victim.kill()
	})
	const { runId } = await workload.startOne('lab-chain')
	await killed
	expect(await node(runId, 'a')).toMatchObject({ state: 'running' })
	await callOther()
	await expectSoundEnd(workload, 1)
	expect(await executions(runId, 'a')).toEqual([{ worker: other.name, ended: 'returned' }])
	expect(await node(runId, 'a')).toMatchObject({ crashes: 1, attempt: 1 })
})

test('a worker killed after the ack, before the node runs: it runs after the lease', async () => {
	const { workload, victim, roads, other, callOther } = await begin()
	roads.postgres.delay(100)
	const killed = roads.rabbitMq.when('to server', ACK, () => void victim.kill())
	const { runId } = await workload.startOne('lab-chain')
	await killed
	await callOther()
	await expectSoundEnd(workload, 1)
	expect(await executions(runId, 'a')).toEqual([{ worker: other.name, ended: 'returned' }])
	expect(await node(runId, 'a')).toMatchObject({ crashes: 1, attempt: 1 })
})

test('a worker killed before its commit: the node runs again, and its result is written once', async () => {
	const { workload, victim, roads, other, callOther } = await begin()
	const { runId, seed: mark } = await workload.startOne('lab-chain', { hold: 'a' })
	await lab.executing(runId, 'a')
	const killed = roads.postgres.when('to server', outputOf(mark, 'a'), (connection) => {
		connection.cut()
		void victim.kill()
	})
	await lab.openGate(runId, 'a')
	await killed
	expect(await node(runId, 'a')).toMatchObject({ state: 'running', output: null })
	await callOther()
	await expectSoundEnd(workload, 1)
	expect(await executions(runId, 'a')).toEqual([
		{ worker: victim.name, ended: 'returned' },
		{ worker: other.name, ended: 'returned' },
	])
	expect(await node(runId, 'a')).toMatchObject({ crashes: 1, attempt: 1 })
})

test('a worker killed after its commit: the run goes on elsewhere, and the node does not run again', async () => {
	const { workload, victim, roads, other, callOther } = await begin()
	const { runId, seed: mark } = await workload.startOne('lab-chain', { hold: 'a' })
	await lab.executing(runId, 'a')
	const killed = roads.postgres.when('to server', outputOf(mark, 'a'), () => void victim.kill())
	await lab.openGate(runId, 'a')
	await killed
	await callOther()
	await expectSoundEnd(workload, 1)
	expect(await executions(runId, 'a')).toEqual([{ worker: victim.name, ended: 'returned' }])
	expect(await executions(runId, 'b')).toEqual([{ worker: other.name, ended: 'returned' }])
	expect(await node(runId, 'a')).toMatchObject({ crashes: 0 })
})

test('a worker stopped past its lease with its commit on the wire: the zombie’s commit writes nothing', async () => {
	const { workload, victim, roads, other, callOther } = await begin()
	const { runId, seed: mark } = await workload.startOne('lab-chain', { hold: 'a' })
	await lab.executing(runId, 'a')
	const stopped = roads.postgres.when('to server', outputOf(mark, 'a'), (connection) => {
		connection.pause('to server')
		victim.freeze()
	})
	await lab.openGate(runId, 'a')
	await stopped
	await callOther()
	await workload.finish()
	const before = await lab.rows('select * from flowcraft_nodes where run_id = $1 order by node_id', runId)
	// The commit reaches Postgres now, long after others have gone on.
	victim.thaw()
	roads.postgres.resume()
	await victim.process.waitForLine(/the claim was lost|was declared dead/)
	expect(await lab.rows('select * from flowcraft_nodes where run_id = $1 order by node_id', runId)).toEqual(
		before,
	)
	expect(await executions(runId, 'a')).toHaveLength(2)
	await expectSoundEnd(workload, 1)
	// It has begun again, as somebody new.
	await other.kill()
	const next = await workload.startOne('lab-chain')
	await expectSoundEnd(workload, 2)
	expect(await executions(next.runId, 'a')).toMatchObject([{ worker: victim.name }])
})

test('the nodes of a worker that is killed while it executes them run elsewhere within its lease and 2 s', async () => {
	const { workload, victim, other, callOther } = await begin()
	await callOther()
	await other.process.waitForLine(/subscription stands/)
	await workload.start(10, { blueprints: ['lab-chain'], order: { hold: 'a' } })
	for (const { runId } of workload.ledger) await lab.executing(runId, 'a')
	const held = await lab.rows<{ run_id: string }>(
		`select run_id from lab_executions where worker = $1 and run_id in (select run_id from flowcraft_statuses where finished_at is null)`,
		victim.name,
	)
	expect(held.length).toBeGreaterThan(0)
	const killedAt = Date.now()
	await victim.kill()
	const again = await Promise.all(held.map(({ run_id: runId }) => lab.executing(runId, 'a', 2)))
	const latest = Math.max(...again.map(({ started }) => started)) - killedAt
	console.log(
		`${held.length} nodes ran elsewhere within ${Math.round(latest)} ms of SIGKILL; the lease is ${TIMES.LEASE_MS} ms`,
	)
	expect(again.map(({ worker }) => worker)).toEqual(held.map(() => other.name))
	expect(latest).toBeLessThan(TIMES.LEASE_MS + 2_000 + SLACK_MS)
	for (const { runId } of workload.ledger) await lab.openGate(runId, 'a')
	await expectSoundEnd(workload, 10)
})

test('a node that kills its worker each time ends as a dead letter after its attempts, and harms no other run', async () => {
	await other?.kill()
	await lab.supervise({ worker: 2 })
	const workload = createWorkload(lab, { seed: (seed += 1) })
	const killer = await workload.startOne('lab-killer')
	await workload.start(28)
	await expectSoundEnd(workload, 26)
	const [dead] = await lab.rows<{ crashes: number; dead_letter: string | null }>(
		`select crashes, dead_letter from flowcraft_nodes where run_id = $1 and node_id = 'k'`,
		killer.runId,
	)
	expect(dead).toMatchObject({ crashes: 6, dead_letter: expect.any(String) })
	expect(await executions(killer.runId, 'k')).toHaveLength(6)
	const response = await lab.request('/dead-letters')
	expect(await response.json()).toMatchObject({ deadLetters: [{ runId: killer.runId, nodeId: 'k' }] })
})

test('workers and relays whose clocks are off by hours in both directions do what is due when it is due', async () => {
	const off = (hours: number) => ({
		environment: {
			NODE_OPTIONS: `--import=${new URL('lab/shifted-clock.js', import.meta.url).href}`,
			CLOCK_OFF_HOURS: String(hours),
		},
	})
	await lab.rest()
	const [ahead] = await Promise.all([
		lab.startWorker(off(7)),
		lab.startWorker(off(-5)),
		lab.startRelay(off(-9)),
		lab.startFunctions(off(3)),
	])
	const logged = JSON.parse(ahead.process.lines.find((line) => line.includes('"time"')) ?? '{}') as {
		time: number
	}
	expect(logged.time - Date.now()).toBeGreaterThan(6 * 3_600_000)
	const workload = createWorkload(lab, { seed: (seed += 1) })
	await workload.start(42)
	const killedAt = Date.now()
	await workload.startOne('lab-sleep')
	await expectSoundEnd(workload, 40)
	expect(Date.now() - killedAt).toBeGreaterThanOrEqual(150)
	const [slept] = await lab.rows<{ shortest: number }>(
		`select min(extract(epoch from b.started_at - a.ended_at) * 1000)::float8 as shortest
		from lab_executions a join lab_executions b using (run_id) join flowcraft_statuses s using (run_id)
		where s.blueprint_id = 'lab-sleep' and a.node_id = 'a' and b.node_id = 'b'`,
	)
	expect(slept?.shortest).toBeGreaterThanOrEqual(150)
})

/** The checker itself: a history is made by hand, sound first, and what must not be in it is found. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { registerBlueprint } from '../../src/blueprint/register.js'
import { type ClaimedNode, claimNodes, releaseNodes } from '../../src/claim/claim.js'
import { registerWorker } from '../../src/claim/worker-registry.js'
import { commitNodes } from '../../src/commit/commit.js'
import { startRun } from '../../src/run/start.js'
import { keyOf } from '../support/core.js'
import { byId } from './lab/blueprints.js'
import { checkHistory, POSTGRES_DOWN, type Report } from './lab/checker.js'
import { type Lab, openLab } from './lab/lab.js'

let lab: Lab
const workerId = crypto.randomUUID()
const PID = 4711
beforeAll(async () => {
	lab = await openLab()
	const one = byId.get('lab-one')
	if (one === undefined) throw new Error('There is no blueprint lab-one')
	await registerBlueprint(lab.database.sql, one.blueprint)
	await registerWorker(lab.database.sql, {
		workerId,
		name: `test:${PID}`,
		version: '',
		queues: [],
		slots: 1,
		offers: [],
		leaseMs: 600_000,
	})
})
afterAll(() => lab.close())

const check = (): Promise<Report> => checkHistory(lab, { ledger: [], minimumCompleted: 0 })

async function claim(runId: string): Promise<ClaimedNode> {
	const [outcome] = await claimNodes(lab.database.sql, workerId, [keyOf(runId, 'a')])
	if (outcome?.status !== 'claimed') throw new Error(`Not claimed: ${outcome?.status}`)
	return outcome.node
}

/** As a `work` node notes it, which finds the claim that stands then, or none. */
async function execute(runId: string, hasClaim = true): Promise<void> {
	await lab.rows(
		`insert into lab_executions (execution, run_id, node_id, generation, recovers, attempt, worker, pid, claim, worker_id,
			claimed_at, ended_at, ended)
		select gen_random_uuid(), n.run_id, n.node_id, '', '', 1, 'worker-1', $2::int,
			case when $3 then n.claim_token end, case when $3 then n.worker_id end, case when $3 then n.claimed_at end,
			clock_timestamp(), 'returned'
		from flowcraft_nodes n where n.run_id = $1`,
		runId,
		PID,
		hasClaim,
	)
}

const complete = (runId: string, { key, token }: ClaimedNode): Promise<unknown> =>
	commitNodes(lab.database.sql, [{ key, token, outcome: 'completed', output: '"seed:a"' }]).then(() =>
		lab.rows('delete from flowcraft_outbox where run_id = $1', runId),
	)

const start = async (): Promise<string> => (await startRun(lab.database.sql, { blueprint: 'lab-one' })).runId

test('finds nothing in a node that was executed once, and its completion without its execution', async () => {
	const runId = await start()
	const node = await claim(runId)
	await execute(runId)
	await complete(runId, node)
	expect((await check()).violations).toEqual([])
	await lab.rows('update lab_executions set claim = gen_random_uuid() where run_id = $1', runId)
	expect((await check()).violations).toEqual([
		expect.stringContaining('no execution of it has returned under its claim'),
	])
	await lab.rows('update lab_executions set claim = $2::text::uuid where run_id = $1', runId, node.token)
})

test('takes an execution whose claim is gone for unexplained, until Postgres is known to have gone down before it began', async () => {
	const runId = await start()
	const lost = await claim(runId)
	const crashed = lab.journal.length
	lab.note(POSTGRES_DOWN)
	await releaseNodes(lab.database.sql, [{ ...lost, delayMs: 0 }])
	await execute(runId, false)
	const node = await claim(runId)
	await execute(runId)
	await complete(runId, node)
	const explained = await check()
	expect(explained.violations).toEqual([])
	expect(explained.counts.repeated.lostClaims).toBe(1)
	;(lab.journal as unknown[]).splice(crashed)
	expect((await check()).violations).toEqual([expect.stringContaining('was executed for no reason')])
	await lab.rows('delete from lab_executions where run_id = $1 and claim is null', runId)
})

test('takes an execution that had its claim for unexplained although Postgres went down meanwhile', async () => {
	const runId = await start()
	lab.note(POSTGRES_DOWN)
	const first = await claim(runId)
	await execute(runId)
	await releaseNodes(lab.database.sql, [{ ...first, delayMs: 0 }])
	const node = await claim(runId)
	await execute(runId)
	await complete(runId, node)
	expect((await check()).violations).toEqual([expect.stringContaining('was executed for no reason')])
	await lab.rows(
		'delete from lab_executions where run_id = $1 and claim = $2::text::uuid',
		runId,
		first.token,
	)
})

test('finds what was written through onCommit by a node that has not completed', async () => {
	await lab.rows(`insert into lab_bookings values ('nobody', 'a', '', '')`)
	expect((await check()).violations).toEqual([expect.stringContaining('onCommit effect of node a')])
})

import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import {
	HEARTBEAT_STATEMENT,
	markDraining,
	markStopped,
	registerWorker,
} from '../../src/claim/worker-registry.js'
import { query } from '../../src/db/query.js'
import { reconcileRun, sweepExpired, sweepLost, sweepRuns, sweepWorkers } from '../../src/outbox/sweep.js'
import type { NodeKey } from '../../src/plan/node-key.js'
import { cancelRun } from '../../src/run/cancel.js'
import { resumeRun } from '../../src/run/resume.js'
import { type Core, createCore, flow, keyOf, sourceOf } from '../support/core.js'
import { whenBlocked } from '../support/locks.js'

let core: Core
let worker: string

beforeAll(async () => {
	core = await createCore()
	worker = await core.worker()
	await core.register(flow('one', [], { a: {} }))
	await core.register(flow('two', [], { a: {}, b: {} }))
	await core.register(flow('nested', [], { sub: { uses: 'subflow', params: { blueprintId: 'one' } } }))
})
afterAll(() => core.drop())
// What one test leaves behind would be swept in the next.
beforeEach(async () => {
	await core.rows('truncate flowcraft_statuses, flowcraft_nodes, flowcraft_outbox, flowcraft_attempts')
})

const GRACE_MS = 30_000

const die = (workerId: string) =>
	core.rows(
		`update flowcraft_workers set lease_until = '-infinity' where worker_id = $1::text::uuid`,
		workerId,
	)

/** Lets time pass for everything in the database. */
async function pass(ms: number): Promise<void> {
	const by = `$1::bigint * interval '1 millisecond'`
	await core.rows(
		`update flowcraft_nodes set emitted_at = emitted_at - ${by}, due_at = due_at - ${by}, claimed_at = claimed_at - ${by}`,
		ms,
	)
	await core.rows(
		`update flowcraft_outbox set due_at = due_at - ${by}, claimed_until = claimed_until - ${by}`,
		ms,
	)
	await core.rows(
		`update flowcraft_statuses set updated_at = updated_at - ${by}, finished_at = finished_at - ${by}`,
		ms,
	)
}

/** Puts a node to wait. */
async function wait(runId: string, nodeId: string, delayMs?: number): Promise<void> {
	const { key, token } = await core.claimed(worker, runId, nodeId)
	await core.commit({ key, token, outcome: 'waiting', wait: '{"reason":"timer"}', delayMs })
}

/** Starts the child of node `sub`; returns its run. */
async function startChild(runId: string): Promise<string> {
	const { key, token } = await core.claimed(worker, runId, 'sub')
	const childRunId = crypto.randomUUID()
	await core.commit({ key, token, outcome: 'child', childRunId, childBlueprint: 'one' })
	return childRunId
}

describe('dead workers', () => {
	test('what one held is ready again, with a message, and its crash is in the history; the attempt is the same', async () => {
		const [mortal, runId] = [await core.worker(), await core.start('one')]
		const before = await core.claimed(mortal, runId, 'a')
		await core.drain()
		await die(mortal)
		expect(await sweepWorkers(core.sql, 100)).toEqual({ buried: 1, recovered: 1 })
		expect(await core.outbox(runId)).toEqual(['a'])
		expect(await core.claimed(worker, runId, 'a')).toMatchObject({ attempt: 1, crashes: 1 })
		expect(
			await core.rows(
				`select outcome, attempt, worker_id, claimed_at is not null as claimed from flowcraft_attempts where run_id = $1`,
				runId,
			),
		).toEqual([{ outcome: 'crashed', attempt: 1, worker_id: mortal, claimed: true }])
		expect(await core.commit(core.completed(before))).toEqual(['lost'])
		expect(await core.violations()).toEqual([])
	})

	test('what one held that was already recovered before rests for a while of its own, so that no node goes down with the same neighbour each time', async () => {
		const runIds = await Promise.all(Array.from({ length: 20 }, () => core.start('one')))
		for (const crashes of [1, 2]) {
			const mortal = await core.worker()
			await Promise.all(runIds.map((runId) => core.claimed(mortal, runId, 'a')))
			await core.drain()
			await die(mortal)
			expect(await sweepWorkers(core.sql, 100)).toEqual({ buried: 1, recovered: 20 })
			const rows = await core.rows<{ rest: number; same: boolean }>(
				`select extract(epoch from o.due_at - w.dead_at)::float8 as rest, o.due_at = coalesce(n.due_at, w.dead_at) as same
				from flowcraft_outbox o join flowcraft_nodes n using (run_id, node_id) join flowcraft_workers w using (worker_id)
				where n.crashes = $1`,
				crashes,
			)
			expect(rows.map(({ same }) => same)).toEqual(Array.from({ length: 20 }, () => true))
			const rests = rows.map(({ rest }) => rest)
			expect(Math.max(...rests)).toBeLessThanOrEqual(1)
			// At once the first time; twenty that all fall into the same tenth of a second do not happen.
			if (crashes === 1) expect(Math.max(...rests)).toBe(0)
			else expect(Math.max(...rests) - Math.min(...rests)).toBeGreaterThan(0.1)
		}
		expect(await core.violations()).toEqual([])
	})

	test('however many sweep at once, each node is made ready once', async () => {
		const [mortal, other] = [await core.worker(), await core.worker()]
		const runIds = await Promise.all(Array.from({ length: 60 }, () => core.start('one')))
		await Promise.all(runIds.map((runId) => core.claimed(mortal, runId, 'a')))
		await core.drain()
		await die(mortal)
		const reports = await Promise.all(Array.from({ length: 8 }, () => sweepWorkers(core.sql, 25)))
		while ((await sweepWorkers(core.sql, 25)).recovered > 0);
		expect(reports.reduce((sum, { buried }) => sum + buried, 0)).toBe(1)
		const jobs = await core.drain()
		expect(jobs.map(({ runId }) => runId).sort()).toEqual([...runIds].sort())
		for (const runId of runIds)
			expect(await core.claimed(other, runId, 'a')).toMatchObject({ crashes: 1 })
	})

	test('while others die, are swept and inherit each other\u2019s nodes, a living worker is never robbed of one', async () => {
		const living = await core.worker()
		const runIds = await Promise.all(Array.from({ length: 40 }, () => core.start('two')))
		const held = await Promise.all(runIds.map((runId) => core.claimed(living, runId, 'b')))
		// It has been running them for ages.
		await pass(24 * 3_600_000)

		let robbed = 0
		for (let round = 0; round < 10; round++) {
			const mortal = await core.worker()
			await Promise.all(runIds.map((runId) => core.claim(mortal, keyOf(runId, 'a'))))
			await die(mortal)
			// Claims by the living, while the dead one's nodes are being swept.
			await Promise.all([
				...Array.from({ length: 4 }, () => sweepWorkers(core.sql, 10)),
				...runIds.map(async (runId) => {
					const outcome = await core.claim(living, keyOf(runId, 'a'))
					if (outcome.status !== 'claimed') return
					// Still its own, whoever sweeps: a commit finds the claim as it was.
					const { key, token } = outcome.node
					const [result] = await core.commit({
						key,
						token,
						outcome: 'retry',
						error: '{}',
						delayMs: 0,
					})
					if (result !== 'committed') robbed += 1
				}),
				...Array.from({ length: 4 }, () => sweepWorkers(core.sql, 10)),
			])
		}
		expect(robbed).toBe(0)
		expect(await core.commit(...held.map((node) => core.completed(node)))).toEqual(
			held.map(() => 'committed'),
		)
		expect(await core.violations()).toEqual([])
	})

	const takers: readonly (readonly [
		who: string,
		take: (runId: string) => Promise<unknown>,
		taken: unknown,
	])[] = [
		['a sweep', () => sweepWorkers(core.sql, 100), { buried: 1, recovered: 0 }],
		[
			'reconciling',
			(runId) => reconcileRun(core.sql, runId, GRACE_MS, false),
			{ status: 'running', emitted: [] },
		],
	]
	test.each(takers)(
		'a node that others took up and claimed while %s looked at it is not taken from the living',
		async (_who, take, taken) => {
			const [mortal, runId] = [await core.worker(), await core.start('one')]
			await core.claimed(mortal, runId, 'a')
			await die(mortal)
			// Holds it up between what it sees and what it locks.
			await core.sql.unsafe(
				`create or replace function flowcraft_crash_rest(p_crashes int) returns interval language plpgsql volatile as
				$$ begin perform pg_advisory_xact_lock_shared(4713); return null; end $$`,
			)
			try {
				const { taking } = await core.sql.begin(async (holder) => {
					const [{ pid }] = await holder<
						[{ pid: number }]
					>`select pg_backend_pid() as pid, pg_advisory_xact_lock(4713)`
					const taking = take(runId)
					await whenBlocked(core.sql, pid)
					await core.rows(
						`update flowcraft_nodes set worker_id = $1::text::uuid, claim_token = gen_random_uuid() where run_id = $2`,
						worker,
						runId,
					)
					return { taking }
				})
				expect(await taking).toEqual(taken)
				expect(
					await core.rows(
						'select state, worker_id, crashes from flowcraft_nodes where run_id = $1',
						runId,
					),
				).toEqual([{ state: 'running', worker_id: worker, crashes: 0 }])
			} finally {
				await core.sql.unsafe(sourceOf('80_sweep.sql'))
			}
		},
	)

	test('what a stopped worker still holds is taken from it at once', async () => {
		const [stopped, runId] = [await core.worker(), await core.start('one')]
		await core.claimed(stopped, runId, 'a')
		expect(await sweepWorkers(core.sql, 100)).toEqual({ buried: 0, recovered: 0 })
		await markStopped(core.sql, stopped)
		expect(await sweepWorkers(core.sql, 100)).toEqual({ buried: 0, recovered: 1 })
	})

	test('what a worker holds that is in no registry any more is taken up', async () => {
		const [forgotten, runId] = [await core.worker(), await core.start('one')]
		await core.claimed(forgotten, runId, 'a')
		await core.rows(`delete from flowcraft_workers where worker_id = $1::text::uuid`, forgotten)
		expect(await sweepWorkers(core.sql, 100)).toEqual({ buried: 0, recovered: 1 })
	})

	test('a worker that was declared dead stays dead, however late its heartbeat', async () => {
		const silent = await core.worker()
		await die(silent)
		await sweepWorkers(core.sql, 100)
		expect(await query(core.sql, HEARTBEAT_STATEMENT, [silent, 60_000])).toEqual([])
		expect(await core.claim(silent, keyOf(await core.start('one'), 'a'))).toEqual({ status: 'no_lease' })
	})

	test('a heartbeat tells how many workers take from the same queue, those aside that stop or are silent', async () => {
		const queues = [crypto.randomUUID()]
		const register = async (): Promise<[workerId: string, workers: number]> => {
			const workerId = crypto.randomUUID()
			const worker = {
				workerId,
				name: 'w',
				version: '1',
				queues,
				slots: 1,
				offers: [],
				leaseMs: 60_000,
			}
			return [workerId, await registerWorker(core.sql, worker)]
		}
		const beat = (workerId: string): Promise<unknown> =>
			query(core.sql, HEARTBEAT_STATEMENT, [workerId, 60_000])
		const [first, alone] = await register()
		const [second, both] = await register()
		const [third, all] = await register()
		expect([alone, both, all]).toEqual([1, 2, 3])
		expect(await beat(first)).toEqual([{ workers: 3 }])
		await markDraining(core.sql, second)
		expect(await beat(first)).toEqual([{ workers: 2 }])
		await die(third)
		expect(await beat(first)).toEqual([{ workers: 1 }])
		await sweepWorkers(core.sql, 100)
	})

	/** A worker whose last heartbeat came a day before the server was started, and whose lease is so long, in ms. */
	async function silentSinceBeforeTheStart(leaseMs: number): Promise<void> {
		await core.rows(
			`update flowcraft_workers set heartbeat_at = pg_postmaster_start_time() - interval '1 day',
				lease_until = pg_postmaster_start_time() - interval '1 day' + $1::bigint * interval '1 millisecond'
			where worker_id = $2::text::uuid`,
			leaseMs,
			await core.worker(),
		)
	}

	test('one that was silent because Postgres was down is dead only when it is silent for a lease afterwards', async () => {
		const [server] = await core.rows<{ up: number }>(
			`select (extract(epoch from clock_timestamp() - pg_postmaster_start_time()) * 1000)::float8 as up`,
		)
		await silentSinceBeforeTheStart(Math.round(server?.up ?? 0) + 3_600_000)
		expect(await sweepWorkers(core.sql, 100)).toEqual({ buried: 0, recovered: 0 })
		await silentSinceBeforeTheStart(1)
		expect(await sweepWorkers(core.sql, 100)).toEqual({ buried: 1, recovered: 0 })
	})

	test('one that was silent while the caller could not reach Postgres is dead only when it is silent for a lease afterwards', async () => {
		await core.worker(0)
		const [at] = await core.rows<{ heartbeat: string; later: string }>(
			`select max(heartbeat_at)::text as heartbeat, (max(heartbeat_at) + interval '1 hour')::text as later from flowcraft_workers`,
		)
		expect(await sweepWorkers(core.sql, 100, at?.later)).toEqual({ buried: 0, recovered: 0 })
		expect(await sweepWorkers(core.sql, 100, at?.heartbeat)).toEqual({ buried: 1, recovered: 0 })
	})

	test('a heartbeat in time keeps a worker alive', async () => {
		const late = await core.worker(0)
		expect(await query(core.sql, HEARTBEAT_STATEMENT, [late, 60_000])).toHaveLength(1)
		expect(await sweepWorkers(core.sql, 100)).toEqual({ buried: 0, recovered: 0 })
	})

	test('a sweep and a cancel at once leave no message of the cancelled run', async () => {
		for (let round = 0; round < 30; round++) {
			const [mortal, runId] = [await core.worker(), await core.start('two')]
			await core.claimed(mortal, runId, 'a')
			await core.claimed(mortal, runId, 'b')
			await core.drain()
			await die(mortal)
			await Promise.all([
				sweepWorkers(core.sql, 100),
				cancelRun(core.sql, runId),
				sweepWorkers(core.sql, 100),
			])
			expect(await core.outbox(runId)).toEqual([])
		}
		expect(await core.violations()).toEqual([])
	})
})

describe('lost messages', () => {
	/** The jobs that a sweep emits now. */
	async function emitted(backlog = false): Promise<NodeKey[]> {
		const count = await sweepLost(core.sql, GRACE_MS, backlog, 100)
		const jobs = await core.drain()
		expect(jobs).toHaveLength(count)
		return jobs
	}

	test('a ready node whose message was lost is emitted again after its grace, and not before', async () => {
		const runId = await core.start('one')
		await core.drain()
		await pass(GRACE_MS - 5_000)
		expect(await emitted()).toEqual([])
		await pass(6_000)
		expect(await emitted()).toEqual([keyOf(runId, 'a')])
		expect(await emitted()).toEqual([])
	})

	test('each emission doubles the grace of the next, up to 64 times', async () => {
		await core.start('one')
		await core.drain()
		for (const factor of [1, 2, 4, 8, 16, 32, 64, 64, 64]) {
			await pass(factor * GRACE_MS - 5_000)
			expect(await emitted()).toEqual([])
			await pass(6_000)
			expect(await emitted()).toHaveLength(1)
		}
	})

	test('a row in the outbox is no lost message, however old', async () => {
		const [runId, timer, nested] = [
			await core.start('one'),
			await core.start('one'),
			await core.start('nested'),
		]
		await wait(timer, 'a', 1)
		await core.commit(core.completed(await core.claimed(worker, await startChild(nested), 'a')))
		await pass(100 * GRACE_MS)
		expect(await sweepLost(core.sql, GRACE_MS, false, 100)).toBe(0)
		expect(await core.outbox(runId)).toEqual(['a'])
	})

	test.each(['ready', 'timer', 'child'])(
		'however many sweep at once, a message is emitted once: %s',
		async (kind) => {
			const runIds = await Promise.all(
				Array.from({ length: 40 }, () => core.start(kind === 'child' ? 'nested' : 'one')),
			)
			if (kind === 'timer') await Promise.all(runIds.map((runId) => wait(runId, 'a', 1)))
			if (kind === 'child') {
				for (const runId of runIds)
					await core.commit(
						core.completed(await core.claimed(worker, await startChild(runId), 'a')),
					)
			}
			await core.drain()
			// Overdue by so much that the next grace has passed too.
			await pass(1000 * GRACE_MS)
			const counts = await Promise.all(
				Array.from({ length: 8 }, () => sweepLost(core.sql, GRACE_MS, false, 100)),
			)
			expect(counts.reduce((sum, count) => sum + count, 0)).toBe(40)
			expect(await core.drain()).toHaveLength(40)
		},
	)

	test.each(['timer', 'child'])(
		'nothing that is overdue for long is emitted with every sweep: %s',
		async (kind) => {
			const runId = await core.start(kind === 'child' ? 'nested' : 'one')
			if (kind === 'timer') await wait(runId, 'a', 1)
			else await core.commit(core.completed(await core.claimed(worker, await startChild(runId), 'a')))
			await core.drain()
			await pass(1000 * GRACE_MS)
			expect(await emitted()).toHaveLength(1)
			for (let sweep = 0; sweep < 10; sweep++) expect(await emitted()).toEqual([])
		},
	)

	test('a node whose claim Postgres has lost in a crash is emitted again, and the lost claim writes nothing', async () => {
		const runId = await core.start('one')
		const claimed = await core.claimed(worker, runId, 'a')
		await core.drain()
		// Its message is acked, and the row is what it was before the claim, whose commit was asynchronous.
		await core.rows(
			`update flowcraft_nodes set state = 'ready', worker_id = null, claim_token = null, claimed_at = null where run_id = $1`,
			runId,
		)
		expect(await core.commit(core.completed(claimed))).toEqual(['lost'])
		await pass(GRACE_MS - 5_000)
		expect(await emitted()).toEqual([])
		await pass(6_000)
		expect(await emitted()).toEqual([keyOf(runId, 'a')])
		const again = await core.claimed(await core.worker(), runId, 'a')
		expect([again.attempt, again.crashes]).toEqual([1, 0])
		expect(await core.commit(core.completed(claimed), core.completed(again))).toEqual([
			'lost',
			'committed',
		])
	})

	test('a timer whose message was lost is emitted again, a grace after it was due', async () => {
		const runId = await core.start('one')
		await wait(runId, 'a', 3_600_000)
		await core.rows('delete from flowcraft_outbox')
		await pass(3_600_000 + GRACE_MS - 5_000)
		expect(await emitted()).toEqual([])
		await pass(6_000)
		expect(await emitted()).toEqual([keyOf(runId, 'a')])
		expect(await core.claimed(worker, runId, 'a')).toMatchObject({ wake: 'timer' })
	})

	test('a wait without an end is never emitted', async () => {
		await wait(await core.start('one'), 'a')
		await core.drain()
		await pass(1000 * GRACE_MS)
		expect(await emitted()).toEqual([])
	})

	test('the parent of an ended child whose message was lost is emitted, that of a running one is not', async () => {
		const runId = await core.start('nested')
		const childRunId = await startChild(runId)
		const a = await core.claimed(worker, childRunId, 'a')
		await core.drain()
		await pass(1000 * GRACE_MS)
		expect(await emitted()).toEqual([])
		await core.commit(core.completed(a))
		await core.rows('delete from flowcraft_outbox')
		await pass(GRACE_MS - 5_000)
		expect(await emitted()).toEqual([])
		await pass(6_000)
		expect(await emitted()).toEqual([keyOf(runId, 'sub')])
		expect(await core.claimed(worker, runId, 'sub')).toMatchObject({
			wake: 'child',
			child: { status: 'completed' },
		})
	})

	test('running nodes, paused runs and ended runs are emitted never', async () => {
		const [running, paused, cancelled] = [
			await core.start('one'),
			await core.start('one'),
			await core.start('one'),
		]
		await core.claimed(worker, running, 'a')
		await core.rows(`update flowcraft_statuses set status = 'paused' where run_id = $1`, paused)
		await cancelRun(core.sql, cancelled)
		await core.drain()
		await pass(1000 * GRACE_MS)
		expect(await emitted()).toEqual([])
	})

	test('while messages wait in the broker, only what was passed by counts as lost', async () => {
		const [lost, waiting] = [await core.start('one'), await core.start('one')]
		await wait(await core.start('one'), 'a', 1)
		await core.drain()
		await pass(10 * GRACE_MS)
		// Nothing newer runs: each of them may stand in the queue.
		expect(await emitted(true)).toEqual([])
		await core.rows(
			`update flowcraft_nodes set emitted_at = emitted_at - interval '1 hour' where run_id = $1`,
			lost,
		)
		// What runs now was emitted long after one of them, but not after the others.
		const newer = await core.start('one')
		await core.drain()
		await core.rows(
			`update flowcraft_nodes set emitted_at = (select emitted_at from flowcraft_nodes where run_id = $1) + interval '1 second' where run_id = $2`,
			waiting,
			newer,
		)
		await core.claimed(worker, newer, 'a')
		expect(await emitted(true)).toEqual([keyOf(lost, 'a')])
	})

	test('a timer and an ended child that wait in the broker with everything else are not emitted again', async () => {
		await wait(await core.start('one'), 'a', 1)
		const nested = await core.start('nested')
		await core.commit(core.completed(await core.claimed(worker, await startChild(nested), 'a')))
		await core.drain()
		await pass(100 * GRACE_MS)
		expect(await emitted(true)).toEqual([])
		// A woken node tells how far the queue is: its timer was due long after theirs.
		const other = await core.start('one')
		await wait(other, 'a', 1)
		await core.drain()
		await core.rows(
			`update flowcraft_nodes set emitted_at = '-infinity', due_at = clock_timestamp() where run_id = $1`,
			other,
		)
		await core.claimed(worker, other, 'a')
		expect(await emitted(true)).toHaveLength(2)
	})

	test('a node that begins anew begins with the first grace', async () => {
		const runId = await core.start('one')
		await core.drain()
		await pass(GRACE_MS + 1000)
		await emitted()
		await pass(2 * GRACE_MS + 1000)
		await emitted()
		expect((await core.nodes(runId))['a']?.reemits).toBe(2)
		await wait(runId, 'a', 1)
		await core.drain()
		await pass(GRACE_MS + 1000)
		expect(await emitted()).toHaveLength(1)
		expect((await core.nodes(runId))['a']?.reemits).toBe(1)
		await resumeRun(core.sql, runId, { nodeId: 'a' })
		expect((await core.nodes(runId))['a']?.reemits).toBe(0)
	})
})

describe('the check of live runs', () => {
	const check = async (quietMs = 0): Promise<string[]> => {
		const repaired: string[] = []
		let after: string | null = ''
		do {
			const page: { repaired: string[]; next: string | null } = await sweepRuns(
				core.sql,
				after,
				3,
				quietMs,
			)
			repaired.push(...page.repaired)
			after = page.next
		} while (after !== null)
		return repaired.sort()
	}

	test('goes through all live runs, page by page, and repairs nothing where all is well', async () => {
		const runIds = await Promise.all(Array.from({ length: 10 }, () => core.start('two')))
		await wait(runIds[0] as string, 'a')
		await wait(runIds[1] as string, 'a')
		await wait(runIds[1] as string, 'b')
		await core.rows(
			`update flowcraft_statuses set status = 'paused' where run_id = $1`,
			runIds[2] as string,
		)
		await cancelRun(core.sql, runIds[3] as string)
		expect(await check()).toEqual([])

		const visited: string[] = []
		for (let after: string | null = ''; after !== null;) {
			const { next }: { next: string | null } = await sweepRuns(core.sql, after, 1, 0)
			if (next !== null) visited.push(next)
			after = next
		}
		expect(visited.sort()).toEqual(runIds.filter((_, position) => position !== 3).sort())
	})

	test('sets counters right that do not agree with the nodes, and names the runs', async () => {
		const [live, waiting, failed, fine] = [
			await core.start('two'),
			await core.start('two'),
			await core.start('two'),
			await core.start('two'),
		]
		await wait(waiting, 'a')
		await core.commit(core.failed(await core.claimed(worker, failed, 'a')))
		await core.rows(`update flowcraft_statuses set live_count = 7 where run_id = $1`, live)
		await core.rows(`update flowcraft_statuses set waiting_count = 0 where run_id = $1`, waiting)
		await core.rows(`update flowcraft_statuses set failed_count = 0 where run_id = $1`, failed)
		expect(await check()).toEqual([live, waiting, failed].sort())
		expect(await core.violations()).toEqual([])
		expect(await core.run(live)).toMatchObject({ live: 2, waiting: 0, failed: 0 })
		expect(await core.run(fine)).toMatchObject({ seq: 0 })
		expect(await check()).toEqual([])
	})

	test('ends a run that nothing live is left of', async () => {
		const runId = await core.start('one')
		await core.rows(`update flowcraft_nodes set state = 'completed' where run_id = $1`, runId)
		expect(await check()).toEqual([runId])
		expect(await core.run(runId)).toMatchObject({ status: 'completed', live: 0 })
	})

	test('leaves alone what was changed a moment ago, and what somebody is changing', async () => {
		const runId = await core.start('one')
		await core.rows(`update flowcraft_statuses set live_count = 7 where run_id = $1`, runId)
		expect(await check(60_000)).toEqual([])
		await pass(61_000)
		await core.sql.begin(async (tx) => {
			await tx`select from flowcraft_statuses where run_id = ${runId} for no key update`
			expect(await check(60_000)).toEqual([])
		})
		expect(await check(60_000)).toEqual([runId])
	})
})

describe('what was kept for its time', () => {
	test('goes when the time is over, and not before', async () => {
		await core.rows('delete from flowcraft_workers')
		const [alive, gone, lately, holding] = [
			await core.worker(),
			await core.worker(),
			await core.worker(),
			await core.worker(),
		]
		await core.claimed(holding, await core.start('one'), 'a')
		for (const [id, ago] of [
			[gone, 2],
			[lately, 0],
			[holding, 2],
		] as const) {
			await core.rows(
				`update flowcraft_workers set dead_at = clock_timestamp() - $2::int * interval '1 hour' where worker_id = $1::text::uuid`,
				id,
				ago,
			)
		}
		await core.start('one', { idempotencyKey: 'kept' })
		await core.start('one', { idempotencyKey: 'expired' })
		await core.rows(
			`update flowcraft_idempotency_keys set expires_at = clock_timestamp() where key = 'expired'`,
		)
		await core.rows(
			`insert into flowcraft_kept_events (name, payload, expires_at) values ('kept', '{}', clock_timestamp() + interval '1 minute'), ('expired', '{}', clock_timestamp())`,
		)
		expect(await sweepExpired(core.sql, 3_600_000)).toBe(3)
		expect(await core.rows('select key from flowcraft_idempotency_keys')).toEqual([{ key: 'kept' }])
		expect(await core.rows('select name from flowcraft_kept_events')).toEqual([{ name: 'kept' }])
		const left = await core.rows<{ worker_id: string }>('select worker_id from flowcraft_workers')
		expect(left.map(({ worker_id }) => worker_id).sort()).toEqual([alive, lately, holding].sort())
	})
})

import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { sweepLost, sweepRuns, sweepWorkers } from '../../src/outbox/sweep.js'
import { cancelRun } from '../../src/run/cancel.js'
import { pauseRun, unpauseRun } from '../../src/run/pause.js'
import { resumeRun } from '../../src/run/resume.js'
import { type Core, createCore, flow, keyOf } from '../support/core.js'
import { whenBlocked } from '../support/locks.js'

let core: Core
let worker: string

beforeAll(async () => {
	core = await createCore()
	worker = await core.worker()
	await core.register(
		flow('chain', [
			['a', 'b'],
			['b', 'c'],
		]),
	)
	await core.register(flow('two', [], { a: {}, b: {} }))
	await core.register(flow('one', [], { a: {} }))
	await core.register(
		flow('nested', [['sub', 'after']], { sub: { uses: 'subflow', params: { blueprintId: 'one' } } }),
	)
	await core.register(flow('deep', [], { outer: { uses: 'subflow', params: { blueprintId: 'nested' } } }))
})
afterEach(async () => expect(await core.violations()).toEqual([]))
afterAll(() => core.drop())

async function complete(runId: string, nodeId: string): Promise<void> {
	await core.commit(core.completed(await core.claimed(worker, runId, nodeId), { output: nodeId }))
}

async function startChild(runId: string, nodeId: string, childBlueprint: string): Promise<string> {
	const { key, token } = await core.claimed(worker, runId, nodeId)
	const childRunId = crypto.randomUUID()
	await core.commit({ key, token, outcome: 'child', childRunId, childBlueprint })
	return childRunId
}

async function wait(runId: string, nodeId: string, delayMs?: number): Promise<void> {
	await core.drain()
	const { key, token } = await core.claimed(worker, runId, nodeId)
	await core.commit({
		key,
		token,
		outcome: 'waiting',
		wait: `{"reason":"${delayMs === undefined ? 'external_event' : 'timer'}"}`,
		delayMs,
	})
}

/** Lets a node's timer be due. */
const fire = async (runId: string): Promise<void> => {
	await core.rows(
		`update flowcraft_nodes set due_at = '2020-01-01' where run_id = $1 and due_at is not null`,
		runId,
	)
	await core.rows(`update flowcraft_outbox set due_at = '2020-01-01' where run_id = $1`, runId)
}

const claim = async (runId: string, nodeId: string): Promise<string> =>
	(await core.claim(worker, keyOf(runId, nodeId))).status
const statuses = (runId: string) =>
	core
		.rows<{ status: string }>(
			'select status from flowcraft_transitions where run_id = $1 order by recorded_at, id',
			runId,
		)
		.then((rows) => rows.map(({ status }) => status))
/** Messages of this run that a relay would publish now. */
const messages = async (runId: string): Promise<string[]> =>
	(await core.drain())
		.filter((key) => key.runId === runId)
		.map(({ nodeId }) => nodeId)
		.sort()

describe('a paused run', () => {
	test('starts nothing that is queued, and goes on with it when it is unpaused', async () => {
		const runId = await core.start('two')
		expect(await pauseRun(core.sql, runId)).toEqual({ runId, status: 'paused', changed: true })
		expect(await messages(runId)).toEqual(['a', 'b'])
		expect([await claim(runId, 'a'), await claim(runId, 'b')]).toEqual(['paused', 'paused'])
		expect(await unpauseRun(core.sql, runId)).toEqual({ runId, status: 'running', changed: true })
		expect(await messages(runId)).toEqual(['a', 'b'])
		await complete(runId, 'a')
		await complete(runId, 'b')
		expect(await core.run(runId)).toMatchObject({ status: 'completed', live: 0, waiting: 0, failed: 0 })
		expect(await statuses(runId)).toEqual(['running', 'paused', 'running', 'completed'])
	})

	test('lets finish what runs: its successors become ready, but do not start', async () => {
		const runId = await core.start('chain')
		const a = await core.claimed(worker, runId, 'a')
		await pauseRun(core.sql, runId)
		expect(await core.commit(core.completed(a))).toEqual(['committed'])
		expect((await core.nodes(runId))['b']?.state).toBe('ready')
		expect(await core.run(runId)).toMatchObject({ status: 'paused', live: 1, waiting: 0 })
		expect(await messages(runId)).toContain('b')
		expect(await claim(runId, 'b')).toBe('paused')
		await unpauseRun(core.sql, runId)
		expect(await messages(runId)).toEqual(['b'])
		await complete(runId, 'b')
	})

	test('ends with the last node that runs, if nothing is left to do', async () => {
		const runId = await core.start('one')
		const a = await core.claimed(worker, runId, 'a')
		await pauseRun(core.sql, runId)
		await core.commit(core.completed(a))
		expect((await core.run(runId)).status).toBe('completed')
		await expect(unpauseRun(core.sql, runId)).rejects.toThrow(
			`Run '${runId}' is completed: it is not paused.`,
		)
		await expect(pauseRun(core.sql, runId)).rejects.toThrow(
			`Run '${runId}' is completed: there is nothing to pause.`,
		)
	})

	test('keeps a retry back, and its delay', async () => {
		const runId = await core.start('one')
		await core.drain()
		const { key, token } = await core.claimed(worker, runId, 'a')
		await pauseRun(core.sql, runId)
		await core.commit({ key, token, outcome: 'retry', error: '{"message":"Not yet"}', delayMs: 60_000 })
		await unpauseRun(core.sql, runId)
		expect(await messages(runId)).not.toContain('a')
		expect(await core.outbox(runId)).toEqual(['a'])
		await fire(runId)
		expect(await messages(runId)).toEqual(['a'])
	})

	test('is changed by neither a second pause nor a second unpause', async () => {
		const runId = await core.start('one')
		await pauseRun(core.sql, runId)
		expect(await pauseRun(core.sql, runId)).toEqual({ runId, status: 'paused', changed: false })
		await unpauseRun(core.sql, runId)
		const before = await core.run(runId)
		expect(await unpauseRun(core.sql, runId)).toEqual({ runId, status: 'running', changed: false })
		expect(await core.run(runId)).toEqual(before)
		expect(await statuses(runId)).toEqual(['running', 'paused', 'running'])
		expect(await core.outbox(runId)).toEqual(['a'])
	})

	test('can be cancelled', async () => {
		const runId = await core.start('nested')
		const childRunId = await startChild(runId, 'sub', 'one')
		await pauseRun(core.sql, runId)
		await cancelRun(core.sql, runId)
		expect([(await core.run(runId)).status, (await core.run(childRunId)).status]).toEqual([
			'cancelled',
			'cancelled',
		])
	})

	test('which nobody knows is refused', async () => {
		await expect(pauseRun(core.sql, 'nobody')).rejects.toThrow("There is no run 'nobody'.")
		await expect(unpauseRun(core.sql, 'nobody')).rejects.toThrow("There is no run 'nobody'.")
	})

	test('is left alone by the sweep, except that it takes nodes from dead workers', async () => {
		const [mortal, runId] = [await core.worker(), await core.start('two')]
		await core.claimed(mortal, runId, 'a')
		await pauseRun(core.sql, runId)
		await messages(runId)
		await core.rows(`update flowcraft_nodes set emitted_at = '2020-01-01' where run_id = $1`, runId)
		// Nodes of other tests may be lost by now.
		await sweepLost(core.sql, 1000, false, 100)
		expect(await messages(runId)).toEqual([])
		await core.rows(
			`update flowcraft_workers set lease_until = '-infinity' where worker_id = $1::text::uuid`,
			mortal,
		)
		await sweepWorkers(core.sql, 100)
		expect((await core.nodes(runId))['a']).toMatchObject({ state: 'ready', crashes: 1 })
		expect(await messages(runId)).toEqual(['a'])
		expect(await claim(runId, 'a')).toBe('paused')
		expect(await sweepRuns(core.sql, '', 100, 0)).toMatchObject({ repaired: [] })
		expect((await core.run(runId)).status).toBe('paused')
		await unpauseRun(core.sql, runId)
		expect(await messages(runId)).toEqual(['a', 'b'])
	})

	test('gets a message again that a relay has in hand: it may have been dropped already', async () => {
		const runId = await core.start('one')
		await pauseRun(core.sql, runId)
		await core.rows(
			`update flowcraft_outbox set claim_token = gen_random_uuid(), claimed_until = now() + interval '1 minute' where run_id = $1`,
			runId,
		)
		await unpauseRun(core.sql, runId)
		expect(await core.outbox(runId)).toEqual(['a', 'a'])
	})
})

describe('waits in a paused run', () => {
	test('a timer that fires meanwhile goes off when the run is unpaused', async () => {
		const runId = await core.start('chain')
		await wait(runId, 'a', 60_000)
		expect((await core.run(runId)).status).toBe('awaiting')
		await pauseRun(core.sql, runId)
		await fire(runId)
		expect(await messages(runId)).toEqual(['a'])
		expect(await claim(runId, 'a')).toBe('paused')
		expect(await sweepLost(core.sql, 1000, false, 100)).toBe(0)
		expect(await unpauseRun(core.sql, runId)).toMatchObject({ status: 'awaiting' })
		expect(await messages(runId)).toEqual(['a'])
		expect((await core.claimed(worker, runId, 'a')).wake).toBe('timer')
	})

	test('a timer that is not due yet keeps its time', async () => {
		const runId = await core.start('one')
		await wait(runId, 'a', 60_000)
		await pauseRun(core.sql, runId)
		await unpauseRun(core.sql, runId)
		expect(await core.outbox(runId)).toEqual(['a'])
		expect(await messages(runId)).toEqual([])
	})

	test('a resume is stored at once and starts the node when the run is unpaused', async () => {
		const runId = await core.start('chain')
		await wait(runId, 'a')
		await pauseRun(core.sql, runId)
		expect(await resumeRun(core.sql, runId, { output: 'yes' })).toMatchObject({ status: 'paused' })
		await expect(resumeRun(core.sql, runId, { output: 'again' })).rejects.toThrow('Nothing waits')
		expect(await messages(runId)).toEqual(['a'])
		expect(await claim(runId, 'a')).toBe('paused')
		expect(await core.run(runId)).toMatchObject({ status: 'paused', live: 1, waiting: 0 })
		expect(await unpauseRun(core.sql, runId)).toMatchObject({ status: 'running' })
		expect(await messages(runId)).toEqual(['a'])
		expect(await core.claimed(worker, runId, 'a')).toMatchObject({
			wake: 'resume',
			resume: '{"output":"\\"yes\\""}',
		})
	})
})

describe('pausing with children', () => {
	test('children pause and go on with their parents, at any depth', async () => {
		const runId = await core.start('deep')
		const child = await startChild(runId, 'outer', 'nested')
		const grandchild = await startChild(child, 'sub', 'one')
		await pauseRun(core.sql, runId)
		for (const id of [runId, child, grandchild]) expect((await core.run(id)).status).toBe('paused')
		await core.drain()
		expect(await claim(grandchild, 'a')).toBe('paused')
		await expect(unpauseRun(core.sql, grandchild)).rejects.toThrow(`unpause run '${child}'`)
		await unpauseRun(core.sql, runId)
		for (const id of [runId, child, grandchild]) expect((await core.run(id)).status).toBe('running')
		expect(await messages(grandchild)).toEqual(['a'])
	})

	test('a child that starts while its parent is paused is paused, and goes on with it', async () => {
		const runId = await core.start('nested')
		const { key, token } = await core.claimed(worker, runId, 'sub')
		await pauseRun(core.sql, runId)
		const childRunId = crypto.randomUUID()
		await core.commit({ key, token, outcome: 'child', childRunId, childBlueprint: 'one' })
		expect((await core.run(childRunId)).status).toBe('paused')
		await core.drain()
		expect(await claim(childRunId, 'a')).toBe('paused')
		await unpauseRun(core.sql, runId)
		expect(await messages(childRunId)).toEqual(['a'])
	})

	test('a child that ends meanwhile is collected when the run is unpaused', async () => {
		const runId = await core.start('nested')
		const childRunId = await startChild(runId, 'sub', 'one')
		const a = await core.claimed(worker, childRunId, 'a')
		await pauseRun(core.sql, runId)
		await core.commit(core.completed(a))
		expect((await core.run(childRunId)).status).toBe('completed')
		expect(await messages(runId)).toContain('sub')
		expect(await claim(runId, 'sub')).toBe('paused')
		await unpauseRun(core.sql, runId)
		expect(await messages(runId)).toEqual(['sub'])
		expect((await core.claimed(worker, runId, 'sub')).child?.status).toBe('completed')
	})

	test('a run awaits after it was unpaused exactly if all that is live of it waits, in its children too', async () => {
		const [waiting, resumed] = [await core.start('nested'), await core.start('nested')]
		const children = [
			await startChild(waiting, 'sub', 'one'),
			await startChild(resumed, 'sub', 'one'),
		] as const
		for (const child of children) await wait(child, 'a')
		await core.drain()
		for (const runId of [waiting, resumed]) {
			expect((await core.run(runId)).status).toBe('awaiting')
			await pauseRun(core.sql, runId)
		}
		await resumeRun(core.sql, children[1])
		expect(await unpauseRun(core.sql, waiting)).toMatchObject({ status: 'awaiting' })
		expect(await unpauseRun(core.sql, resumed)).toMatchObject({ status: 'running' })
		await core.drain()
		expect(await core.run(waiting)).toMatchObject({ status: 'awaiting', live: 1, waiting: 1 })
		expect(await core.run(resumed)).toMatchObject({ status: 'running', live: 1, waiting: 0 })
	})

	test('a child that is paused alone keeps its parent from awaiting', async () => {
		const runId = await core.start('nested')
		const child = await startChild(runId, 'sub', 'one')
		await wait(child, 'a')
		await core.drain()
		expect((await core.run(runId)).status).toBe('awaiting')
		await pauseRun(core.sql, child)
		await core.drain()
		expect(await core.run(runId)).toMatchObject({ status: 'running', waiting: 0 })
		await unpauseRun(core.sql, child)
		await core.drain()
		expect(await core.run(runId)).toMatchObject({ status: 'awaiting', waiting: 1 })
	})
})

describe('races', () => {
	test('a commit that waits for a pause is applied under it', async () => {
		const runId = await core.start('chain')
		const a = await core.claimed(worker, runId, 'a')
		let committing: Promise<unknown> | undefined
		await core.sql.begin(async (tx) => {
			const [{ pid }] = await tx<[{ pid: number }]>`select pg_backend_pid() as pid`
			await pauseRun(tx, runId)
			committing = core.commit(core.completed(a))
			await whenBlocked(core.sql, pid)
		})
		expect(await committing).toEqual(['committed'])
		expect(await core.run(runId)).toMatchObject({ status: 'paused', live: 1 })
		await core.drain()
		expect(await claim(runId, 'b')).toBe('paused')
	})

	test('a message that is published while an unpause is under way is not lost', async () => {
		const runId = await core.start('chain')
		await pauseRun(core.sql, runId)
		await core.sql.begin(async (tx) => {
			await unpauseRun(tx, runId)
			// To whom it gets by now, the run is still paused.
			for (const key of await core.drain()) await core.claim(worker, key)
		})
		for (const key of await core.drain()) await core.claim(worker, key)
		expect((await core.nodes(runId))['a']?.state).toBe('running')
	})

	test('whatever pauses, unpauses and commits do at once, every node runs in the end and the counters agree', async () => {
		const runIds = await Promise.all(Array.from({ length: 6 }, () => core.start('chain')))
		const steer = async (runId: string): Promise<void> => {
			for (let i = 0; i < 6; i++) {
				await pauseRun(core.sql, runId).catch(() => {})
				await unpauseRun(core.sql, runId).catch(() => {})
			}
		}
		const work = async (): Promise<void> => {
			for (let i = 0; i < 40; i++) {
				for (const key of await core.drain()) {
					const outcome = await core.claim(worker, key)
					if (outcome.status === 'claimed') await core.commit(core.completed(outcome.node))
				}
			}
		}
		await Promise.all([...runIds.map(steer), work(), work()])
		await work()
		for (const runId of runIds)
			expect(await core.run(runId)).toMatchObject({ status: 'completed', live: 0, waiting: 0 })
	})
})

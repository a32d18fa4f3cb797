import { afterAll, beforeAll, expect, test } from 'vitest'
import { claimNodes, endedRuns, heldNodes, releaseNodes } from '../../src/claim/claim.js'
import { markStopped } from '../../src/claim/worker-registry.js'
import { sweepWorkers } from '../../src/outbox/sweep.js'
import { cancelRun } from '../../src/run/cancel.js'
import { resumeRun } from '../../src/run/resume.js'
import { type Core, createCore, flow, keyOf } from '../support/core.js'
import { whenBlocked } from '../support/locks.js'

let core: Core
let worker: string

beforeAll(async () => {
	core = await createCore()
	worker = await core.worker()
	await core.register(flow('one', [], { a: {} }))
	await core.register(flow('pair', [['a', 'b']]))
	await core.register(flow('two', [], { a: {}, b: {} }))
	await core.register(flow('nested', [], { sub: { uses: 'subflow', params: { blueprintId: 'one' } } }))
})
afterAll(() => core.drop())

test('of many workers that claim one job at once, exactly one gets it', async () => {
	const workers = await Promise.all(Array.from({ length: 10 }, () => core.worker()))
	for (let round = 0; round < 20; round++) {
		const runId = await core.start('one')
		const outcomes = await Promise.all(workers.map((id) => core.claim(id, keyOf(runId, 'a'))))
		expect(outcomes.map(({ status }) => status).sort()).toEqual([
			'claimed',
			...Array.from({ length: 9 }, () => 'held'),
		])
	}
})

test('a claim does not wait behind whoever changes the node right now', async () => {
	const key = keyOf(await core.start('one'), 'a')
	await core.sql.begin(async (tx) => {
		await tx`select from flowcraft_nodes where run_id = ${key.runId} for no key update`
		expect(await core.claim(worker, key)).toEqual({ status: 'held' })
	})
	expect(await core.claim(worker, key)).toMatchObject({ status: 'claimed' })
})

test('a job that is asked for twice in one claim is claimed once', async () => {
	const key = keyOf(await core.start('one'), 'a')
	const outcomes = await claimNodes(core.sql, worker, [key, key])
	expect(outcomes.map(({ status }) => status)).toEqual(['claimed', 'held'])
})

test('a claim that is asked again under its token, because its answer was lost, is answered the same', async () => {
	const key = keyOf(await core.start('one'), 'a')
	const token = crypto.randomUUID()
	const [first] = await claimNodes(core.sql, worker, [key], [token])
	const [again] = await claimNodes(core.sql, worker, [key], [token])
	expect(first).toMatchObject({ status: 'claimed', node: { token } })
	expect(again).toEqual(first)
	const somebodyElse = await core.worker()
	expect(await claimNodes(core.sql, somebodyElse, [key], [token])).toEqual([{ status: 'held' }])
	expect(await core.claim(worker, key)).toEqual({ status: 'held' })
})

test('a claim that is asked again after its node has been tried under its token does not stand again', async () => {
	const key = keyOf(await core.start('one'), 'a')
	const token = crypto.randomUUID()
	await claimNodes(core.sql, worker, [key], [token])
	const retry = { key, token, outcome: 'retry', error: '{}', delayMs: 0 } as const
	expect(await core.commit(retry)).toEqual(['committed'])
	// The first ask, long on its way.
	expect(await claimNodes(core.sql, worker, [key], [token])).toEqual([{ status: 'held' }])
	expect(await core.commit(retry)).toEqual(['repeated'])
	expect(await core.claim(worker, key)).toMatchObject({ status: 'claimed', node: { attempt: 2 } })
})

test('answers come in the order of the asked jobs, whatever becomes of each', async () => {
	const [first, second] = [await core.start('two'), await core.start('two')]
	await core.claimed(worker, first, 'b')
	const keys = [
		keyOf(second, 'b'),
		keyOf('no-such-run', 'a'),
		keyOf(first, 'b'),
		keyOf(first, 'a'),
		keyOf(first, 'nowhere'),
	]
	const outcomes = await claimNodes(core.sql, worker, keys)
	expect(outcomes.map(({ status }) => status)).toEqual(['claimed', 'done', 'held', 'claimed', 'done'])
	expect(outcomes.map((outcome) => (outcome.status === 'claimed' ? outcome.node.key : undefined))).toEqual([
		keys[0],
		undefined,
		undefined,
		keys[3],
		undefined,
	])
})

test('a claim brings the input that the last edge brought, and knows a transformed one from an output', async () => {
	await core.register(
		flow('inputs', [
			['a', 'b'],
			['a', 'c', { transform: 'input.x' }],
			['a', 'd'],
		]),
	)
	const runId = await core.start('inputs')
	const a = await core.claimed(worker, runId, 'a')
	expect(a).toMatchObject({
		hasInput: false,
		transformed: false,
		input: null,
		attempt: 1,
		crashes: 0,
		wake: null,
		depth: 0,
	})
	await core.commit(core.completed(a, { output: { x: 7 } }))
	expect(await core.claimed(worker, runId, 'b')).toMatchObject({
		hasInput: true,
		transformed: false,
		input: '{"x":7}',
	})
	expect(await core.claimed(worker, runId, 'c')).toMatchObject({
		hasInput: true,
		transformed: true,
		input: '7',
	})
})

test('a node whose predecessor returned nothing has an input, and it is nothing', async () => {
	const runId = await core.start('pair')
	await core.commit(core.completed(await core.claimed(worker, runId, 'a')))
	expect(await core.claimed(worker, runId, 'b')).toMatchObject({
		hasInput: true,
		transformed: false,
		input: null,
	})
})

test('a retry is claimed when it is due, and not before', async () => {
	const runId = await core.start('one')
	const a = await core.claimed(worker, runId, 'a')
	await core.commit({ key: a.key, token: a.token, outcome: 'retry', error: '{}', delayMs: 60_000 })
	expect(await core.claim(worker, a.key)).toEqual({ status: 'early' })
	await core.rows(`update flowcraft_nodes set due_at = clock_timestamp() where run_id = $1`, runId)
	expect(await core.claim(worker, a.key)).toMatchObject({ status: 'claimed', node: { attempt: 2 } })
})

test('nodes of a paused run are not claimed, neither ready nor waiting ones', async () => {
	const runId = await core.start('two')
	const b = await core.claimed(worker, runId, 'b')
	await core.commit({
		key: b.key,
		token: b.token,
		outcome: 'waiting',
		wait: '{"reason":"timer"}',
		delayMs: 0,
	})
	await core.rows(`update flowcraft_statuses set status = 'paused' where run_id = $1`, runId)
	const outcomes = await claimNodes(core.sql, worker, [keyOf(runId, 'a'), keyOf(runId, 'b')])
	expect(outcomes).toEqual([{ status: 'paused' }, { status: 'paused' }])
})

test('nodes of a cancelled run are not claimed', async () => {
	const runId = await core.start('one')
	await cancelRun(core.sql, runId)
	expect(await core.claim(worker, keyOf(runId, 'a'))).toEqual({ status: 'done' })
})

test('a node that has ended is not claimed again', async () => {
	const runId = await core.start('pair')
	const a = await core.claimed(worker, runId, 'a')
	expect(await core.claim(await core.worker(), a.key)).toEqual({ status: 'held' })
	await core.commit(core.completed(a))
	expect(await core.claim(worker, a.key)).toEqual({ status: 'done' })
})

test('a worker that is unknown, silent for longer than its lease, declared dead or stopped claims nothing', async () => {
	const key = keyOf(await core.start('one'), 'a')
	const [silent, dead, stopped] = [await core.worker(0), await core.worker(), await core.worker()]
	await core.rows(
		`update flowcraft_workers set dead_at = clock_timestamp() where worker_id = $1::text::uuid`,
		dead,
	)
	await markStopped(core.sql, stopped)
	for (const id of [crypto.randomUUID(), silent, dead, stopped]) {
		expect(await claimNodes(core.sql, id, [key, key])).toEqual([
			{ status: 'no_lease' },
			{ status: 'no_lease' },
		])
	}
	expect(await core.claim(worker, key)).toMatchObject({ status: 'claimed' })
})

test('a timer that has fired wakes its node, which no longer counts as waiting', async () => {
	const runId = await core.start('one')
	const a = await core.claimed(worker, runId, 'a')
	await core.commit({
		key: a.key,
		token: a.token,
		outcome: 'waiting',
		wait: '{"reason":"timer","output":"7"}',
		delayMs: 60_000,
	})
	expect(await core.run(runId)).toMatchObject({ status: 'awaiting', live: 1, waiting: 1 })
	expect(await core.claim(worker, a.key)).toEqual({ status: 'early' })
	await core.rows(`update flowcraft_nodes set due_at = clock_timestamp() where run_id = $1`, runId)

	const woken = await core.claimed(worker, runId, 'a')
	expect(woken).toMatchObject({ wake: 'timer', wait: '{"reason":"timer","output":"7"}', attempt: 1 })
	expect(await core.run(runId)).toMatchObject({ status: 'running', live: 1, waiting: 0 })
	await core.commit(core.completed(woken, { output: 7 }))
	expect(await core.run(runId)).toMatchObject({ status: 'completed', live: 0, waiting: 0 })
})

test('a node that waits without a timer is woken by no message', async () => {
	const runId = await core.start('one')
	const a = await core.claimed(worker, runId, 'a')
	await core.commit({ key: a.key, token: a.token, outcome: 'waiting', wait: '{"reason":"external_event"}' })
	expect(await core.claim(worker, a.key)).toEqual({ status: 'done' })
})

test('a resumed node is claimed with what it was resumed with', async () => {
	const runId = await core.start('one')
	const a = await core.claimed(worker, runId, 'a')
	await core.commit({ key: a.key, token: a.token, outcome: 'waiting', wait: '{"reason":"external_event"}' })
	await resumeRun(core.sql, runId, { action: 'yes', output: { ok: true } })
	const resumed = await core.claimed(worker, runId, 'a')
	expect(resumed.wake).toBe('resume')
	expect(JSON.parse(resumed.resume ?? '')).toEqual({ action: 'yes', output: '{"ok":true}' })
})

test('a node stays resumed when its worker dies before it goes on', async () => {
	const runId = await core.start('one')
	const a = await core.claimed(worker, runId, 'a')
	await core.commit({ key: a.key, token: a.token, outcome: 'waiting', wait: '{"reason":"external_event"}' })
	await resumeRun(core.sql, runId, { output: 1 })
	const mortal = await core.worker()
	await core.claimed(mortal, runId, 'a')
	await core.rows(
		`update flowcraft_workers set lease_until = '-infinity' where worker_id = $1::text::uuid`,
		mortal,
	)
	await sweepWorkers(core.sql, 100)
	expect(await core.claimed(worker, runId, 'a')).toMatchObject({
		wake: 'resume',
		resume: '{"output":"1"}',
		crashes: 1,
		attempt: 1,
	})
})

test('a resume without a node finds the only one that waits, whatever characters its wait holds', async () => {
	const runId = await core.start('one')
	const a = await core.claimed(worker, runId, 'a')
	const wait = JSON.stringify({ reason: 'external_event', note: 'NUL \u0000 and half a pair \ud83d' })
	await core.commit({ key: a.key, token: a.token, outcome: 'waiting', wait })
	expect(await resumeRun(core.sql, runId)).toMatchObject({ nodeId: 'a', status: 'running' })
})

test('a node is woken by its child only once the child has ended', async () => {
	const runId = await core.start('nested')
	const sub = await core.claimed(worker, runId, 'sub')
	const childRunId = crypto.randomUUID()
	await core.commit({ key: sub.key, token: sub.token, outcome: 'child', childRunId, childBlueprint: 'one' })
	expect(await core.claim(worker, sub.key)).toEqual({ status: 'done' })
	await core.commit(core.failed(await core.claimed(worker, childRunId, 'a'), 'No luck'))
	expect(await core.claim(worker, sub.key)).toMatchObject({
		status: 'claimed',
		node: {
			wake: 'child',
			child: { runId: childRunId, status: 'failed', reason: "Node 'a' failed: No luck" },
		},
	})
	expect(await core.violations()).toEqual([])
})

test('what is given back can be claimed again after its delay, with neither attempt nor crash counted', async () => {
	const runId = await core.start('one')
	const a = await core.claimed(worker, runId, 'a')
	await core.drain()
	expect(await releaseNodes(core.sql, [{ key: a.key, token: a.token, delayMs: 60_000 }], true)).toBe(1)
	expect(await core.outbox(runId)).toEqual(['a'])
	expect(await core.claim(worker, a.key)).toEqual({ status: 'early' })
	await core.rows(`update flowcraft_nodes set due_at = clock_timestamp() where run_id = $1`, runId)
	const again = await core.claimed(worker, runId, 'a')
	expect(again).toMatchObject({ attempt: 1, crashes: 0, unrunnableMs: expect.any(Number) as number })
	expect(again.token).not.toBe(a.token)
})

test('what is given back can no longer be committed, and a commit says so', async () => {
	const runId = await core.start('one')
	const a = await core.claimed(worker, runId, 'a')
	await releaseNodes(core.sql, [{ key: a.key, token: a.token, delayMs: 0 }])
	expect(await core.commit(core.completed(a))).toEqual(['lost'])
})

test('nothing is given back under a claim that was lost', async () => {
	const runId = await core.start('one')
	const a = await core.claimed(worker, runId, 'a')
	expect(await releaseNodes(core.sql, [{ key: a.key, token: crypto.randomUUID(), delayMs: 0 }])).toBe(0)
	expect((await core.nodes(runId))['a']?.state).toBe('running')
	await cancelRun(core.sql, runId)
	expect(await releaseNodes(core.sql, [{ key: a.key, token: a.token, delayMs: 0 }])).toBe(0)
	expect(await core.outbox(runId)).toEqual([])
})

test('a step is saved under the claim that stands, and under no other', async () => {
	const runId = await core.start('one')
	const node = await core.claimed(worker, runId, 'a')
	const save = async (token: string): Promise<unknown> =>
		core.rows(
			`select flowcraft_save_step($1, 'a', '', '', $2::text::uuid, $2, '1') as saved`,
			runId,
			token,
		)
	expect(await save(crypto.randomUUID())).toEqual([{ saved: false }])
	expect(await save(node.token)).toEqual([{ saved: true }])
	expect(await core.rows('select key from flowcraft_steps where run_id = $1', runId)).toEqual([
		{ key: node.token },
	])
})

test('a worker learns what stands in its name, so that it can give back what it does not have in hand', async () => {
	const [runId, other] = [await core.start('two'), await core.worker()]
	const owner = await core.worker()
	// Nobody got to hear of this claim: its answer was lost.
	const { key, token } = await core.claimed(owner, runId, 'a')
	await core.claimed(other, runId, 'b')
	expect(await heldNodes(core.sql, owner, 60_000)).toEqual([])
	expect(await heldNodes(core.sql, owner, 0)).toEqual([{ key, token }])
	await releaseNodes(core.sql, [{ key, token, delayMs: 0 }])
	expect(await heldNodes(core.sql, owner, 0)).toEqual([])
	expect(await core.claim(other, key)).toMatchObject({
		status: 'claimed',
		node: { attempt: 1, crashes: 0 },
	})
})

test('a worker learns which of its runs have ended', async () => {
	const [live, cancelled] = [await core.start('one'), await core.start('one')]
	await cancelRun(core.sql, cancelled)
	expect(await endedRuns(core.sql, [live, cancelled, 'no-such-run'])).toEqual([cancelled])
})

test('a claim that has to wait for a run holds none of its nodes meanwhile, so that it never deadlocks with a cancel', async () => {
	const runId = await core.start('two')
	const b = await core.claimed(worker, runId, 'b')
	await core.commit({
		key: b.key,
		token: b.token,
		outcome: 'waiting',
		wait: '{"reason":"timer"}',
		delayMs: 0,
	})

	const claiming = await core.sql.begin(async (tx) => {
		// A cancel begins like this …
		await tx`select from flowcraft_statuses where run_id = ${runId} for no key update`
		const [{ pid }] = await tx<[{ pid: number }]>`select pg_backend_pid() as pid`
		const claim = claimNodes(core.sql, worker, [keyOf(runId, 'a'), keyOf(runId, 'b')])
		await whenBlocked(core.sql, pid)
		// … and goes on like this.
		await tx`select from flowcraft_nodes where run_id = ${runId} for no key update nowait`
		return { claim }
	})
	expect((await claiming.claim).map(({ status }) => status)).toEqual(['claimed', 'claimed'])
	expect(await core.violations()).toEqual([])
})

test('whatever claims, commits, resumes and cancels meet on a run, a cancelled run has nothing ready, and counters agree', async () => {
	const chance = (probability: number): boolean => Math.random() < probability
	await core.register(
		flow('race', [
			['a', 'b'],
			['a', 'c'],
			['b', 'd'],
			['c', 'd'],
			['d', 'e'],
		]),
	)
	const workers = [worker, await core.worker()]
	let cancelled = 0
	for (let round = 0; round < 200; round++) {
		const runId = await core.start('race')
		// So far it has come by itself.
		const done = ['a', 'b', 'c', 'd'].slice(0, round % 5)
		for (const nodeId of done)
			await core.commit(core.completed(await core.claimed(worker, runId, nodeId)))
		const next = ['a', 'b', 'c', 'd', 'e'].filter((nodeId) => !done.includes(nodeId))
		const outcome = await core.claim(worker, keyOf(runId, next[0] as string))
		const node = outcome.status === 'claimed' ? outcome.node : undefined
		if (node !== undefined && chance(0.3)) {
			await core.commit({
				key: node.key,
				token: node.token,
				outcome: 'waiting',
				wait: '{}',
				delayMs: chance(0.5) ? 0 : undefined,
			})
		}

		const claim = async (id: string): Promise<void> => {
			const claims = await claimNodes(
				core.sql,
				id,
				next.map((nodeId) => keyOf(runId, nodeId)),
			)
			const nodes = claims.flatMap((each) => (each.status === 'claimed' ? [each.node] : []))
			if (nodes.length > 0) await core.commit(...nodes.map((each) => core.completed(each)))
		}
		await Promise.all([
			...workers.map(claim),
			node === undefined ? undefined : core.commit(core.completed(node)),
			resumeRun(core.sql, runId).catch(() => {}),
			cancelRun(core.sql, runId).catch(() => {}),
		])

		const { status } = await core.run(runId)
		expect(['cancelled', 'completed']).toContain(status)
		if (status === 'cancelled') {
			cancelled += 1
			const live = Object.values(await core.nodes(runId)).filter(({ state }) =>
				['ready', 'running', 'waiting', 'child'].includes(state),
			)
			expect(live).toEqual([])
			expect(await core.outbox(runId)).toEqual([])
		}
	}
	expect(await core.violations()).toEqual([])
	expect(cancelled).toBeGreaterThan(100)
})

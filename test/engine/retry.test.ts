import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { commitNodes } from '../../src/commit/commit.js'
import type { NodeKey } from '../../src/plan/node-key.js'
import { cancelRun } from '../../src/run/cancel.js'
import { pauseRun, unpauseRun } from '../../src/run/pause.js'
import { retryRun } from '../../src/run/retry.js'
import { type Core, createCore, flow } from '../support/core.js'
import { startEngine, type TestEngine } from '../support/engine.js'
import { whenBlocked } from '../support/locks.js'

let core: Core
let worker: string

beforeAll(async () => {
	core = await createCore()
	worker = await core.worker()
	await core.register(flow('one', [], { a: {} }))
	await core.register(flow('two', [], { a: {}, b: {} }))
	await core.register(
		flow('diamond', [
			['a', 'b'],
			['a', 'c'],
			['b', 'd'],
			['c', 'd'],
		]),
	)
	await core.register(
		flow('rescued', [['a', 'z']], {
			a: { config: { fallback: 'f' } },
			f: { config: { fallback: 'g' } },
			g: {},
			z: {},
		}),
	)
	await core.register(
		flow('nested', [['sub', 'after']], { sub: { uses: 'subflow', params: { blueprintId: 'one' } } }),
	)
})
afterEach(async () => expect(await core.violations()).toEqual([]))
afterAll(() => core.drop())

async function complete(runId: string, nodeId: string, more?: Partial<NodeKey>): Promise<void> {
	await core.commit(core.completed(await core.claimed(worker, runId, nodeId, more), { output: nodeId }))
}
async function fail(runId: string, nodeId: string, more?: Partial<NodeKey>): Promise<void> {
	await core.commit(core.failed(await core.claimed(worker, runId, nodeId, more), `${nodeId} broke`))
}
const states = async (runId: string): Promise<Record<string, string>> =>
	Object.fromEntries(
		Object.values(await core.nodes(runId)).map((node) => [node.node_id, `${node.state} ${node.attempt}`]),
	)
const transitions = (runId: string) =>
	core
		.rows<{ status: string }>(
			'select status from flowcraft_transitions where run_id = $1 order by recorded_at, id',
			runId,
		)
		.then((rows) => rows.map(({ status }) => status))

const OF_A = { recovers: '["a"]' }
const OF_F = { recovers: '["f","a"]' }

describe('retrying', () => {
	test('opens a failed run again, at the node that failed, and keeps what its siblings have done', async () => {
		const runId = await core.start('diamond')
		await complete(runId, 'a')
		await complete(runId, 'b')
		await fail(runId, 'c')
		expect(await core.run(runId)).toMatchObject({ status: 'failed', live: 0, failed: 1 })
		await core.drain()

		expect(await retryRun(core.sql, runId)).toEqual({ runId, status: 'running', nodeIds: ['c'] })
		expect(await core.run(runId)).toMatchObject({ status: 'running', live: 1, failed: 0, reason: null })
		expect(await core.outbox(runId)).toEqual(['c'])
		const [row] = await core.rows<{ finished_at: unknown }>(
			'select finished_at from flowcraft_statuses where run_id = $1',
			runId,
		)
		expect(row?.finished_at).toBeNull()
		await complete(runId, 'c')
		await complete(runId, 'd')
		expect(await core.run(runId)).toMatchObject({ status: 'completed', live: 0, failed: 0 })
		expect(await states(runId)).toEqual({
			a: 'completed 1',
			b: 'completed 1',
			c: 'completed 2',
			d: 'completed 1',
		})
		expect(await transitions(runId)).toEqual(['running', 'failed', 'running', 'completed'])
	})

	test('gives one more attempt, and puts the one before into the history', async () => {
		const runId = await core.start('one')
		await fail(runId, 'a')
		await retryRun(core.sql, runId)
		await fail(runId, 'a')
		expect(await core.run(runId)).toMatchObject({
			status: 'failed',
			live: 0,
			failed: 1,
			reason: "Node 'a' failed: a broke",
		})
		expect(await states(runId)).toEqual({ a: 'failed 2' })
		const attempts = await core.rows(
			`select attempt, outcome, error::json ->> 'message' as message, worker_id::text as worker from flowcraft_attempts where run_id = $1`,
			runId,
		)
		expect(attempts).toEqual([{ attempt: 1, outcome: 'failed', message: 'a broke', worker }])
	})

	test('happens while siblings run', async () => {
		const runId = await core.start('diamond')
		await complete(runId, 'a')
		const b = await core.claimed(worker, runId, 'b')
		await fail(runId, 'c')
		expect(await retryRun(core.sql, runId)).toMatchObject({ status: 'running', nodeIds: ['c'] })
		expect(await core.run(runId)).toMatchObject({ status: 'running', live: 2, failed: 0 })
		await core.commit(core.completed(b))
		await complete(runId, 'c')
		await complete(runId, 'd')
		expect((await core.run(runId)).status).toBe('completed')
	})

	test('tries all that have failed, or the one that is named', async () => {
		const runId = await core.start('two')
		await fail(runId, 'a')
		await fail(runId, 'b')
		expect(await retryRun(core.sql, runId, { nodeId: 'b' })).toMatchObject({ nodeIds: ['b'] })
		expect(await core.run(runId)).toMatchObject({ live: 1, failed: 1 })
		await complete(runId, 'b')
		expect(await core.run(runId)).toMatchObject({ status: 'failed', live: 0, failed: 1 })
		expect(await retryRun(core.sql, runId)).toMatchObject({ nodeIds: ['a'] })
		await fail(runId, 'a')
		await expect(retryRun(core.sql, runId, { nodeId: 'b' })).rejects.toThrow(
			`Node 'b' has not failed in run '${runId}', which is failed. These nodes have: 'a'.`,
		)
	})

	test('forgets crashes, the mark as a dead letter and the wait for an implementation, and keeps saved steps', async () => {
		const runId = await core.start('one')
		await core.commit({
			...core.failed(await core.claimed(worker, runId, 'a')),
			deadLetter: 'Nobody could',
		})
		await core.rows(
			`update flowcraft_nodes set crashes = 6, unrunnable_since = now() where run_id = $1`,
			runId,
		)
		await core.rows(
			`insert into flowcraft_steps (run_id, node_id, generation, recovers, key, value) values ($1, 'a', '', '', 'paid', '1')`,
			runId,
		)
		await retryRun(core.sql, runId)
		const [node] = await core.rows(
			'select crashes, dead_letter, unrunnable_since, error, finished_at from flowcraft_nodes where run_id = $1',
			runId,
		)
		expect(node).toEqual({
			crashes: 0,
			dead_letter: null,
			unrunnable_since: null,
			error: null,
			finished_at: null,
		})
		expect(await core.rows('select key from flowcraft_steps where run_id = $1', runId)).toHaveLength(1)
	})

	test('in a paused run waits for it to be unpaused', async () => {
		const runId = await core.start('two')
		await fail(runId, 'a')
		await pauseRun(core.sql, runId)
		expect(await retryRun(core.sql, runId)).toMatchObject({ status: 'paused' })
		await core.drain()
		expect((await core.claim(worker, { runId, nodeId: 'a', generation: '', recovers: '' })).status).toBe(
			'paused',
		)
		await unpauseRun(core.sql, runId)
		expect((await core.drain()).map(({ nodeId }) => nodeId).sort()).toEqual(['a', 'b'])
	})
})

describe('a retry is refused', () => {
	test('of a run that nobody knows, that is fine, that has completed, or that was cancelled', async () => {
		await expect(retryRun(core.sql, 'nobody')).rejects.toThrow("There is no run 'nobody'.")
		const runId = await core.start('two')
		await expect(retryRun(core.sql, runId)).rejects.toThrow(
			`Nothing has failed in run '${runId}', which is running.`,
		)
		await fail(runId, 'a')
		await cancelRun(core.sql, runId)
		await expect(retryRun(core.sql, runId)).rejects.toThrow('was cancelled')
		const completed = await core.start('one')
		await complete(completed, 'a')
		await expect(retryRun(core.sql, completed)).rejects.toThrow('which is completed')
	})

	test('of a child, naming the run to ask instead; the retry there starts a child of its own', async () => {
		const runId = await core.start('nested')
		const sub = await core.claimed(worker, runId, 'sub')
		const child = crypto.randomUUID()
		await core.commit({
			key: sub.key,
			token: sub.token,
			outcome: 'child',
			childRunId: child,
			childBlueprint: 'one',
		})
		await fail(child, 'a')
		await expect(retryRun(core.sql, child)).rejects.toThrow(
			`Run '${child}' is a child of run '${runId}': retry its node there.`,
		)
		await core.drain()
		await fail(runId, 'sub')
		await retryRun(core.sql, runId)
		const again = await core.claimed(worker, runId, 'sub')
		expect(again).toMatchObject({ attempt: 2, wake: null, child: null })
		expect((await core.run(child)).status).toBe('failed')
		await core.commit(core.completed(again))
		await complete(runId, 'after')
		expect((await core.run(runId)).status).toBe('completed')
	})
})

describe('a node whose fallbacks have failed too', () => {
	async function allFailed(): Promise<string> {
		const runId = await core.start('rescued')
		await fail(runId, 'a')
		await fail(runId, 'f', OF_A)
		await fail(runId, 'g', OF_F)
		expect(await core.run(runId)).toMatchObject({ status: 'failed', live: 0, failed: 3 })
		return runId
	}

	test('is recovered by another attempt of the last fallback, which stands in for all of them', async () => {
		const runId = await allFailed()
		expect(await retryRun(core.sql, runId)).toMatchObject({ nodeIds: ['g'] })
		expect(await core.run(runId)).toMatchObject({ live: 1, failed: 2 })
		await complete(runId, 'g', OF_F)
		await complete(runId, 'z')
		expect(await core.run(runId)).toMatchObject({ status: 'completed', failed: 0 })
		expect(await states(runId)).toEqual({
			a: 'recovered 1',
			f: 'recovered 1',
			g: 'completed 2',
			z: 'completed 1',
		})
	})

	test('is tried itself when it is named, and then none of its fallbacks is', async () => {
		const runId = await allFailed()
		expect(await retryRun(core.sql, runId, { nodeId: 'a' })).toMatchObject({ nodeIds: ['a'] })
		expect(await core.run(runId)).toMatchObject({ live: 1, failed: 0 })
		await complete(runId, 'a')
		await complete(runId, 'z')
		expect(await core.run(runId)).toMatchObject({ status: 'completed', live: 0, failed: 0 })
		expect(await states(runId)).toEqual({
			a: 'completed 2',
			f: 'cancelled 1',
			g: 'cancelled 1',
			z: 'completed 1',
		})
	})

	test('has its fallback again when it fails again', async () => {
		const runId = await allFailed()
		await retryRun(core.sql, runId, { nodeId: 'a' })
		await core.drain()
		await fail(runId, 'a')
		expect(await core.run(runId)).toMatchObject({ status: 'running', live: 1, failed: 1 })
		expect(await core.outbox(runId)).toEqual(['f'])
		await complete(runId, 'f', OF_A)
		await complete(runId, 'z')
		expect(await core.run(runId)).toMatchObject({ status: 'completed', failed: 0 })
		expect(await states(runId)).toEqual({
			a: 'recovered 2',
			f: 'completed 2',
			g: 'cancelled 1',
			z: 'completed 1',
		})
	})

	test('is not tried while a fallback may yet recover it', async () => {
		const runId = await core.start('rescued')
		await fail(runId, 'a')
		for (const input of [{}, { nodeId: 'a' }])
			await expect(retryRun(core.sql, runId, input)).rejects.toThrow(
				"being recovered by its fallback: 'f'",
			)
		await fail(runId, 'f', OF_A)
		await expect(retryRun(core.sql, runId)).rejects.toThrow("being recovered by its fallback: 'g'")
	})
})

describe('races', () => {
	test('of two retries at once one wins', async () => {
		const runId = await core.start('one')
		await fail(runId, 'a')
		const outcomes = await Promise.allSettled(Array.from({ length: 4 }, () => retryRun(core.sql, runId)))
		expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
		expect(await core.run(runId)).toMatchObject({ status: 'running', live: 1, failed: 0 })
		expect(await states(runId)).toEqual({ a: 'ready 2' })
	})

	test('a retry that comes with the last commit of a sibling goes before or after it, and the run ends all the same', async () => {
		const runId = await core.start('two')
		await fail(runId, 'a')
		const b = await core.claimed(worker, runId, 'b')
		let retrying: Promise<unknown> | undefined
		await core.sql.begin(async (tx) => {
			const [{ pid }] = await tx<[{ pid: number }]>`select pg_backend_pid() as pid`
			await commitNodes(tx, [core.completed(b)])
			retrying = retryRun(core.sql, runId)
			await whenBlocked(core.sql, pid)
		})
		expect(await retrying).toMatchObject({ status: 'running', nodeIds: ['a'] })
		expect(await transitions(runId)).toEqual(['running', 'failed', 'running'])
		await complete(runId, 'a')
		expect((await core.run(runId)).status).toBe('completed')
	})
})

describe('with workers', () => {
	let engine: TestEngine
	const calls = { flaky: 0, child: 0 }
	beforeAll(async () => {
		engine = await startEngine({
			workflows: {
				blueprints: {
					flaky: flow('flaky', [['a', 'b']], { a: { uses: 'flaky' }, b: { uses: 'ok' } }),
					child: flow('child', [], { only: { uses: 'brokenChild' } }),
					parent: flow('parent', [['sub', 'b']], {
						sub: { uses: 'subflow', params: { blueprintId: 'child' } },
						b: { uses: 'ok' },
					}),
				},
				registry: {
					ok: async () => ({ output: 'ok' }),
					flaky: async () => {
						calls.flaky += 1
						if (calls.flaky === 1) throw new Error('Not the first time')
						return { output: calls.flaky }
					},
					brokenChild: async () => {
						calls.child += 1
						if (calls.child === 1) throw new Error('Not the first time')
						return { output: 'from the second child' }
					},
				},
			},
		})
	})
	afterAll(() => engine.stop())

	test('a run that has failed completes after a retry', async () => {
		const failed = await engine.run({ blueprint: 'flaky' })
		expect(failed.status).toBe('failed')
		await retryRun(engine.database.sql, failed.runId)
		expect(await engine.end(failed.runId)).toMatchObject({
			status: 'completed',
			context: { '_outputs.a': 2, '_outputs.b': 'ok' },
		})
	})

	test('a subflow that has failed gets a new child run', async () => {
		const failed = await engine.run({ blueprint: 'parent' })
		expect(failed.status).toBe('failed')
		await retryRun(engine.database.sql, failed.runId)
		expect(await engine.end(failed.runId)).toMatchObject({
			status: 'completed',
			context: { '_outputs.sub': 'from the second child' },
		})
		const children = await engine.rows<{ status: string }>(
			'select status from flowcraft_statuses where parent_run_id = $1 order by created_at',
			failed.runId,
		)
		expect(children.map(({ status }) => status)).toEqual(['failed', 'completed'])
	})
})

/** What a node may rely on while it runs, and what becomes of it afterwards. */
import {
	BaseNode,
	createFlow,
	FlowcraftError,
	type NodeClass,
	type NodeContext,
	type NodeFunction,
	SubflowNode,
	type WorkflowBlueprint,
} from 'flowcraft'
import { afterEach, describe, expect, onTestFinished, test } from 'vitest'
import { registerBlueprint } from '../../src/blueprint/register.js'
import { claimNodes } from '../../src/claim/claim.js'
import type { RunStep } from '../../src/claim/steps.js'
import { cancelRun } from '../../src/run/cancel.js'
import { listNodes } from '../../src/run/node-history.js'
import { readRun } from '../../src/run/read.js'
import { resumeRun } from '../../src/run/resume.js'
import type { WorkflowsModule } from '../../worker/execution/workflows.js'
import type { WorkerOptions } from '../../worker/worker/worker.js'
import { type EndedRun, startEngine, type TestEngine, type TestEngineOptions } from '../support/engine.js'
import { whenBlocked } from '../support/locks.js'
import { startProxy, type TcpProxy } from '../support/tcp-proxy.js'
import { waitFor } from '../support/wait-for.js'

let engine: TestEngine
afterEach(() => engine.stop())

const single = (uses: string, rest: Partial<WorkflowBlueprint['nodes'][number]> = {}): WorkflowBlueprint => ({
	id: 'single',
	nodes: [{ id: 'n', uses, ...rest }],
	edges: [],
})

async function begin(
	blueprint: WorkflowBlueprint | readonly WorkflowBlueprint[],
	registry: Record<string, NodeFunction | NodeClass>,
	options: TestEngineOptions & { module?: WorkflowsModule } = {},
): Promise<void> {
	const all = Array.isArray(blueprint)
		? (blueprint as readonly WorkflowBlueprint[])
		: [blueprint as WorkflowBlueprint]
	const blueprints = Object.fromEntries(all.map((each) => [each.id, each]))
	engine = await startEngine({ ...options, workflows: { ...options.module, blueprints, registry } })
}

/** Resolves when somebody calls `open`. */
function gate(): { open(): void; readonly opened: Promise<void> } {
	let open = (): void => {}
	const opened = new Promise<void>((resolve) => {
		open = resolve
	})
	return { open: () => open(), opened }
}

const statusOf = async (runId: string): Promise<string | undefined> =>
	(await readRun(engine.database.sql, runId))?.status

describe('an attempt', () => {
	test('that takes longer than its timeout is aborted with a reason of its own and counts as failed', async () => {
		const reasons: string[] = []
		await begin(single('slow', { config: { timeout: 30, maxRetries: 2, retryDelay: 1 } }), {
			slow: ({ signal }) =>
				new Promise((_, reject) => {
					signal?.addEventListener('abort', () => {
						reasons.push((signal.reason as Error).name)
						reject(new Error('interrupted'))
					})
				}),
		})
		const run = await engine.run({ blueprint: 'single' })
		expect(reasons).toEqual(['NodeTimeoutError', 'NodeTimeoutError'])
		expect(run).toMatchObject({
			status: 'failed',
			errors: [{ nodeId: 'n', attempt: 2, name: 'NodeTimeoutError' }],
		})
	})

	test('that fails leaves nothing in the context', async () => {
		await begin(single('writes', { config: { maxRetries: 2, retryDelay: 1 } }), {
			writes: async ({ context, dependencies }) => {
				await context.set(`attempt-${String(dependencies['attempt'])}`, true)
				if (dependencies['attempt'] === 1) throw new Error('once')
				return {}
			},
		})
		const { context } = await engine.run({ blueprint: 'single' })
		expect(context).toHaveProperty('attempt-2')
		expect(context).not.toHaveProperty('attempt-1')
	})

	test('gets a stable idempotency key, the number of the attempt and the run id', async () => {
		const seen: unknown[] = []
		await begin(single('sees', { config: { maxRetries: 2, retryDelay: 1 } }), {
			sees: async ({ dependencies }) => {
				seen.push([
					dependencies['idempotencyKey'],
					dependencies['attempt'],
					dependencies.runtime.executionId,
				])
				if (seen.length === 1) throw new Error('once')
				return {}
			},
		})
		const { runId } = await engine.run({ blueprint: 'single' })
		const key = JSON.stringify([runId, 'n', '', ''])
		expect(seen).toEqual([
			[key, 1, runId],
			[key, 2, runId],
		])
	})

	test('is kept in the history when another one follows', async () => {
		await begin(single('once', { config: { maxRetries: 2, retryDelay: 1 } }), {
			once: async ({ dependencies }) => {
				if (dependencies['attempt'] === 1) throw new TypeError('first time')
				return {}
			},
		})
		const { runId } = await engine.run({ blueprint: 'single' })
		const [row] = await engine.rows<{ attempt: number; outcome: string; error: string }>(
			'select attempt, outcome, error from flowcraft_attempts where run_id = $1',
			runId,
		)
		expect(row).toMatchObject({ attempt: 1, outcome: 'failed' })
		expect(JSON.parse(row?.error ?? '{}')).toMatchObject({ name: 'TypeError', message: 'first time' })
	})
})

describe('an error', () => {
	test('shows the message that the node threw, not that of a wrapper', async () => {
		await begin(single('throws'), {
			throws: async () => {
				throw new Error('the very message')
			},
		})
		const run = await engine.run({ blueprint: 'single' })
		expect(run).toMatchObject({
			reason: "Node 'n' failed: the very message",
			errors: [{ nodeId: 'n', message: 'the very message', attempt: 1 }],
		})
	})

	test('that is fatal ends the node at once', async () => {
		let calls = 0
		await begin(single('fatal', { config: { maxRetries: 9, retryDelay: 1 } }), {
			fatal: async () => {
				calls += 1
				throw new FlowcraftError('no use', { isFatal: true })
			},
		})
		expect((await engine.run({ blueprint: 'single' })).status).toBe('failed')
		expect(calls).toBe(1)
	})

	test.each<[string, () => unknown, string]>([
		[
			'a cycle',
			() => {
				const cycle: Record<string, unknown> = {}
				cycle['self'] = cycle
				return cycle
			},
			'contains itself',
		],
		['a BigInt', () => ({ n: 1n }), 'BigInt'],
		[
			'absurd depth',
			() => {
				let deep: unknown = 1
				for (let i = 0; i < 100_000; i++) deep = [deep]
				return deep
			},
			'too deeply',
		],
	])('names the key of a value that cannot be stored: %s', async (_, make, why) => {
		let calls = 0
		await begin(single('bad', { config: { maxRetries: 3, retryDelay: 1 } }), {
			bad: async ({ context }) => {
				calls += 1
				await context.set('the key', make())
				return {}
			},
		})
		const run = await engine.run({ blueprint: 'single' })
		expect(run.errors?.[0]?.message).toMatch(new RegExp(`'the key'.*${why}`))
		expect(calls).toBe(1)
	})

	test('of one node in a batch fails that node alone', async () => {
		const nodes = Array.from({ length: 20 }, (_, i) => ({ id: `n${i}`, uses: i === 7 ? 'bad' : 'good' }))
		await begin(
			{ id: 'many', nodes, edges: [] },
			{
				good: async () => ({ output: 1 }),
				bad: async ({ context }) => {
					await context.set('nul\u0000key', 1)
					return {}
				},
			},
		)
		const run = await engine.run({ blueprint: 'many' })
		expect(run.errors?.map(({ nodeId }) => nodeId)).toEqual(['n7'])
		expect(Object.keys(run.context).filter((key) => key.startsWith('_outputs.'))).toHaveLength(19)
	})
})

describe('a class node', () => {
	test('runs prep on each attempt and fallback on the last one only', async () => {
		const calls: string[] = []
		class Phases extends BaseNode {
			override async prep(): Promise<string> {
				calls.push('prep')
				return 'prepared'
			}
			override async exec(prepared: unknown): Promise<never> {
				calls.push(`exec ${String(prepared)}`)
				throw new Error('always')
			}
			override async fallback(error: Error): Promise<{ output: string }> {
				calls.push(`fallback ${error.message}`)
				return { output: 'rescued' }
			}
			override async post(result: { output?: string }): Promise<{ output: string }> {
				calls.push('post')
				return { output: `${result.output} and posted` }
			}
			override async recover(): Promise<void> {
				calls.push('recover')
			}
		}
		await begin(single('phases', { config: { maxRetries: 2, retryDelay: 1 } }), { phases: Phases })
		const run = await engine.run({ blueprint: 'single' })
		expect(run.context['n']).toBe('rescued and posted')
		expect(calls).toEqual([
			'prep',
			'exec prepared',
			'recover',
			'prep',
			'exec prepared',
			'fallback always',
			'post',
			'recover',
		])
	})
})

describe('middleware', () => {
	test('wraps each attempt, outermost first', async () => {
		const calls: string[] = []
		await begin(
			single('works'),
			{
				works: async () => {
					calls.push('node')
					return { output: 1 }
				},
			},
			{
				module: {
					middleware: ['outer', 'inner'].map((name) => ({
						beforeNode: () => void calls.push(`before ${name}`),
						afterNode: () => void calls.push(`after ${name}`),
						aroundNode: async (_context, _nodeId, next) => {
							calls.push(`into ${name}`)
							const result = await next()
							calls.push(`out of ${name}`)
							return { ...result, output: [name, result.output] }
						},
					})),
				},
			},
		)
		const run = await engine.run({ blueprint: 'single' })
		expect(calls).toEqual([
			'into outer',
			'into inner',
			'before outer',
			'before inner',
			'node',
			'after outer',
			'after inner',
			'out of inner',
			'out of outer',
		])
		expect(run.context['n']).toEqual(['outer', ['inner', 1]])
	})
})

describe('a step', () => {
	test('that has returned is not run again by a later attempt', async () => {
		const calls: string[] = []
		await begin(single('steps', { config: { maxRetries: 3, retryDelay: 1 } }), {
			steps: async ({ dependencies }) => {
				const step = dependencies['step'] as RunStep
				const first = await step('first', async () => {
					calls.push('first')
					return { paid: calls.length }
				})
				await step('nothing', () => void calls.push('nothing'))
				const second = await step('second', async () => {
					calls.push('second')
					if (dependencies['attempt'] === 1) throw new Error('flaky')
					return 2
				})
				if (dependencies['attempt'] === 2) throw new Error('after both')
				return { output: [first, second] }
			},
		})
		const run = await engine.run({ blueprint: 'single' })
		expect(run.context['n']).toEqual([{ paid: 1 }, 2])
		expect(calls).toEqual(['first', 'nothing', 'second', 'second'])
	})

	test('asked for several times at once runs once', async () => {
		let calls = 0
		await begin(single('steps'), {
			steps: async ({ dependencies }) => {
				const step = dependencies['step'] as RunStep
				const once = (): Promise<number> => step('same', async () => ++calls)
				return { output: await Promise.all([once(), once(), once()]) }
			},
		})
		expect((await engine.run({ blueprint: 'single' })).context['n']).toEqual([1, 1, 1])
	})

	test('of a node whose claim is lost saves nothing', async () => {
		const saved = gate()
		await begin(single('steps'), {
			steps: async ({ dependencies, signal }) => {
				const step = dependencies['step'] as RunStep
				await cancelRun(engine.database.sql, dependencies.runtime.executionId)
				await step('late', () => 'too late').catch(() => saved.open())
				return new Promise((_, reject) =>
					signal?.addEventListener('abort', () => reject(signal.reason as Error)),
				)
			},
		})
		const runId = await engine.start({ blueprint: 'single' })
		await saved.opened
		await engine.end(runId)
		expect(await engine.rows('select key from flowcraft_steps where run_id = $1', runId)).toEqual([])
	})
})

describe('a cancel', () => {
	test('aborts what runs, promptly, and nothing that was queued starts', async () => {
		const started = gate()
		const aborted = gate()
		let queued = 0
		await begin(
			{
				id: 'two',
				nodes: [
					{ id: 'a', uses: 'holds' },
					{ id: 'b', uses: 'queued' },
				],
				edges: [{ source: 'a', target: 'b' }],
			},
			{
				holds: ({ signal }) =>
					new Promise((resolve) => {
						started.open()
						signal?.addEventListener('abort', () => {
							if ((signal.reason as Error).name === 'RunCancelledError') aborted.open()
							resolve({ output: 'too late' })
						})
					}),
				queued: async () => {
					queued += 1
					return {}
				},
			},
		)
		const runId = await engine.start({ blueprint: 'two' })
		await started.opened
		const first = await cancelRun(engine.database.sql, runId, 'changed my mind')
		expect(first).toMatchObject({ status: 'cancelled', reason: 'changed my mind' })
		const again = await cancelRun(engine.database.sql, runId, 'and once more')
		expect(again).toMatchObject({ status: 'cancelled', reason: 'changed my mind', cancelled: [] })
		await aborted.opened
		const run = await engine.end(runId)
		expect(run).toMatchObject({ status: 'cancelled', reason: 'changed my mind' })
		expect(run.context).not.toHaveProperty('a')
		expect(queued).toBe(0)
		await waitFor('the slot to come free', async () => engine.relay.counts().published > 0)
	})

	test('of a parent reaches its children', async () => {
		const started = gate()
		await begin(
			[
				{
					id: 'parent',
					nodes: [{ id: 's', uses: 'subflow', params: { blueprintId: 'child' } }],
					edges: [],
				},
				{ id: 'child', nodes: [{ id: 'x', uses: 'holds' }], edges: [] },
			],
			{
				holds: ({ signal }) =>
					new Promise((_, reject) => {
						started.open()
						signal?.addEventListener('abort', () => reject(signal.reason as Error))
					}),
			},
		)
		const runId = await engine.start({ blueprint: 'parent' })
		await started.opened
		const { cancelled } = await cancelRun(engine.database.sql, runId)
		expect(cancelled).toHaveLength(2)
		expect(await Promise.all(cancelled.map(statusOf))).toEqual(['cancelled', 'cancelled'])
	})
})

describe('a wait', () => {
	const waits: WorkflowBlueprint = {
		id: 'waits',
		nodes: [
			{ id: 'a', uses: 'one' },
			{ id: 'w', uses: 'wait' },
			{ id: 'yes', uses: 'echo' },
			{ id: 'no', uses: 'echo' },
		],
		edges: [
			{ source: 'a', target: 'w' },
			{ source: 'w', target: 'yes', action: 'approve' },
			{ source: 'w', target: 'no' },
		],
	}
	const registry: Record<string, NodeFunction> = {
		one: async () => ({ output: 1 }),
		echo: async ({ input }) => ({ output: input }),
	}

	const awaiting = async (runId: string): Promise<void> => {
		await waitFor('the run to wait', async () => (await statusOf(runId)) === 'awaiting')
	}

	test('holds no slot, and goes on with the action and output that it is resumed with', async () => {
		await begin(waits, registry, { worker: { concurrency: 1 } })
		const runIds = await Promise.all(
			Array.from({ length: 5 }, () => engine.start({ blueprint: 'waits' })),
		)
		await Promise.all(runIds.map(awaiting))
		const ended: EndedRun[] = []
		for (const runId of runIds) {
			expect((await readRun(engine.database.sql, runId))?.awaiting).toEqual([
				{ nodeId: 'w', reason: 'external_event' },
			])
			await resumeRun(engine.database.sql, runId, { action: 'approve', output: { by: 'me' } })
			ended.push(await engine.end(runId))
		}
		expect(ended.map(({ context }) => [context['yes'], context['no']])).toEqual(
			runIds.map(() => [{ by: 'me' }, undefined]),
		)
	})

	test('goes on nowhere by an action that no edge has: that is refused, and it still waits', async () => {
		const edges = waits.edges.map((edge) => ({
			...edge,
			...(edge.source === 'w' ? { action: edge.target } : {}),
		}))
		await begin([{ ...waits, edges }], registry)
		const runId = await engine.start({ blueprint: 'waits' })
		await awaiting(runId)
		const resume = (action?: string): Promise<unknown> =>
			resumeRun(engine.database.sql, runId, action === undefined ? {} : { action })
		for (const action of [undefined, '', 'yess'])
			await expect(resume(action)).rejects.toThrow("all edges out of the node have one of: 'no', 'yes'")
		await awaiting(runId)
		await resumeRun(engine.database.sql, runId, { action: 'yes', output: 'by me' })
		expect((await engine.end(runId)).context).toMatchObject({ yes: 'by me' })
	})

	test('that is resumed twice changes nothing the second time', async () => {
		await begin(waits, registry)
		const runId = await engine.start({ blueprint: 'waits' })
		await awaiting(runId)
		await resumeRun(engine.database.sql, runId, { output: 'first' })
		await expect(resumeRun(engine.database.sql, runId, { output: 'second' })).rejects.toThrow(/waits/)
		expect((await engine.end(runId)).context['no']).toBe('first')
	})

	test('of a child makes its parents wait, and they go on when it does', async () => {
		await begin(
			[
				waits,
				{
					id: 'middle',
					nodes: [{ id: 's', uses: 'subflow', params: { blueprintId: 'waits' } }],
					edges: [],
				},
				{
					id: 'top',
					nodes: [{ id: 's', uses: 'subflow', params: { blueprintId: 'middle' } }],
					edges: [],
				},
			],
			registry,
		)
		const runId = await engine.start({ blueprint: 'top' })
		await awaiting(runId)
		const [child] = await engine.rows<{ run_id: string }>(
			`select run_id from flowcraft_statuses where blueprint_id = 'waits'`,
		)
		await resumeRun(engine.database.sql, child?.run_id ?? '', { output: 'deep' })
		const run = await engine.end(runId)
		expect(run).toMatchObject({ status: 'completed', context: { s: { no: 'deep' } } })
	})

	test('can be asked for by any node, which keeps what it returned', async () => {
		await begin(
			{
				id: 'marks',
				nodes: [
					{ id: 'm', uses: 'marks' },
					{ id: 'e', uses: 'echo' },
				],
				edges: [{ source: 'm', target: 'e' }],
			},
			{
				...registry,
				marks: async ({ dependencies, context }: NodeContext) => {
					await dependencies.workflowState.markAsAwaiting('m', { reason: 'approval' })
					await context.set('asked', true)
					return { output: 'provisional' }
				},
			},
		)
		const runId = await engine.start({ blueprint: 'marks' })
		await awaiting(runId)
		expect((await readRun(engine.database.sql, runId))?.awaiting).toMatchObject([
			{ nodeId: 'm', reason: 'approval' },
		])
		await resumeRun(engine.database.sql, runId)
		expect((await engine.end(runId)).context).toMatchObject({
			asked: true,
			m: 'provisional',
			e: 'provisional',
		})
	})
})

test('a sleep hands its input on when it is over, and not before', async () => {
	await begin(
		{
			id: 'sleeps',
			nodes: [
				{ id: 'a', uses: 'one' },
				{ id: 's', uses: 'sleep', params: { duration: 300 } },
				{ id: 'e', uses: 'echo' },
			],
			edges: [
				{ source: 'a', target: 's' },
				{ source: 's', target: 'e' },
			],
		},
		{ one: async () => ({ output: 1 }), echo: async ({ input }) => ({ output: input }) },
	)
	const run = await engine.run({ blueprint: 'sleeps' })
	expect(run.context['e']).toBe(1)
	expect(Date.parse(run.finishedAt ?? '') - Date.parse(run.createdAt)).toBeGreaterThanOrEqual(300)
})

describe('a worker', () => {
	test('that stops gives back what does not end in time, and another one runs it again as the same attempt', async () => {
		const started = gate()
		const seen: unknown[] = []
		let first = true
		await begin(
			single('holds'),
			{
				holds: async ({ signal, dependencies }) => {
					seen.push(dependencies['attempt'])
					if (!first) return { output: 'done' }
					first = false
					started.open()
					await new Promise((_, reject) =>
						signal?.addEventListener('abort', () => reject(signal.reason as Error)),
					)
					return {}
				},
			},
			{ worker: { drainMs: 50 } },
		)
		const runId = await engine.start({ blueprint: 'single' })
		await started.opened
		const registry: Record<string, NodeFunction> = {
			holds: async ({ dependencies }) => {
				seen.push(dependencies['attempt'])
				return { output: 'done' }
			},
		}
		// The first worker is the engine's only one: stop it by stopping the subscription's owner.
		await engine.stopWorkers()
		await engine.addWorker({ registry })
		const run = await engine.end(runId)
		expect(run.context['n']).toBe('done')
		expect(seen).toEqual([1, 1])
	})

	test('does not count it against a node that Postgres was away while it read', async () => {
		const started = gate()
		const cut = gate()
		await begin(single('reads'), {
			reads: async ({ context, dependencies }) => {
				started.open()
				await cut.opened
				// Each key is read by itself, so that the connections die under some of them.
				for (let i = 0; i < 200; i++) await context.get(`absent ${i}`)
				return { output: [await context.get('given'), dependencies['attempt']] }
			},
		})
		const runId = await engine.start({ blueprint: 'single', input: { given: 42 } })
		await started.opened
		let kills = 0
		const storm = setInterval(() => {
			void engine
				.rows<{ killed: boolean }>(
					`select pg_terminate_backend(pid) as killed from pg_stat_activity
					where application_name = 'flowcraft-worker' and datname = current_database()`,
				)
				.then((rows) => (kills += rows.length))
		}, 5)
		try {
			await waitFor('the first connections to die', () => kills > 0)
			cut.open()
			await waitFor(
				'connections to die under the reads',
				async () => kills > 8 || (await statusOf(runId)) !== 'running',
			)
		} finally {
			clearInterval(storm)
		}
		expect(await engine.end(runId)).toMatchObject({ status: 'completed', context: { n: [42, 1] } })
	})

	test('asks for a commit again until Postgres is back, and the node is not run again', async () => {
		const held = gate()
		const started = gate()
		let calls = 0
		await begin(single('works'), {
			works: async () => {
				calls += 1
				started.open()
				await held.opened
				return { output: 'done' }
			},
		})
		const runId = await engine.start({ blueprint: 'single' })
		await started.opened
		await engine.database.sql.begin(async (tx) => {
			await tx`select from flowcraft_statuses where run_id = ${runId} for update`
			const [{ pid }] = await tx<[{ pid: number }]>`select pg_backend_pid() as pid`
			held.open()
			await whenBlocked(engine.database.sql, pid)
			const killed = await engine.rows(
				`select pg_terminate_backend(pid) from pg_stat_activity
				where application_name = 'flowcraft-worker' and ${pid} = any(pg_blocking_pids(pid))`,
			)
			expect(killed).toHaveLength(1)
			// Asked again, it waits again.
			await whenBlocked(engine.database.sql, pid)
		})
		expect(await engine.end(runId)).toMatchObject({ status: 'completed', context: { n: 'done' } })
		expect(calls).toBe(1)
	})

	test('goes on beating while a node keeps the CPU busy', async () => {
		let beat: boolean | undefined
		await begin(
			single('busy'),
			{
				busy: async () => {
					// Postgres looks back, at a moment when this process has long been able to do nothing but beat.
					const look = engine.database.sql
						.unsafe(
							`select pg_sleep(3);
							select heartbeat_at > now() + interval '1 second' as beat from flowcraft_workers`,
						)
						.simple()
						.then((results: unknown) => {
							beat = (results as { beat: boolean }[][])[1]?.[0]?.beat
						})
					await waitFor('Postgres to sleep', async () => {
						const rows = await engine.rows(
							`select from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'`,
						)
						return rows.length > 0
					})
					const until = performance.now() + 3_000
					while (performance.now() < until);
					await look
					return {}
				},
			},
			{ worker: { leaseMs: 1_500 } },
		)
		await engine.run({ blueprint: 'single' })
		expect(beat).toBe(true)
	})

	test('gives back a node that it has claimed without ever learning of it', async () => {
		await begin(
			single('works'),
			{ works: async () => ({ output: 'done' }) },
			{ worker: { forgottenAfterMs: 100 }, manualRelay: true },
		)
		const runId = await engine.start({ blueprint: 'single' })
		const [worker] = await engine.rows<{ worker_id: string }>('select worker_id from flowcraft_workers')
		const [outcome] = await claimNodes(engine.database.sql, worker?.worker_id ?? '', [
			{ runId, nodeId: 'n', generation: '', recovers: '' },
		])
		expect(outcome?.status).toBe('claimed')
		await waitFor('the run to end', async () => {
			await engine.relay.tick()
			return (await statusOf(runId)) === 'completed'
		})
	})

	describe('whose claim', () => {
		/** A worker behind a proxy, and a run for it. */
		async function beginBehindProxy(options: Partial<WorkerOptions> = {}): Promise<TcpProxy> {
			await begin(single('works'), { works: async () => ({ output: 'done' }) })
			await engine.stopWorkers()
			const proxy = await startProxy(engine.url)
			onTestFinished(() => proxy.close())
			await engine.addWorker(
				{ registry: { works: async () => ({ output: 'done' }) } },
				{ databaseUrl: proxy.url, ...options },
			)
			return proxy
		}
		const firstNode = async (runId: string): Promise<Record<string, unknown> | undefined> =>
			(await engine.rows('select state, crashes from flowcraft_nodes where run_id = $1', runId))[0]

		test('is never answered asks again after a third of its lease', async () => {
			const proxy = await beginBehindProxy({ leaseMs: 6_000 })
			const lost = proxy.when('to client', 'claimed', (connection) => connection.blackhole())
			const runId = await engine.start({ blueprint: 'single' })
			await lost
			await engine.end(runId, 10_000)
			expect(await firstNode(runId)).toEqual({ state: 'completed', crashes: 0 })
			// Nobody waits for the lost answer any more, nor does the end of the worker.
			proxy.cut()
		})

		test('is still under way when it asks again gives back what it does not know that it has', async () => {
			const proxy = await beginBehindProxy()
			await engine.database.sql.unsafe(`
				create sequence claims;
				create function slow_at_first() returns trigger language plpgsql as $$ begin
					if nextval('claims') = 1 then perform pg_sleep(1); end if;
					return new;
				end $$;
				create trigger slow_at_first before update on flowcraft_nodes for each row
					when (new.state = 'running') execute function slow_at_first()`)
			let lost: (() => void) | undefined
			const asked = proxy.when('to server', 'flowcraft_claim(', (connection) => {
				lost = () => connection.cut()
			})
			const runId = await engine.start({ blueprint: 'single' })
			await asked
			await waitFor('the claim to be under way', async () => {
				const rows = await engine.rows(
					`select 1 from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()`,
				)
				return rows.length > 0
			})
			lost?.()
			await engine.end(runId)
			expect(await firstNode(runId)).toEqual({ state: 'completed', crashes: 0 })
		})

		test('was not answered when it is told to stop gives the node back, and counts no crash', async () => {
			const proxy = await beginBehindProxy({ leaseMs: 6_000 })
			const lost = proxy.when('to client', 'claimed', (connection) => connection.blackhole())
			const runId = await engine.start({ blueprint: 'single' })
			await lost
			await engine.stopWorkers()
			expect(await firstNode(runId)).toEqual({ state: 'ready', crashes: 0 })
		})
	})

	test('that could not run a node, and could not say so, gives it back as soon as Postgres answers', async () => {
		await begin([], {})
		await engine.stopWorkers()
		await registerBlueprint(engine.database.sql, single('rare'))
		const proxy = await startProxy(engine.url)
		try {
			await engine.addWorker({ registry: {} }, { databaseUrl: proxy.url })
			const cut = proxy.when('to server', 'flowcraft_release(', (connection) => connection.cut())
			const runId = await engine.start({ blueprint: 'single' })
			await cut
			await waitFor('the node to be put back', async () => {
				const [row] = await engine.rows<{ since: string | null }>(
					'select unrunnable_since::text as since from flowcraft_nodes where run_id = $1',
					runId,
				)
				return row?.since !== null
			})
			await engine.stopWorkers()
		} finally {
			await proxy.close()
		}
	})

	test('puts back what it has no implementation for, and one that has it runs it', async () => {
		await begin([], {})
		const { warnings } = await registerBlueprint(engine.database.sql, single('rare'))
		expect(warnings).toEqual(["No worker has offered an implementation of 'rare' yet."])
		const runId = await engine.start({ blueprint: 'single' })
		await waitFor('the node to be put back', async () => {
			const [row] = await engine.rows<{ since: string | null }>(
				'select unrunnable_since::text as since from flowcraft_nodes where run_id = $1',
				runId,
			)
			return row?.since !== null
		})
		const sinceOf = async (): Promise<string | undefined> =>
			(await listNodes(engine.database.sql, runId)).nodes[0]?.unrunnableSince
		// A worker that has it in hand finds it out again within milliseconds.
		const since = await waitFor('the history to tell', sinceOf)
		expect(Math.abs(Date.parse(since) - Date.now())).toBeLessThan(60_000)
		await engine.addWorker({ registry: { rare: async () => ({ output: 'found' }) } })
		expect((await engine.end(runId)).context['n']).toBe('found')
		expect(await sinceOf()).toBeUndefined()
	})

	test('does not run a node that has killed too many workers: it is a dead letter, and its fallback runs', async () => {
		let calls = 0
		await begin(
			{
				id: 'deadly',
				nodes: [
					{ id: 'n', uses: 'deadly', config: { fallback: 'f', maxRetries: 9 } },
					{ id: 'f', uses: 'rescue' },
				],
				edges: [],
			},
			{ deadly: async () => ({ output: ++calls }), rescue: async () => ({ output: 'rescued' }) },
			{ manualRelay: true },
		)
		const runId = await engine.start({ blueprint: 'deadly' })
		await engine.rows('update flowcraft_nodes set crashes = 6 where run_id = $1', runId)
		engine.relay.start()
		const run = await engine.end(runId)
		expect(run).toMatchObject({ status: 'completed', context: { f: 'rescued', n: null } })
		expect(calls).toBe(0)
		const [row] = await engine.rows<{ dead_letter: string }>(
			`select dead_letter from flowcraft_nodes where run_id = $1 and node_id = 'n'`,
			runId,
		)
		expect(row?.dead_letter).toMatch(/Workers died 6 times/)
	})

	test('tells the log of each attempt that failed, of a node that has, and of a dead letter', async () => {
		const lines: string[] = []
		const log =
			(level: string) =>
			(message: string, fields: Record<string, unknown> = {}): void => {
				if ('error' in fields) lines.push(`${level} ${message}: ${String(fields['error'])}`)
			}
		const logger = { debug: log('debug'), info: log('info'), warn: log('warn'), error: log('error') }
		const fails: NodeFunction = async () => {
			throw new RangeError('too far')
		}
		const config = { maxRetries: 2, retryDelay: 1 }
		await begin(
			{ id: 'doomed', nodes: [{ id: 'n', uses: 'fails', config }], edges: [] },
			{ fails },
			{ logger, manualRelay: true },
		)
		const failing = await engine.start({ blueprint: 'doomed' })
		const deadly = await engine.start({ blueprint: 'doomed' })
		await engine.rows('update flowcraft_nodes set crashes = 6 where run_id = $1', deadly)
		engine.relay.start()
		await Promise.all([engine.end(failing), engine.end(deadly)])
		expect(lines.toSorted()).toEqual([
			'error A node is a dead letter: Error: Workers died 6 times while they ran this node',
			'info An attempt failed and will be repeated: RangeError: too far',
			'warn A node failed: RangeError: too far',
		])
	})

	test('makes a dead letter of what nobody could run within the limit', async () => {
		await begin([], {}, { worker: { unrunnableLimitMs: 200 } })
		await registerBlueprint(engine.database.sql, single('rare'))
		const run = await engine.run({ blueprint: 'single' })
		expect(run.status).toBe('failed')
		expect(run.reason).toMatch(/No worker could run this node .*implementation of 'rare' is missing/)
		const [row] = await engine.rows<{ dead_letter: string }>(
			'select dead_letter from flowcraft_nodes where run_id = $1',
			run.runId,
		)
		expect(row?.dead_letter).toMatch(/rare/)
	})

	test("runs Flowcraft's own node classes as the engine's nodes", async () => {
		const child = createFlow('inner').node('x', async ({ input }: NodeContext) => ({
			output: Number(input) * 2,
		}))
		const flow = createFlow('outer')
			.node('a', async () => ({ output: 21 }))
			.node('s', SubflowNode, { params: { blueprintId: 'inner' } })
			.edge('a', 's')
		engine = await startEngine({
			workflows: { blueprints: { inner: child, outer: flow } } as unknown as WorkflowsModule,
		})
		const run = await engine.run({ blueprint: 'outer' })
		expect(run.context['s']).toBe(42)
		expect(
			await engine.rows('select run_id from flowcraft_statuses where parent_run_id = $1', run.runId),
		).toHaveLength(1)
	})

	test('runs flows of createFlow, whose keys differ from process to process', async () => {
		const flow = createFlow('built')
			.node('a', async () => ({ output: 20 }))
			.node('b', async ({ input }: NodeContext) => ({ output: Number(input) + 1 }))
			.edge('a', 'b')
		engine = await startEngine({
			workflows: { blueprints: { built: flow } } as unknown as WorkflowsModule,
		})
		const run = await engine.run({ blueprint: 'built' })
		expect(run.context['b']).toBe(21)
		const [row] = await engine.rows<{ definition: string }>(
			`select definition from flowcraft_blueprints where blueprint_id = 'built'`,
		)
		expect(
			(JSON.parse(row?.definition ?? '{}') as WorkflowBlueprint).nodes.map(({ uses }) => uses),
		).toEqual(['built:a', 'built:b'])
	})
})

test('a run stays with the version that it was started with', async () => {
	const started = gate()
	const go = gate()
	const version = (version: string, last: string): WorkflowBlueprint => ({
		id: 'versioned',
		nodes: [
			{ id: 'a', uses: 'holds' },
			{ id: 'b', uses: 'value', params: { value: last } },
		],
		edges: [{ source: 'a', target: 'b' }],
		metadata: { version },
	})
	const registry: Record<string, NodeFunction> = {
		holds: async () => {
			started.open()
			await go.opened
			return {}
		},
		value: async ({ params }) => ({ output: params['value'] }),
	}
	await begin(version('1', 'old'), registry)
	const runId = await engine.start({ blueprint: 'versioned' })
	await started.opened
	await engine.addWorker({ blueprints: { versioned: version('2', 'new') }, registry })
	go.open()
	expect((await engine.end(runId)).context['b']).toBe('old')
	expect((await engine.run({ blueprint: 'versioned' })).context['b']).toBe('new')
	expect((await engine.run({ blueprint: 'versioned', version: '1' })).context['b']).toBe('old')
})

test('a subflow that calls itself without end is stopped by the limit, and the run ends', async () => {
	await begin(
		{
			id: 'endless',
			nodes: [{ id: 's', uses: 'subflow', params: { blueprintId: 'endless' } }],
			edges: [],
		},
		{},
	)
	const run = await engine.run({ blueprint: 'endless' })
	expect(run.status).toBe('failed')
	expect(run.reason).toMatch(/the limit is 32/)
})

test('a subflow whose blueprint nobody has registered fails its node', async () => {
	await begin(
		{
			id: 'orphan',
			nodes: [{ id: 's', uses: 'subflow', params: { blueprintId: 'nowhere' } }],
			edges: [],
		},
		{},
	)
	expect((await engine.run({ blueprint: 'orphan' })).reason).toMatch(/There is no blueprint 'nowhere'/)
})

test('values go through a custom serializer and come back whole', async () => {
	const serializer = {
		serialize: (data: Record<string, unknown>) =>
			JSON.stringify(data, (_, value: unknown) => (value instanceof Map ? { map: [...value] } : value)),
		deserialize: (text: string) =>
			JSON.parse(text, (_, value: unknown) =>
				isRecord(value) && Array.isArray(value['map'])
					? new Map(value['map'] as [unknown, unknown][])
					: value,
			) as Record<string, unknown>,
	}
	await begin(
		{
			id: 'maps',
			nodes: [
				{ id: 'a', uses: 'makes' },
				{ id: 'b', uses: 'reads' },
			],
			edges: [{ source: 'a', target: 'b' }],
		},
		{
			makes: async ({ context }) => {
				await context.set('kept', new Map([['k', 1]]))
				return { output: new Map([['x', 'y']]) }
			},
			reads: async ({ input, context }) => ({
				output: [
					input instanceof Map && input.get('x') === 'y',
					((await context.get('kept')) as Map<string, number>).get('k'),
				].join(),
			}),
		},
		{ module: { serializer } },
	)
	const run = await engine.run({ blueprint: 'maps' })
	expect(JSON.stringify(run.context['b'])).toContain('true,1')
})

function isRecord(value: unknown): value is Record<string, unknown> {
	return typeof value === 'object' && value !== null && !Array.isArray(value)
}

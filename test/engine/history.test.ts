import { type FlowcraftEvent, generateMermaidForRun, UnsafeEvaluator } from 'flowcraft'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { sweepGenerations, sweepWorkers } from '../../src/outbox/sweep.js'
import { pauseRun, unpauseRun } from '../../src/run/pause.js'
import { listNodes, type NodeRun } from '../../src/run/node-history.js'
import { retryRun } from '../../src/run/retry.js'
import { listRunEvents, type RunEvent } from '../../src/run/run-events.js'
import { type Core, createCore, flow } from '../support/core.js'
import { startEngine, type TestEngine } from '../support/engine.js'
import { waitFor } from '../support/wait-for.js'

const diamond = flow(
	'diamond',
	[
		['a', 'b', { action: 'left' }],
		['a', 'c', { action: 'right' }],
		['b', 'd'],
		['c', 'd'],
	],
	{
		d: { config: { joinStrategy: 'any' } },
	},
)
const join = flow('join', [
	['a', 'b'],
	['a', 'c', { condition: 'false' }],
	['b', 'j'],
	['a', 'j'],
])
const rescued = flow('rescued', [['a', 'z']], { a: { config: { fallback: 'f' } }, f: {} })

describe('what is told of a run', () => {
	let core: Core
	let worker: string
	beforeAll(async () => {
		core = await createCore()
		worker = await core.worker()
		for (const blueprint of [
			diamond,
			join,
			rescued,
			flow('one', [], { a: {} }),
			flow('wide', [], Object.fromEntries(['a', 'b', 'c', 'd', 'e'].map((id) => [id, {}]))),
		]) {
			await core.register(blueprint)
		}
	})
	afterAll(() => core.drop())

	const complete = async (runId: string, nodeId: string, completion = {}, more = {}): Promise<void> =>
		void (await core.commit(core.completed(await core.claimed(worker, runId, nodeId, more), completion)))
	const fail = async (runId: string, nodeId: string, more = {}): Promise<void> =>
		void (await core.commit(
			core.failed(await core.claimed(worker, runId, nodeId, more), `${nodeId} broke`),
		))
	const nodesOf = async (runId: string, input = {}): Promise<Record<string, NodeRun>> =>
		Object.fromEntries((await listNodes(core.sql, runId, input)).nodes.map((node) => [node.nodeId, node]))
	const told = ({ type, payload, attempt }: RunEvent): string =>
		[
			type,
			payload['nodeId'] ?? payload['source'],
			payload['target'] ?? payload['fallback'],
			payload['status'],
			attempt,
		]
			.filter((part) => typeof part === 'string' || typeof part === 'number')
			.join(' ')
	const eventsOf = async (runId: string): Promise<string[]> =>
		(await listRunEvents(core.sql, runId)).events.map(told)

	test('a node is told with all its attempts: who had them, when, and why they ended', async () => {
		const [mortal, runId] = [await core.worker(), await core.start('one')]
		await core.claimed(mortal, runId, 'a')
		await core.rows(
			`update flowcraft_workers set lease_until = '-infinity' where worker_id = $1::text::uuid`,
			mortal,
		)
		await sweepWorkers(core.sql, 100)
		expect((await nodesOf(runId))['a']).not.toHaveProperty('workerId')
		const second = await core.claimed(worker, runId, 'a')
		await core.commit({
			key: second.key,
			token: second.token,
			outcome: 'retry',
			error: '{"name":"Error","message":"Not yet"}',
			delayMs: 0,
		})
		expect((await nodesOf(runId))['a']).toMatchObject({
			state: 'ready',
			attempt: 2,
			dueAt: expect.any(String) as string,
		})
		await fail(runId, 'a')
		await retryRun(core.sql, runId)
		await complete(runId, 'a', { output: { x: 1 }, action: 'go' })

		const { a } = await nodesOf(runId)
		expect(a).toEqual({
			nodeId: 'a',
			generation: '0',
			state: 'completed',
			attempt: 3,
			crashes: 0,
			workerId: worker,
			createdAt: expect.any(String) as string,
			claimedAt: expect.any(String) as string,
			finishedAt: expect.any(String) as string,
			action: 'go',
			attempts: [
				{
					attempt: 1,
					outcome: 'crashed',
					workerId: mortal,
					error: { name: 'WorkerDied', message: expect.any(String) as string },
				},
				{
					attempt: 1,
					outcome: 'failed',
					workerId: worker,
					error: { name: 'Error', message: 'Not yet' },
				},
				{
					attempt: 2,
					outcome: 'failed',
					workerId: worker,
					error: { name: 'Error', message: 'a broke' },
				},
			].map(
				(attempt) =>
					expect.objectContaining({
						...attempt,
						claimedAt: expect.any(String) as string,
						recordedAt: expect.any(String) as string,
					}) as object,
			),
		})
		expect((await nodesOf(runId, { withOutput: true }))['a']?.outputJson).toBe('{"x":1}')
		expect(await eventsOf(runId)).toEqual([
			'workflow:start',
			'node:start a 1',
			'node:retry a 1',
			'node:start a 1',
			'node:retry a 1',
			'node:start a 2',
			'workflow:finish failed',
			'workflow:resume',
			'node:retry a 2',
			'node:start a 3',
			'node:finish a 3',
			'workflow:finish completed',
		])
	})

	test('a run that nobody knows has no history', async () => {
		await expect(listNodes(core.sql, 'nobody')).rejects.toThrow("There is no run 'nobody'.")
		await expect(listRunEvents(core.sql, 'nobody')).rejects.toThrow("There is no run 'nobody'.")
	})

	test("pages of nodes and events have each of them once, and refuse another list's cursor", async () => {
		const runId = await core.start('wide')
		for (const id of ['a', 'b', 'c', 'd', 'e']) await complete(runId, id)
		const nodeIds: string[] = []
		for (
			let cursor: string | undefined, page;
			page === undefined || cursor !== undefined;
			cursor = page.nextCursor
		) {
			page = await listNodes(core.sql, runId, { limit: 2, ...(cursor === undefined ? {} : { cursor }) })
			nodeIds.push(...page.nodes.map(({ nodeId }) => nodeId))
		}
		expect(nodeIds).toEqual(['a', 'b', 'c', 'd', 'e'])
		const events: RunEvent[] = []
		for (
			let cursor: string | undefined, page;
			page === undefined || cursor !== undefined;
			cursor = page.nextCursor
		) {
			page = await listRunEvents(core.sql, runId, {
				limit: 3,
				...(cursor === undefined ? {} : { cursor }),
			})
			events.push(...page.events)
		}
		expect(events.map(told)).toEqual(await eventsOf(runId))
		expect(events).toHaveLength(12)
		const { nextCursor } = await listNodes(core.sql, runId, { limit: 2 })
		await expect(listRunEvents(core.sql, runId, { cursor: nextCursor ?? '' })).rejects.toThrow(
			'is not a nextCursor of this list',
		)
	})

	test('pausing, awaiting and fallbacks are events too', async () => {
		const runId = await core.start('rescued')
		await fail(runId, 'a')
		const f = await core.claimed(worker, runId, 'f', { recovers: '["a"]' })
		await core.commit({ key: f.key, token: f.token, outcome: 'waiting', wait: '{"reason":"approval"}' })
		expect((await nodesOf(runId))['f']).toMatchObject({
			state: 'waiting',
			waitReason: 'approval',
			recovers: ['a'],
		})
		await pauseRun(core.sql, runId)
		await unpauseRun(core.sql, runId)
		expect(await eventsOf(runId)).toEqual([
			'workflow:start',
			'node:start a 1',
			'node:error a 1',
			'node:fallback a f',
			'node:start f 1',
			'workflow:pause awaiting',
			'workflow:pause paused',
			'workflow:resume',
		])
	})

	test("Flowcraft's generateMermaidForRun draws the run from them: what completed, what failed, which edges were taken", async () => {
		const runId = await core.start('diamond')
		await complete(runId, 'a', { action: 'right' })
		await complete(runId, 'c')
		await fail(runId, 'd')
		const { events } = await listRunEvents(core.sql, runId)
		const drawing = generateMermaidForRun(diamond, events as unknown as FlowcraftEvent[])
		for (const id of ['a', 'c']) expect(drawing).toContain(`style ${id} fill:#d4edda`)
		expect(drawing).toContain('style d fill:#f8d7da')
		expect(drawing).not.toContain('style b ')
		expect([...drawing.matchAll(/linkStyle (\d)/g)].map(([, index]) => index)).toEqual(['1', '3'])
	})

	test('an edge is told after its source has ended and before its target starts; into a join also if it was not taken', async () => {
		const runId = await core.start('join')
		await complete(runId, 'a')
		await complete(runId, 'b')
		await complete(runId, 'j')
		expect(await eventsOf(runId)).toEqual([
			'workflow:start',
			'node:start a 1',
			'node:finish a 1',
			'edge:evaluate a b',
			'edge:evaluate a j',
			'node:start b 1',
			'node:finish b 1',
			'edge:evaluate b j',
			'node:start j 1',
			'node:finish j 1',
			'workflow:finish completed',
		])
	})
})

describe('loops', () => {
	let engine: TestEngine
	let turns = 0
	beforeAll(async () => {
		engine = await startEngine({
			manualRelay: false,
			workflows: {
				evaluator: new UnsafeEvaluator(),
				blueprints: {
					turning: flow(
						'turning',
						[
							['before', 'body'],
							['body', 'tail'],
							['tail', 'gate'],
							['gate', 'body', { action: 'again' }],
							['gate', 'after', { action: 'enough' }],
						],
						{
							before: { uses: 'pass' },
							body: { uses: 'count', config: { joinStrategy: 'any' } },
							tail: { uses: 'pass' },
							gate: { uses: 'gate' },
							after: { uses: 'hold' },
						},
					),
				},
				registry: {
					pass: async ({ input }) => ({ output: input ?? 0 }),
					count: async () => ({ output: ++turns }),
					gate: async ({ input }) => ({
						output: input,
						action: Number(input) < 12 ? 'again' : 'enough',
					}),
					hold: async ({ dependencies }) => {
						await dependencies.workflowState.markAsAwaiting('after', { reason: 'test' })
						return { output: 'held' }
					},
				},
			},
		})
	})
	afterAll(() => engine.stop())

	const generations = (runId: string, nodeId: string) =>
		engine
			.rows<{ generation: string }>(
				'select generation from flowcraft_nodes where run_id = $1 and node_id = $2 order by generation',
				runId,
				nodeId,
			)
			.then((rows) => rows.map(({ generation }) => generation))

	test('old turns of a live run go, the newest stay, and so does what is read from the context', async () => {
		const runId = await engine.start({ blueprint: 'turning' })
		await waitFor('the loop to have turned', async () => (await generations(runId, 'after')).length > 0)
		await waitFor(
			'a wait',
			async () =>
				(
					await engine.rows(
						'select from flowcraft_nodes where run_id = $1 and state = $2',
						runId,
						'waiting',
					)
				).length > 0,
		)
		expect(await generations(runId, 'body')).toHaveLength(12)
		const context = () =>
			engine.rows('select key, value from flowcraft_context_entries($1) order by key', runId)
		const before = await context()
		expect(await sweepGenerations(engine.database.sql, '', 100, 3, 1000)).toMatchObject({ deleted: 23 })
		// The first turn is where whatever comes from outside the loop arrives.
		for (const nodeId of ['body', 'tail'])
			expect(await generations(runId, nodeId)).toEqual(['', 'a9', 'b10', 'b11'])
		// What the oldest turn that is kept began with.
		expect(await generations(runId, 'gate')).toEqual(['', 'a8', 'a9', 'b10', 'b11'])
		expect(await context()).toEqual(before)
		expect(await sweepGenerations(engine.database.sql, '', 100, 3, 1000)).toMatchObject({ deleted: 0 })
		const [counters] = await engine.rows(
			'select live_count, waiting_count, failed_count from flowcraft_statuses where run_id = $1',
			runId,
		)
		expect(counters).toEqual({ live_count: 1, waiting_count: 1, failed_count: 0 })
	})

	describe('whose older turns may still be asked for', () => {
		let core: Core
		let worker: string
		beforeAll(async () => {
			core = await createCore()
			worker = await core.worker()
			// Each turn begins at `entry` and leaves `slow` behind, which arrives where the next nodes come together.
			await core.register(
				flow(
					'slow',
					[
						['start', 'entry'],
						['entry', 'slow'],
						['entry', 'gate'],
						['gate', 'entry', { action: 'again' }],
						['slow', 'meet'],
						['gate', 'meet', { action: 'meet' }],
						['meet', 'entry', { action: 'never' }],
					],
					{
						entry: { config: { joinStrategy: 'any' } },
						meet: { config: { joinStrategy: 'any' } },
					},
				),
			)
		})
		afterAll(() => core.drop())

		async function turn(runId: string, generation: string, slow: boolean): Promise<void> {
			for (const nodeId of ['entry', ...(slow ? ['slow', 'meet'] : [])]) {
				await core.commit(core.completed(await core.claimed(worker, runId, nodeId, { generation })))
			}
			await core.commit(
				core.completed(await core.claimed(worker, runId, 'gate', { generation }), {
					action: 'again',
				}),
			)
		}
		const kept = async (runId: string): Promise<string[]> =>
			(
				await core.rows<{ generation: string }>(
					`select generation from flowcraft_nodes where run_id = $1 and node_id = 'entry' order by 1`,
					runId,
				)
			).map(({ generation }) => generation)

		test('a turn that is not finished, and all after it, are kept', async () => {
			const runId = await core.start('slow')
			await core.commit(core.completed(await core.claimed(worker, runId, 'start')))
			await turn(runId, '', true)
			for (const generation of ['a1', 'a2', 'a3', 'a4', 'a5', 'a6', 'a7'])
				await turn(runId, generation, generation !== 'a4')
			await sweepGenerations(core.sql, '', 100, 2, 1000)
			expect(await kept(runId)).toEqual(['', 'a4', 'a5', 'a6', 'a7', 'a8'])
			for (const nodeId of ['slow', 'meet'])
				await core.commit(
					core.completed(await core.claimed(worker, runId, nodeId, { generation: 'a4' })),
				)
			await sweepGenerations(core.sql, '', 100, 2, 1000)
			expect(await kept(runId)).toEqual(['', 'a6', 'a7', 'a8'])
			expect(await core.violations()).toEqual([])
		})

		test('a turn in which a node failed is kept, so that it can be retried', async () => {
			const runId = await core.start('slow')
			await core.commit(core.completed(await core.claimed(worker, runId, 'start')))
			await turn(runId, '', true)
			await turn(runId, 'a1', true)
			await turn(runId, 'a2', false)
			await core.commit(core.failed(await core.claimed(worker, runId, 'slow', { generation: 'a2' })))
			for (const generation of ['a3', 'a4', 'a5', 'a6']) await turn(runId, generation, true)
			await sweepGenerations(core.sql, '', 100, 2, 1000)
			expect(await kept(runId)).toEqual(['', 'a2', 'a3', 'a4', 'a5', 'a6', 'a7'])
			await retryRun(core.sql, runId)
			await core.commit(core.completed(await core.claimed(worker, runId, 'slow', { generation: 'a2' })))
			expect(await core.violations()).toEqual([])
		})
	})
})

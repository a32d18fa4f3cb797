/** What waits costs nothing in a worker: no slot, no message, no memory. */
import { queryObjects } from 'node:v8'
import { afterEach, expect, test } from 'vitest'
import { BufferedContext } from '../../src/context/node-context.js'
import { resumeRun } from '../../src/run/resume.js'
import type { WorkflowsModule } from '../../worker/execution/workflows.js'
import { startEngine, type TestEngine } from '../support/engine.js'
import { waitFor } from '../support/wait-for.js'

/** Of each kind; far more than a worker has slots. */
const RUNS = 40
const SLOTS = 4
const AN_HOUR = 60 * 60_000

const line = (id: string, node: object) => ({
	id,
	nodes: [
		{ id: 'before', uses: 'note' },
		{ id: 'pause', uses: 'note', ...node },
		{ id: 'after', uses: 'note' },
	],
	edges: [
		{ source: 'before', target: 'pause' },
		{ source: 'pause', target: 'after' },
	],
})

const workflows: WorkflowsModule = {
	blueprints: {
		sleeps: line('sleeps', { uses: 'sleep', params: { duration: AN_HOUR } }),
		waits: line('waits', { uses: 'wait' }),
		asks: line('asks', { uses: 'ask' }),
		retries: line('retries', { uses: 'flaky', config: { maxRetries: 2, retryDelay: AN_HOUR } }),
		parent: line('parent', { uses: 'subflow', params: { blueprintId: 'waits' } }),
		quick: line('quick', {}),
	},
	registry: {
		note: async ({ context }) => {
			await context.set('large', 'x'.repeat(10_000))
			return { output: (await context.get('large'))?.toString().length }
		},
		ask: async ({ context, dependencies }) => {
			await context.set('large', 'y'.repeat(10_000))
			await dependencies.workflowState.markAsAwaiting('pause', { reason: 'external_event' })
			return {}
		},
		flaky: async ({ dependencies }) => {
			if (dependencies['attempt'] === 1) throw new Error('not yet')
			return {}
		},
	},
}

let engine: TestEngine
afterEach(() => engine.stop())

test('hundreds of sleeping, waiting and retrying runs hold no slot and no memory in a worker, and any worker goes on with them', async () => {
	engine = await startEngine()
	const first = await engine.addWorker(workflows, { concurrency: SLOTS })
	engine.relay.start()
	const kinds = ['sleeps', 'waits', 'asks', 'retries', 'parent']
	const runIds = await Promise.all(
		kinds.flatMap((blueprint) => Array.from({ length: RUNS }, () => engine.start({ blueprint }))),
	)

	await waitFor(
		'all runs to wait',
		async () => {
			const [row] = await engine.rows<{ paused: number }>(
				`select count(*)::int as paused from flowcraft_nodes
				where node_id = 'pause' and (state = 'waiting' or (state = 'ready' and attempt = 2))`,
			)
			return row?.paused === kinds.length * RUNS
		},
		{ deadlineMs: 120_000 },
	)
	await waitFor('the last commits to be over', async () => first.running() === 0)
	expect((await engine.broker.depth('flowcraft-jobs')) ?? 0).toBe(0)
	// Counts after a collection of garbage. A node's context is what everything else of an execution hangs on.
	await waitFor('no context of a run to be held', async () => queryObjects(BufferedContext) === 0)

	// All slots are free for others.
	expect((await engine.run({ blueprint: 'quick' })).status).toBe('completed')

	// Nothing was kept in the worker that began: another one ends them all.
	await engine.stopWorkers()
	await engine.addWorker(workflows, { concurrency: SLOTS })
	await engine.rows(`update flowcraft_nodes set due_at = clock_timestamp() where due_at is not null`)
	await engine.rows(`update flowcraft_outbox set due_at = clock_timestamp()`)
	const waiting = await engine.rows<{ run_id: string }>(
		`select run_id from flowcraft_nodes where state = 'waiting' and due_at is null`,
	)
	await Promise.all(
		waiting.map(({ run_id: runId }) => resumeRun(engine.database.sql, runId, { nodeId: 'pause' })),
	)
	for (const runId of runIds)
		expect(await engine.end(runId, 60_000)).toMatchObject({
			status: 'completed',
			context: { after: 10_000 },
		})
}, 240_000)

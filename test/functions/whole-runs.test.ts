/** Runs that workers bring to their end, seen over HTTP. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createApp } from '../../functions/app.js'
import { startEngine, type TestEngine } from '../support/engine.js'
import { waitFor } from '../support/wait-for.js'
import { type Answer, ask } from './api.js'

let engine: TestEngine
let app: ReturnType<typeof createApp>

const get = (path: string): Promise<Answer> => ask(app, 'GET', path)
const post = (path: string, body?: unknown): Promise<Answer> => ask(app, 'POST', path, { body })

beforeAll(async () => {
	engine = await startEngine({
		workflows: {
			registry: {
				double: async ({ input }) => ({ output: Number(input) * 2 }),
				seven: async () => ({ output: 7 }),
				fails: async () => {
					throw new TypeError('no luck')
				},
				echo: async ({ input }) => ({ output: input }),
			},
			blueprints: {
				doubled: {
					id: 'doubled',
					nodes: [
						{ id: 'first', uses: 'seven' },
						{ id: 'second', uses: 'double' },
					],
					edges: [{ source: 'first', target: 'second' }],
					metadata: { version: '1.2.3' },
				},
				failing: {
					id: 'failing',
					nodes: [{ id: 'f', uses: 'fails', config: { maxRetries: 2, retryDelay: 1 } }],
					edges: [],
				},
				waiting: {
					id: 'waiting',
					nodes: [
						{ id: 'one', uses: 'wait' },
						{ id: 'two', uses: 'wait' },
						{ id: 'yes', uses: 'echo' },
						{ id: 'no', uses: 'echo' },
					],
					edges: [
						{ source: 'one', target: 'yes', action: 'approve' },
						{ source: 'one', target: 'no' },
					],
				},
				parent: {
					id: 'parent',
					nodes: [{ id: 'sub', uses: 'subflow', params: { blueprintId: 'doubled' } }],
					edges: [],
				},
			},
		},
	})
	app = createApp({ db: engine.database })
})
afterAll(() => engine.stop())

async function startRun(blueprint: string, input: object = {}): Promise<string> {
	return (await post('/runs', { blueprint, input })).body.runId
}

describe('a run', () => {
	test('that completes has its result, as in process', async () => {
		const runId = await startRun('doubled', { given: { z: 1, a: null } })
		const { body, text } = await get(`/runs/${runId}?wait=20s`)
		expect(body).toEqual({
			runId,
			blueprint: 'doubled',
			version: '1.2.3',
			status: 'completed',
			createdAt: expect.any(String),
			updatedAt: expect.any(String),
			finishedAt: expect.any(String),
			result: {
				status: 'completed',
				context: {
					_executionId: runId,
					'_inputs.second': 7,
					'_outputs.first': 7,
					'_outputs.second': 14,
					first: 7,
					second: 14,
					given: { z: 1, a: null },
				},
			},
		})
		expect(text).toContain('"given":{"z":1,"a":null}')
	})

	test('that fails tells every error with the message that the node threw', async () => {
		const { body } = await get(`/runs/${await startRun('failing')}?wait=20s`)
		expect(body).toMatchObject({
			status: 'failed',
			errors: [{ nodeId: 'f', message: 'no luck', attempt: 2, name: 'TypeError' }],
			result: { status: 'failed' },
		})
	})

	test('that was started by another one names its parent, and is listed under it', async () => {
		const runId = await startRun('parent')
		expect((await get(`/runs/${runId}?wait=20s`)).body.status).toBe('completed')
		const { body } = await get(`/runs?parent=${runId}`)
		expect(body.runs).toEqual([
			expect.objectContaining({
				blueprint: 'doubled',
				parentRunId: runId,
				parentNodeId: 'sub',
				status: 'completed',
			}),
		])
		expect((await get(`/runs/${body.runs[0].runId}`)).body).toMatchObject({
			parentRunId: runId,
			parentNodeId: 'sub',
		})
	})
})

describe('a wait', () => {
	async function startWaiting(): Promise<string> {
		const runId = await startRun('waiting')
		await waitFor('the run to wait', async () => (await get(`/runs/${runId}`)).body.status === 'awaiting')
		return runId
	}

	test('is shown with its node and reason', async () => {
		const { body } = await get(`/runs/${await startWaiting()}`)
		expect(body.awaiting).toEqual([
			{ nodeId: 'one', reason: 'external_event' },
			{ nodeId: 'two', reason: 'external_event' },
		])
		expect(body).not.toHaveProperty('result')
	})

	test('must be named if there are several; the refusal names them', async () => {
		const runId = await startWaiting()
		const answer = await post(`/runs/${runId}/resume`, { output: 1 })
		expect(answer.status).toBe(409)
		expect(answer.body.detail).toMatch(/'one', 'two'/)
		const wrong = await post(`/runs/${runId}/resume`, { nodeId: 'yes' })
		expect(wrong.status).toBe(409)
		expect(wrong.body.detail).toMatch(/Node 'yes' does not wait .*'one', 'two'/)
	})

	test('ends with the action and output that it is resumed with', async () => {
		const runId = await startWaiting()
		const first = await post(`/runs/${runId}/resume`, {
			nodeId: 'one',
			action: 'approve',
			output: { by: 'ada' },
		})
		expect([first.status, first.body]).toEqual([200, { runId, nodeId: 'one', status: 'running' }])
		expect((await post(`/runs/${runId}/resume`, { nodeId: 'one' })).status).toBe(409)
		const second = await post(`/runs/${runId}/resume`, { nodeId: 'two', output: null })
		expect(second.status).toBe(200)
		const { body } = await get(`/runs/${runId}?wait=20s`)
		expect(body).toMatchObject({
			status: 'completed',
			result: { context: { one: { by: 'ada' }, yes: { by: 'ada' }, two: null } },
		})
		expect(body.result.context).not.toHaveProperty('no')
	})

	test('goes when its run is cancelled', async () => {
		const runId = await startWaiting()
		expect((await post(`/runs/${runId}/cancel`)).body).toMatchObject({ runId, status: 'cancelled' })
		expect((await post(`/runs/${runId}/resume`, { nodeId: 'one' })).status).toBe(409)
	})
})

test('a run that has ended cannot be cancelled', async () => {
	const runId = await startRun('doubled')
	await get(`/runs/${runId}?wait=20s`)
	const answer = await post(`/runs/${runId}/cancel`)
	expect([answer.status, answer.body.detail]).toEqual([409, expect.stringContaining('completed')])
})

test('what a worker offers is not warned of', async () => {
	const answer = await ask(app, 'PUT', '/blueprints/offered', {
		body: {
			nodes: [
				{ id: 'a', uses: 'seven' },
				{ id: 'b', uses: 'unheard-of' },
			],
		},
	})
	expect(answer.body.warnings).toEqual(["No worker has offered an implementation of 'unheard-of' yet."])
})

test('the workers that run are listed', async () => {
	const { body } = await get('/workers')
	expect(body.workers).toEqual([expect.objectContaining({ status: 'alive', queues: ['flowcraft-jobs'] })])
})

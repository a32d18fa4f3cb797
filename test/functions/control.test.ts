import { afterAll, beforeAll, expect, test } from 'vitest'
import { claimNodes } from '../../src/claim/claim.js'
import { registerWorker } from '../../src/claim/worker-registry.js'
import { commitNodes, type NodeCommit } from '../../src/commit/commit.js'
import { faultPaths, startApi, type TestApi } from './api.js'

let api: TestApi
const workerId = crypto.randomUUID()

beforeAll(async () => {
	api = await startApi()
	await registerWorker(api.database.sql, {
		workerId,
		name: 'test',
		version: '',
		queues: [],
		slots: 1,
		offers: [],
		leaseMs: 600_000,
	})
	await api.put('/blueprints/parent', {
		nodes: [{ id: 'sub', uses: 'subflow', params: { blueprintId: 'idle' } }],
	})
})
afterAll(() => api.stop())

const start = async (blueprint = 'idle'): Promise<string> =>
	(await api.post('/runs', { blueprint })).body.runId as string

async function finish(runId: string, nodeId: string, how: Omit<NodeCommit, 'key' | 'token'>): Promise<void> {
	const [claimed] = await claimNodes(api.database.sql, workerId, [
		{ runId, nodeId, generation: '', recovers: '' },
	])
	if (claimed?.status !== 'claimed') throw new Error(`'${nodeId}' could not be claimed`)
	await commitNodes(api.database.sql, [{ key: claimed.node.key, token: claimed.node.token, ...how }])
}
const failure = (more: Partial<NodeCommit> = {}): Omit<NodeCommit, 'key' | 'token'> => ({
	outcome: 'failed',
	error: '{"name":"Error","message":"It broke"}',
	reason: 'It broke',
	...more,
})

test('a run is paused and unpaused, each as often as one likes', async () => {
	const runId = await start()
	for (const [action, status] of [
		['pause', 'paused'],
		['pause', 'paused'],
		['unpause', 'running'],
		['unpause', 'running'],
	] as const) {
		const answer = await api.post(`/runs/${runId}/${action}`)
		expect([answer.status, answer.body]).toEqual([200, { runId, status }])
		expect((await api.get(`/runs/${runId}`)).body.status).toBe(status)
	}
	expect((await api.get('/runs?status=paused')).body.runs).toEqual([])
})

test('of a run that has ended, pausing, unpausing and retrying are conflicts; of one that nobody knows, there is nothing', async () => {
	const runId = await start()
	await api.post(`/runs/${runId}/cancel`)
	const before = await api.rowCounts()
	for (const action of ['pause', 'unpause', 'retry']) {
		expect([action, (await api.post(`/runs/${runId}/${action}`)).status]).toEqual([action, 409])
		expect([action, (await api.post(`/runs/missing/${action}`)).status]).toEqual([action, 404])
	}
	expect(await api.rowCounts()).toEqual(before)
})

test('a failed run is retried, whole or by node, and is live again', async () => {
	const runId = await start()
	await finish(runId, 'only', failure())
	expect((await api.get(`/runs/${runId}`)).body).toMatchObject({ status: 'failed', reason: 'It broke' })
	const other = await api.post(`/runs/${runId}/retry`, { nodeId: 'other' })
	expect([other.status, other.body.detail]).toEqual([
		409,
		`Node 'other' has not failed in run '${runId}', which is failed. These nodes have: 'only'.`,
	])
	const retried = await api.post(`/runs/${runId}/retry`, { nodeId: 'only' })
	expect([retried.status, retried.body]).toEqual([200, { runId, status: 'running', nodeIds: ['only'] }])
	const { body } = await api.get(`/runs/${runId}`)
	expect(body.status).toBe('running')
	for (const field of ['finishedAt', 'reason', 'errors', 'result']) expect(body).not.toHaveProperty(field)
	expect((await api.post(`/runs/${runId}/retry`)).status).toBe(409)
})

test('a retry takes nothing but a node id', async () => {
	const runId = await start()
	expect(faultPaths(await api.post(`/runs/${runId}/retry`, { nodeId: '', node: 'x' }))).toEqual([
		'body /nodeId',
		'body /node',
	])
	expect((await api.post(`/runs/${runId}/retry`, { nodeId: 'a\u0000' })).status).toBe(400)
})

test('a child is retried through its parent, which the refusal names', async () => {
	const parent = await start('parent')
	const child = crypto.randomUUID()
	await finish(parent, 'sub', { outcome: 'child', childRunId: child, childBlueprint: 'idle' })
	await finish(child, 'only', failure())
	const answer = await api.post(`/runs/${child}/retry`)
	expect([answer.status, answer.body.detail]).toEqual([
		409,
		`Run '${child}' is a child of run '${parent}': retry its node there.`,
	])
})

test('a parent whose child waits cannot be resumed, and the refusal says what can', async () => {
	const parent = await start('parent')
	const child = crypto.randomUUID()
	await finish(parent, 'sub', { outcome: 'child', childRunId: child, childBlueprint: 'idle' })
	const running = await api.post(`/runs/${parent}/resume`, { nodeId: 'sub' })
	expect([running.status, running.body.detail]).toEqual([
		409,
		`Node 'sub' does not wait in run '${parent}', which is running.`,
	])
	await finish(child, 'only', { outcome: 'waiting', wait: '{"reason":"external_event"}' })
	for (const body of [{}, { nodeId: 'sub' }]) {
		const refused = await api.post(`/runs/${parent}/resume`, body)
		expect([refused.status, refused.body.detail]).toEqual([
			409,
			`Node 'sub' waits for its child run '${child}': resume what waits there, with that run's id.`,
		])
	}
	expect((await api.post(`/runs/${child}/resume`)).status).toBe(200)
})

test('the nodes of a run come in pages, with their outputs if one asks for them', async () => {
	const runId = await start()
	// A key that parsing and writing again would lose or reorder.
	const output = '{"__proto__":1,"2":0,"1":9007199254740993}'
	await finish(runId, 'only', { outcome: 'completed', output })
	const plain = await api.get(`/runs/${runId}/nodes`)
	expect(plain.body).toEqual({
		nodes: [
			expect.objectContaining({
				nodeId: 'only',
				state: 'completed',
				generation: '0',
				attempt: 1,
				attempts: [],
			}),
		],
	})
	expect(plain.body.nodes[0]).not.toHaveProperty('output')
	expect((await api.get(`/runs/${runId}/nodes?include=output&limit=1`)).text).toContain(
		`"output":${output}`,
	)
	expect(faultPaths(await api.get(`/runs/${runId}/nodes?include=input&limit=0&cursor=x`))).toEqual([
		'query /limit',
		'query /include',
	])
	expect(faultPaths(await api.get(`/runs/${runId}/nodes?cursor=x`))).toEqual(['query /cursor'])
	expect((await api.get('/runs/missing/nodes')).status).toBe(404)
})

test("the events of a run are Flowcraft's", async () => {
	const runId = await start()
	await finish(runId, 'only', failure())
	const { body } = await api.get(`/runs/${runId}/events`)
	expect(body.events.map(({ type }: { type: string }) => type)).toEqual([
		'workflow:start',
		'node:start',
		'node:error',
		'workflow:finish',
	])
	expect(body.events[2]).toEqual({
		at: expect.any(String),
		type: 'node:error',
		payload: {
			nodeId: 'only',
			executionId: runId,
			blueprintId: 'idle',
			error: { name: 'Error', message: 'It broke' },
		},
		generation: '0',
		attempt: 1,
	})
	expect((await api.get(`/runs/${runId}/events?limit=2`)).body).toMatchObject({
		nextCursor: expect.any(String),
	})
	expect((await api.get(`/runs/${runId}/events?limit=2001`)).status).toBe(400)
	expect((await api.get('/runs/missing/events')).status).toBe(404)
})

test('dead letters are listed, replayed and discarded', async () => {
	const [replayed, discarded] = [await start(), await start()]
	for (const runId of [replayed, discarded])
		await finish(runId, 'only', failure({ deadLetter: 'Nobody could run it' }))
	const { body } = await api.get('/dead-letters')
	expect(body.deadLetters).toHaveLength(2)
	const idOf = (runId: string): string =>
		body.deadLetters.find((letter: { runId: string }) => letter.runId === runId).id as string

	expect((await api.post(`/dead-letters/${idOf(replayed)}/replay`)).body).toEqual({
		runId: replayed,
		status: 'running',
		nodeIds: ['only'],
	})
	expect((await api.post(`/dead-letters/${idOf(replayed)}/replay`)).status).toBe(409)
	expect((await api.post(`/dead-letters/${idOf(replayed)}/discard`)).status).toBe(409)
	for (let i = 0; i < 2; i++) {
		const answer = await api.post(`/dead-letters/${idOf(discarded)}/discard`)
		expect([answer.status, answer.body]).toEqual([200, { runId: discarded, nodeId: 'only' }])
	}
	expect((await api.get(`/runs/${discarded}`)).body.status).toBe('failed')
	expect((await api.get('/dead-letters')).body).toEqual({ deadLetters: [] })
	for (const id of ['x', encodeURIComponent('é'), btoa('["a","b","c","d"]')]) {
		expect((await api.post(`/dead-letters/${id}/replay`)).status).toBe(404)
		expect((await api.post(`/dead-letters/${id}/discard`)).status).toBe(404)
	}
})

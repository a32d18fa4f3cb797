import { afterAll, beforeAll, expect, test } from 'vitest'
import { startApi, type TestApi } from './api.js'

let api: TestApi
beforeAll(async () => {
	api = await startApi()
})
afterAll(() => api.stop())

async function insertWorker(
	name: string,
	lease: string,
	more?: { column: string; ago: string },
): Promise<void> {
	await api.rows(
		`insert into flowcraft_workers (worker_id, name, version, queues, slots, lease_until${more === undefined ? '' : `, ${more.column}`})
		values (gen_random_uuid(), '${name}', '1.2.3', array['q1', 'q "2"'], 8, now() + '${lease}'::interval${more === undefined ? '' : `, now() - '${more.ago}'::interval`})`,
	)
}

test('lists who is there and who has gone lately, each with its status', async () => {
	await insertWorker('alive', '15 s')
	await insertWorker('draining', '15 s', { column: 'draining_at', ago: '1 s' })
	await insertWorker('stopped', '15 s', { column: 'stopped_at', ago: '1 min' })
	await insertWorker('declared dead', '-1 min', { column: 'dead_at', ago: '10 s' })
	await insertWorker('silent', '-1 s')
	await insertWorker('stopped long ago', '-2 h', { column: 'stopped_at', ago: '2 h' })
	await insertWorker('died long ago', '-2 h')

	const { status, body } = await api.get('/workers')
	expect(status).toBe(200)
	expect(
		Object.fromEntries(
			body.workers.map((worker: { name: string; status: string }) => [worker.name, worker.status]),
		),
	).toEqual({
		alive: 'alive',
		draining: 'draining',
		stopped: 'stopped',
		'declared dead': 'dead',
		silent: 'dead',
	})
	expect(body.workers.find((worker: { name: string }) => worker.name === 'alive')).toEqual({
		workerId: expect.stringMatching(/^[0-9a-f-]{36}$/),
		name: 'alive',
		version: '1.2.3',
		queues: ['q1', 'q "2"'],
		slots: 8,
		startedAt: expect.stringMatching(/Z$/),
		heartbeatAt: expect.stringMatching(/Z$/),
		status: 'alive',
	})
})

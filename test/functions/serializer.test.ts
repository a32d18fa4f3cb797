import type { ISerializer } from 'flowcraft'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startApi, type TestApi } from './api.js'

/** Writes dates as dates, and is not JSON. */
const serializer: ISerializer = {
	serialize: (data) => `<${JSON.stringify(data)}>`,
	deserialize: (text) => JSON.parse(text.slice(1, -1)),
}

let api: TestApi
beforeAll(async () => {
	api = await startApi({ serializer })
})
afterAll(() => api.stop())

test('what the serializer of the workers has written is shown as JSON', async () => {
	const { body } = await api.post(
		'/runs',
		'{"blueprint":"idle","input":{"a":{"b":[1]},"__proto__":2,"text":"<x>"}}',
	)
	const [stored] = await api.rows(
		'select value from flowcraft_contexts where run_id = $1 and key = $2',
		body.runId,
		'a',
	)
	expect(stored?.['value']).toBe(JSON.stringify({ $serialized: '<{"v":{"b":[1]}}>' }))
	await api.post(`/runs/${body.runId}/cancel`)
	const { text } = await api.get(`/runs/${body.runId}`)
	const { _executionId: _, ...context } = JSON.parse(text).result.context
	expect(Object.entries(context).sort()).toEqual([
		['__proto__', 2],
		['a', { b: [1] }],
		['text', '<x>'],
	])
})

test('what cannot be decoded is shown as it is stored', async () => {
	const { body } = await api.post('/runs', { blueprint: 'idle', input: { a: 1 } })
	await api.rows(
		`update flowcraft_contexts set value = '{"$serialized":"garbage"}' where run_id = $1`,
		body.runId,
	)
	await api.post(`/runs/${body.runId}/cancel`)
	expect((await api.get(`/runs/${body.runId}`)).body.result.context.a).toEqual({ $serialized: 'garbage' })
})

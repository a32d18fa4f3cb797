import { afterAll, beforeAll, expect, test } from 'vitest'
import { IDLE_BLUEPRINT, startApi, type TestApi } from './api.js'

let api: TestApi
beforeAll(async () => {
	api = await startApi()
})
afterAll(() => api.stop())

const definition = (uses: string, version?: string): object => ({
	nodes: [{ id: 'n', uses }],
	edges: [],
	...(version === undefined ? {} : { metadata: { version } }),
})

test('a new content is created with 201, and again with 200 and no change', async () => {
	const first = await api.put('/blueprints/twice', definition('x', '1'))
	expect(first.status).toBe(201)
	expect(first.body).toEqual({
		blueprintId: 'twice',
		hash: expect.stringMatching(/^[0-9a-f]{32}$/),
		version: '1',
		warnings: ["No worker has offered an implementation of 'x' yet."],
	})
	const again = await api.put('/blueprints/twice', { id: 'twice', ...definition('x', '1') })
	expect([again.status, again.body]).toEqual([200, first.body])
})

test('registering a known content does not move what is current', async () => {
	await api.put('/blueprints/moved', definition('old'))
	const { body } = await api.put('/blueprints/moved', definition('new'))
	await api.put('/blueprints/moved', definition('old'))
	const current = await api.get('/blueprints/moved')
	expect(current.body).toMatchObject({ hash: body.hash, current: true, version: null })
	expect(current.body.definition).toEqual({ id: 'moved', ...definition('new') })
	expect(current.body.versions.map((version: { hash: string }) => version.hash)[0]).toBe(body.hash)
	expect(current.body.versions).toHaveLength(2)
})

test('the same version with another content is refused with 409', async () => {
	await api.put('/blueprints/taken', definition('x', '1'))
	const before = await api.rowCounts()
	const answer = await api.put('/blueprints/taken', definition('y', '1'))
	expect([answer.status, answer.body.type]).toEqual([409, '/docs#conflict'])
	expect(await api.rowCounts()).toEqual(before)
})

test('the list has the current version of each blueprint, by id', async () => {
	await api.put('/blueprints/another', definition('x'))
	const { body } = await api.get('/blueprints')
	const ids = body.blueprints.map((blueprint: { blueprintId: string }) => blueprint.blueprintId)
	expect(ids).toEqual([...ids].sort())
	expect(ids).toEqual(expect.arrayContaining(['another', 'idle']))
	expect(Object.keys(body.blueprints[0])).toEqual(['blueprintId', 'hash', 'version', 'createdAt'])
})

test('one version is found by its name and by its hash', async () => {
	const one = await api.put('/blueprints/found', definition('one', '1'))
	await api.put('/blueprints/found', definition('two', '2'))
	for (const version of ['1', one.body.hash]) {
		const { body } = await api.get(`/blueprints/found?version=${version}`)
		expect(body).toMatchObject({ hash: one.body.hash, version: '1', current: false })
	}
	expect((await api.get('/blueprints/found?version=3')).status).toBe(404)
	expect((await api.get('/blueprints/missing')).status).toBe(404)
})

test('ids may hold anything that a URL can carry', async () => {
	for (const id of ['a/b c', "it's", 'ü%', '__proto__', '$1::text']) {
		const path = `/blueprints/${encodeURIComponent(id)}`
		expect([id, (await api.put(path, { nodes: IDLE_BLUEPRINT.nodes })).status]).toEqual([id, 201])
		expect((await api.get(path)).body.definition.id).toBe(id)
		const started = await api.post('/runs', { blueprint: id })
		expect((await api.get(`/runs/${started.body.runId}`)).body.blueprint).toBe(id)
	}
})

import fc from 'fast-check'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { createApp } from '../../functions/app.js'
import { MAX_DEPTH } from '../../functions/storable.js'
import { type Answer, ask, faultPaths, startApi, type TestApi } from './api.js'

let api: TestApi
let before: Record<string, number>
/** A run that can be read, cancelled and resumed. */
let runId: string

beforeAll(async () => {
	api = await startApi()
	runId = (await api.post('/runs', { blueprint: 'idle' })).body.runId
})
afterAll(() => api.stop())

function expectProblem(answer: Answer, status: number, code: string): void {
	expect([answer.status, answer.body?.type]).toEqual([status, `/docs#${code}`])
	expect(answer.headers.get('content-type')).toBe('application/problem+json')
	expect(answer.body).toMatchObject({ status, title: expect.any(String), detail: expect.any(String) })
}

const startText = (body: string): Promise<Answer> => api.post('/runs', body)

describe('nothing is written by', () => {
	beforeEach(async () => {
		before = await api.rowCounts()
	})
	afterEach(async () => {
		expect(await api.rowCounts()).toEqual(before)
	})

	test.each([
		[
			'an unfinished object',
			'{"blueprint":',
			'Unexpected end of JSON input at position 13 (line 1, column 14)',
		],
		['a trailing comma', '{\n"blueprint":"idle",\n}', 'at position 22 (line 3, column 1)'],
		['no JSON at all', 'blueprint=idle', 'is not valid JSON'],
		['a control character in a text', '{"blueprint":"\u0000"}', 'at position 14'],
	])('malformed JSON, which is told with its place: %s', async (_what, body, detail) => {
		const answer = await startText(body)
		expectProblem(answer, 400, 'malformed-json')
		expect(answer.body.detail).toContain(detail)
		expect(faultPaths(answer)).toEqual(['body '])
	})

	test('a body that is not UTF-8', async () => {
		const app = createApp({ db: api.database })
		const response = await app.request('/runs', {
			method: 'POST',
			headers: { 'content-type': 'application/json' },
			body: new Uint8Array([0x7b, 0x22, 0xff, 0x22, 0x7d]),
		})
		expect(response.status).toBe(400)
		expect(await response.json()).toMatchObject({ type: '/docs#malformed-json' })
	})

	test.each([
		['an array', '[]', ['body ']],
		['a text', '"idle"', ['body ']],
		['null', 'null', ['body ']],
		['nothing', '', ['body ']],
		['no blueprint', '{}', ['body /blueprint']],
		['an empty blueprint', '{"blueprint":""}', ['body /blueprint']],
		['a blueprint that is too long', `{"blueprint":"${'x'.repeat(257)}"}`, ['body /blueprint']],
		['an input that is no object', '{"blueprint":"idle","input":[1]}', ['body /input']],
		['an input of null', '{"blueprint":"idle","input":null}', ['body /input']],
		['tags that are no list', '{"blueprint":"idle","tags":"x"}', ['body /tags']],
		['a tag that is no text', '{"blueprint":"idle","tags":["x",7]}', ['body /tags/1']],
		['too many tags', JSON.stringify({ blueprint: 'idle', tags: Array(21).fill('x') }), ['body /tags']],
		['an unknown field', '{"blueprint":"idle","inputs":{}}', ['body /inputs']],
		['an unknown field named __proto__', '{"blueprint":"idle","__proto__":{}}', ['body /__proto__']],
		['a run id of its own', '{"blueprint":"idle","runId":"mine"}', ['body /runId']],
		[
			'a key that is too long',
			JSON.stringify({ blueprint: 'idle', input: { ['k'.repeat(1025)]: 1 } }),
			[`body /input/${'k'.repeat(1025)}`],
		],
	])('a body that is %s, which is told by its field', async (_what, body, paths) => {
		const answer = await startText(body)
		expectProblem(answer, 400, 'invalid-input')
		expect(faultPaths(answer)).toEqual(paths)
	})

	test('several faults, all of which are told at once', async () => {
		const answer = await api.post(
			'/runs',
			'{"blueprint":7,"input":{"a/b":["\\u0000"],"~":"\\ud800"},"version":"","surprise":1}',
			{ 'idempotency-key': 'x'.repeat(257) },
		)
		expectProblem(answer, 400, 'invalid-input')
		expect(faultPaths(answer).sort()).toEqual(
			[
				'header /Idempotency-Key',
				'body /blueprint',
				'body /input/a~1b/0',
				'body /input/~0',
				'body /version',
				'body /surprise',
			].sort(),
		)
	})

	test.each([
		['NUL in a text', '{"a":[{"b":"x\\u0000y"}]}', '/input/a/0/b'],
		['NUL in a key', '{"a":{"x\\u0000y":1}}', '/input/a/x\\u0000y'],
		['NUL in a key of the context', '{"\\u0000":1}', '/input/\\u0000'],
		['the first half of a surrogate pair', '{"a":"\\ud83d"}', '/input/a'],
		['the second half of a surrogate pair', '{"a":["","\\ude00x"]}', '/input/a/1'],
		['half of a surrogate pair in a key', '{"\\ud800":1}', '/input/\ufffd'],
		['a number beyond any double', '{"a":{"b":1e999}}', '/input/a/b'],
	])('a value that jsonb cannot hold, which is told by its pointer: %s', async (_what, input, path) => {
		const answer = await startText(`{"blueprint":"idle","input":${input}}`)
		expectProblem(answer, 400, 'invalid-input')
		expect(answer.body.errors).toEqual([{ in: 'body', path, message: expect.any(String) }])
	})

	test.each([
		['tag', { blueprint: 'idle', tags: ['a\u0000'] }, 'body /tags/0'],
		['version', { blueprint: 'idle', version: '\u0000' }, 'body /version'],
		['blueprint', { blueprint: 'idle\u0000' }, 'body /blueprint'],
	])('NUL in a %s', async (_what, body, path) => {
		const answer = await api.post('/runs', body)
		expectProblem(answer, 400, 'invalid-input')
		expect(faultPaths(answer)).toContain(path)
	})

	test.each([
		[100_000, '['.repeat(100_000) + ']'.repeat(100_000)],
		[100_000, '{"a":'.repeat(100_000) + '1' + '}'.repeat(100_000)],
		[MAX_DEPTH + 1, '['.repeat(MAX_DEPTH - 1) + ']'.repeat(MAX_DEPTH - 1)],
	])('an absurd depth of %i', async (_depth, value) => {
		const answer = await startText(`{"blueprint":"idle","input":{"a":${value}}}`)
		expectProblem(answer, 400, 'invalid-input')
		expect(answer.body.errors[0].message).toContain('nested')
	})

	test('an unknown blueprint', async () => {
		const answer = await api.post('/runs', { blueprint: 'missing' }, { 'idempotency-key': 'unknown' })
		expectProblem(answer, 404, 'not-found')
		expect(answer.body.detail).toContain("'missing'")
	})

	test('a body over the limit, whether its length is declared or not', async () => {
		const body = JSON.stringify({ blueprint: 'idle', input: { text: 'x'.repeat(1024 * 1024) } })
		expectProblem(await startText(body), 413, 'body-too-large')

		const app = createApp({ db: api.database, bodyLimitBytes: 100 })
		const stream = new ReadableStream({
			pull(controller) {
				controller.enqueue(new TextEncoder().encode(' '.repeat(60)))
			},
		})
		const response = await app.request('/runs', {
			method: 'POST',
			headers: { 'content-type': 'application/json' },
			body: stream,
			duplex: 'half',
		})
		expect(response.status).toBe(413)
		expect(await response.json()).toMatchObject({
			type: '/docs#body-too-large',
			detail: expect.stringContaining('100 bytes'),
		})
	})

	test.each([
		'text/plain',
		'application/x-www-form-urlencoded',
		'application/json; charset=latin1',
		'application/jsonish',
		'multipart/form-data; boundary=x',
	])('a body of the type %s', async (type) => {
		expectProblem(
			await api.post('/runs', { blueprint: 'idle' }, { 'content-type': type }),
			415,
			'unsupported-media-type',
		)
	})

	test('a compressed body', async () => {
		const answer = await api.post('/runs', { blueprint: 'idle' }, { 'content-encoding': 'gzip' })
		expectProblem(answer, 415, 'unsupported-media-type')
	})

	test.each([
		['an empty one', ''],
		['one that is too long', 'k'.repeat(257)],
		['one that is not ASCII', 'k\u00e9'],
	])('a bad Idempotency-Key: %s', async (_what, key) => {
		const answer = await api.post('/runs', { blueprint: 'idle' }, { 'idempotency-key': key })
		expectProblem(answer, 400, 'invalid-input')
		expect(faultPaths(answer)).toEqual(['header /Idempotency-Key'])
	})

	test.each([
		['/runs?status=running,nope', ['query /status']],
		['/runs?limit=0', ['query /limit']],
		['/runs?limit=201', ['query /limit']],
		['/runs?limit=ten', ['query /limit']],
		['/runs?limit=1&limit=2', ['query /limit']],
		['/runs?cursor=bm90IGEgY3Vyc29y', ['query /cursor']],
		['/runs?tag=%00', ['query /tag']],
		['/runs?stauts=running&limit=-1', ['query /limit', 'query /stauts']],
		['/runs/x?wait=soon', ['query /wait']],
		['/runs/x?wait=-1s', ['query /wait']],
		['/runs/x?wait=1h', ['query /wait']],
		['/runs/%00', ['path /id']],
		['/blueprints/idle?version=%00', ['query /version']],
	])('GET %s, which is told by its parameter', async (path, paths) => {
		const answer = await api.get(path)
		expectProblem(answer, 400, 'invalid-input')
		expect(faultPaths(answer).sort()).toEqual([...paths].sort())
	})

	test.each([
		['cancel', { reason: 7 }, ['body /reason']],
		['cancel', { reason: 'x\u0000' }, ['body /reason']],
		['cancel', { why: 'x' }, ['body /why']],
		['resume', { nodeId: '' }, ['body /nodeId']],
		['resume', { output: { deep: ['\u0000'] } }, ['body /output/deep/0']],
		['resume', { node: 'only' }, ['body /node']],
	])('%s with %j', async (verb, body, paths) => {
		const answer = await api.post(`/runs/${runId}/${verb}`, body)
		expectProblem(answer, 400, 'invalid-input')
		expect(faultPaths(answer)).toEqual(paths)
	})

	test('an invalid blueprint, every fault of which is listed', async () => {
		const answer = await api.put('/blueprints/broken', {
			id: 'broken',
			nodes: [
				{ id: 'a', uses: 'x', config: { fallback: 'gone' } },
				{ id: 'a', uses: 'x' },
				{ id: 'c', uses: 'subflow' },
			],
			edges: [
				{ source: 'a', target: 'gone' },
				{ source: 'lost', target: 'c' },
			],
		})
		expectProblem(answer, 400, 'invalid-input')
		expect(faultPaths(answer).sort()).toEqual([
			'body /edges/0/target',
			'body /edges/1/source',
			'body /nodes/0/config/fallback',
			'body /nodes/1/id',
			'body /nodes/2/params/blueprintId',
		])
	})

	test('a blueprint of the wrong shape, every fault of which is listed', async () => {
		const answer = await api.put('/blueprints/broken', {
			nodes: [{ id: 'a' }, { id: 'b\u0000', uses: 7, config: { maxRetries: -1 } }],
			edges: 'none',
		})
		expectProblem(answer, 400, 'invalid-input')
		expect(new Set(faultPaths(answer))).toEqual(
			new Set([
				'body /nodes/0/uses',
				'body /nodes/1/id',
				'body /nodes/1/uses',
				'body /nodes/1/config/maxRetries',
				'body /edges',
			]),
		)
	})

	test.each([
		['without nodes', { nodes: [] }, ['body /nodes']],
		['under another id than its path', { id: 'other', nodes: [{ id: 'a', uses: 'x' }] }, ['body /id']],
		[
			'with values that jsonb cannot hold',
			{ nodes: [{ id: 'a', uses: 'x', params: { p: '\u0000' } }] },
			['body /nodes/0/params/p'],
		],
	])('a blueprint %s', async (_what, body, paths) => {
		const answer = await api.put('/blueprints/broken', body)
		expectProblem(answer, 400, 'invalid-input')
		expect(faultPaths(answer)).toEqual(paths)
	})

	test('an unknown path, and a known one with another method', async () => {
		expectProblem(await api.get('/nothing/here'), 404, 'not-found')
		const answer = await api.send('DELETE', '/runs')
		expectProblem(answer, 405, 'method-not-allowed')
		expect(answer.headers.get('allow')).toBe('POST, GET')
		expect((await api.send('PATCH', `/runs/${runId}`)).headers.get('allow')).toBe('GET')
	})
})

test.each([
	'application/json;charset=utf-8',
	'application/json; charset="UTF-8"',
	'application/vnd.shop+json',
])('a body of the type %s is accepted', async (type) => {
	const answer = await api.post('/runs', { blueprint: 'idle' }, { 'content-type': type })
	expect(answer.status).toBe(202)
})

test('a depth that people write is accepted', async () => {
	const value = '['.repeat(MAX_DEPTH - 2) + ']'.repeat(MAX_DEPTH - 2)
	expect((await startText(`{"blueprint":"idle","input":{"a":${value}}}`)).status).toBe(202)
})

test('whatever body is sent, the answer is never a 5xx, and a problem if it is not a 202', async () => {
	const text = fc.string({ unit: 'binary', maxLength: 40 })
	const lone = fc.constantFrom(
		'\u0000',
		'\ud800',
		'\udc00x',
		'__proto__',
		'constructor',
		"'; drop table flowcraft_runs; --",
		'$1',
		'\\',
		'"',
	)
	const key = fc.oneof(text, lone)
	const value = fc.oneof(
		fc.jsonValue({ maxDepth: 4, stringUnit: 'binary' }),
		lone,
		fc.dictionary(key, fc.oneof(fc.jsonValue(), lone), { maxKeys: 5 }),
	)
	const body = fc.oneof(
		fc
			.record({
				blueprint: fc.constant('idle'),
				input: fc.dictionary(key, fc.jsonValue(), { maxKeys: 5 }),
			})
			.map((record) => JSON.stringify(record)),
		value.map((any) => JSON.stringify(any)),
		fc
			.record(
				{
					blueprint: fc.oneof(
						{ weight: 4, arbitrary: fc.constant('idle') },
						{ weight: 1, arbitrary: value },
					),
					input: fc.oneof(fc.dictionary(key, value, { maxKeys: 5 }), value),
					version: value,
					tags: fc.oneof(fc.array(text, { maxLength: 4 }), value),
					extra: value,
				},
				{ requiredKeys: ['blueprint'] },
			)
			.map((record) => JSON.stringify(record)),
		text,
	)
	const idempotencyKey = fc.option(
		fc.string({ maxLength: 20 }).map((any) => any.trim()),
		{ nil: undefined },
	)
	const app = createApp({ db: api.database })
	let accepted = 0
	await fc.assert(
		fc.asyncProperty(body, idempotencyKey, async (sent, sentKey) => {
			const answer = await ask(app, 'POST', '/runs', {
				body: sent,
				...(sentKey === undefined ? {} : { headers: { 'idempotency-key': sentKey } }),
			})
			if (answer.status === 202) {
				accepted += 1
				// What was accepted can be read back, as one valid document.
				const read = await ask(app, 'GET', `/runs/${answer.body.runId}`)
				expect(read.status).toBe(200)
			} else {
				expect([400, 404, 409]).toContain(answer.status)
				expect(answer.body.type).toMatch(/^\/docs#/)
			}
		}),
		{ numRuns: 500 },
	)
	expect(accepted).toBeGreaterThan(20)
})

import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createApp } from '../../functions/app.js'
import { PROBLEMS } from '../../functions/problem.js'
import { ask, startApi, type TestApi } from './api.js'
import { expectDeclared, faultsBy, type Operation, OPERATIONS } from './declared.js'

let api: TestApi
let document: any
beforeAll(async () => {
	api = await startApi()
	document = (await api.get('/openapi.json')).body
})
afterAll(() => api.stop())

interface Entry {
	path: string
	method: string
	operation: any
}
const operations = (): Entry[] =>
	Object.entries<any>(document.paths).flatMap(([path, methods]) =>
		Object.entries<any>(methods).map(([method, operation]) => ({ path, method, operation })),
	)

test('the committed document is the served one', () => {
	const committed = JSON.parse(
		readFileSync(new URL('../../functions/openapi.json', import.meta.url), 'utf8'),
	)
	expect(document, 'run: npx tsx functions/openapi.generate.ts').toEqual(committed)
})

test('operation ids are stable: clients are generated from them', () => {
	expect(
		Object.fromEntries(
			operations().map(({ path, method, operation }) => [
				`${method.toUpperCase()} ${path}`,
				operation.operationId,
			]),
		),
	).toEqual({
		'GET /dead-letters': 'listDeadLetters',
		'POST /dead-letters/{id}/discard': 'discardDeadLetter',
		'POST /dead-letters/{id}/replay': 'replayDeadLetter',
		'GET /runs/{id}/events': 'listRunEvents',
		'GET /runs/{id}/nodes': 'listRunNodes',
		'GET /runs/{id}/stream': 'streamRun',
		'POST /runs/{id}/pause': 'pauseRun',
		'POST /runs/{id}/retry': 'retryRun',
		'POST /runs/{id}/unpause': 'unpauseRun',
		'POST /runs': 'startRun',
		'GET /runs': 'listRuns',
		'GET /runs/{id}': 'getRun',
		'POST /runs/{id}/cancel': 'cancelRun',
		'POST /runs/{id}/resume': 'resumeRun',
		'POST /events/{name}': 'sendEvent',
		'POST /webhooks/{token}': 'receiveWebhook',
		'PUT /blueprints/{id}': 'putBlueprint',
		'GET /blueprints': 'listBlueprints',
		'GET /blueprints/{id}': 'getBlueprint',
		'GET /workers': 'listWorkers',
		'GET /healthz': 'getHealth',
		'GET /readyz': 'getReadiness',
		'GET /openapi.json': 'getOpenApi',
		'GET /docs': 'getDocs',
	})
})

test('every reference leads somewhere, and every path parameter is described', () => {
	const references = [...JSON.stringify(document).matchAll(/"\$ref":"#\/components\/schemas\/(\w+)"/g)].map(
		([, name]) => name,
	)
	expect(references.length).toBeGreaterThan(10)
	for (const name of references) expect(document.components.schemas).toHaveProperty(name ?? '')
	for (const { path, operation } of operations()) {
		const named = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name)
		const described = (operation.parameters ?? []).filter((parameter: any) => parameter.in === 'path')
		expect(described.map((parameter: any) => parameter.name)).toEqual(named)
	}
})

test('every error of an operation is listed, with an example', () => {
	const statusesOf = (id: string): string[] =>
		Object.keys(operations().find(({ operation }) => operation.operationId === id)?.operation.responses)
	expect(statusesOf('startRun')).toEqual([
		'202',
		'400',
		'401',
		'403',
		'404',
		'409',
		'413',
		'414',
		'415',
		'429',
		'431',
		'500',
		'503',
	])
	expect(statusesOf('getRun')).toEqual([
		'200',
		'400',
		'401',
		'403',
		'404',
		'414',
		'429',
		'431',
		'500',
		'503',
	])
	expect(statusesOf('listBlueprints')).toEqual(['200', '401', '403', '414', '429', '431', '500', '503'])
	expect(statusesOf('putBlueprint')).toEqual([
		'200',
		'201',
		'400',
		'401',
		'403',
		'409',
		'413',
		'414',
		'415',
		'429',
		'431',
		'500',
		'503',
	])
	expect(statusesOf('getReadiness')).toEqual(['200', '414', '431', '500', '503'])
	for (const { operation } of operations()) {
		for (const [status, response] of Object.entries<any>(operation.responses)) {
			if (Number(status) < 400) continue
			for (const example of Object.values<any>(response.content['application/problem+json'].examples))
				expect(example.value.status).toBe(Number(status))
		}
	}
})

describe.each(OPERATIONS)('$operation.operationId', ({ operation }) => {
	const media = (described: Operation['requestBody']): [string, unknown, object][] =>
		Object.entries(described?.content ?? {}).flatMap(([type, { schema, example, examples = {} }]) =>
			[example, ...Object.values(examples).map(({ value }) => value)]
				.filter((value) => value !== undefined)
				.map((value): [string, unknown, object] => [type, value, schema]),
		)

	test('has an example of each parameter, body and answer, and each is what its schema says', () => {
		for (const { name, schema } of operation.parameters ?? []) {
			const { example } = schema as { readonly example?: unknown }
			expect([name, example]).not.toEqual([name, undefined])
			expect([name, faultsBy(schema, example)]).toEqual([name, undefined])
		}
		for (const [where, described] of Object.entries({
			body: operation.requestBody,
			...operation.responses,
		})) {
			const examples = media(described)
			const types = [...new Set(examples.map(([type]) => type))]
			expect([where, types]).toEqual([where, Object.keys(described?.content ?? {})])
			for (const [type, value, schema] of examples)
				expect([where, type, faultsBy(schema, value)]).toEqual([where, type, undefined])
		}
	})

	test('declares its errors as problems, and those that every request can end with', () => {
		const statuses = Object.keys(operation.responses)
		expect(statuses).toEqual(expect.arrayContaining(['414', '431']))
		if (!['getHealth', 'getReadiness'].includes(operation.operationId))
			expect(statuses).toEqual(expect.arrayContaining(['429', '503']))
		for (const [status, { content }] of Object.entries(operation.responses))
			if (Number(status) >= 400)
				expect(Object.keys(content ?? {})).toEqual(['application/problem+json'])
	})
})

test('an answer that is not declared would be noticed', () => {
	const headers = new Headers({ 'content-type': 'application/json' })
	const expectation = (status: number, body: unknown) => () =>
		expectDeclared('GET', '/runs/x?wait=1s', { status, headers, body })
	expect(expectation(418, {})).toThrow('GET /runs/{id} answered 418, which openapi.json does not declare')
	expect(expectation(200, { runId: 7 })).toThrow('is not what openapi.json declares')
	expect(expectation(404, {})).toThrow('with application/json, which')
})

test('examples of requests are accepted as they stand', async () => {
	const exampleOf = (path: string, method: string): unknown =>
		document.paths[path][method].requestBody.content['application/json'].example
	const definition = exampleOf('/blueprints/{id}', 'put')
	expect((await api.put('/blueprints/content-moderation', definition)).status).toBe(201)
	const started = await api.post('/runs', exampleOf('/runs', 'post'))
	expect(started.status).toBe(202)
	// Nothing waits, but the body is in order.
	expect(
		(await api.post(`/runs/${started.body.runId}/resume`, exampleOf('/runs/{id}/resume', 'post'))).status,
	).toBe(409)
	// Nothing has failed, but the body is in order.
	expect(
		(await api.post(`/runs/${started.body.runId}/retry`, exampleOf('/runs/{id}/retry', 'post'))).status,
	).toBe(409)
	expect(
		(await api.post(`/runs/${started.body.runId}/cancel`, exampleOf('/runs/{id}/cancel', 'post'))).status,
	).toBe(200)
})

test('fields of answers are those of the document', async () => {
	const { body: started } = await api.post('/runs', { blueprint: 'idle', tags: ['x'] })
	await api.post(`/runs/${started.runId}/cancel`)
	const fields = (name: string): string[] => Object.keys(document.components.schemas[name].properties)
	const expectFields = (name: string, value: object): void => {
		expect(fields(name)).toEqual(expect.arrayContaining(Object.keys(value)))
		expect(Object.keys(value)).toEqual(expect.arrayContaining(document.components.schemas[name].required))
	}
	expectFields('Run', (await api.get(`/runs/${started.runId}`)).body)
	expectFields('RunSummary', (await api.get('/runs')).body.runs[0])
	expectFields('NodeRun', (await api.get(`/runs/${started.runId}/nodes`)).body.nodes[0])
	expectFields('RunEvent', (await api.get(`/runs/${started.runId}/events`)).body.events[0])
	expectFields('RunState', started)
	expectFields('Blueprint', (await api.get('/blueprints/idle')).body)
	expectFields('BlueprintSummary', (await api.get('/blueprints')).body.blueprints[0])
	expectFields('Problem', (await api.get('/runs/missing')).body)
})

test('the document names where the app is reached, if that is known', async () => {
	const app = createApp({ db: api.database, publicUrl: 'https://flows.example.com' })
	expect((await ask(app, 'GET', '/openapi.json')).body.servers).toEqual([
		{ url: 'https://flows.example.com' },
	])
	expect(document.servers).toEqual([{ url: '/' }])
})

describe('/docs', () => {
	let page: string
	let policy: string | null
	beforeAll(async () => {
		const answer = await api.get('/docs')
		expect(answer.headers.get('content-type')).toBe('text/html; charset=utf-8')
		page = answer.text
		policy = answer.headers.get('content-security-policy')
	})

	test('shows every operation, schema and problem', () => {
		for (const { operation } of operations()) expect(page).toContain(`id="${operation.operationId}"`)
		for (const name of Object.keys(document.components.schemas))
			expect(page).toContain(`id="schema-${name}"`)
		for (const code of Object.keys(PROBLEMS)) expect(page).toContain(`id="${code}"`)
	})

	test('shows of each operation what it takes, what it answers and how it can fail', () => {
		for (const { path, method, operation } of operations()) {
			const [, article = ''] =
				new RegExp(`<article id="${operation.operationId}">(.*?)</article>`, 's').exec(page) ?? []
			for (const { name } of operation.parameters ?? [])
				expect(article).toContain(`<code>${name}</code>`)
			expect(article).toContain(`curl${operation.operationId === 'streamRun' ? ' -N' : ''}`)
			if (method !== 'get') expect(article).toContain(`-X ${method.toUpperCase()}`)
			expect(article).not.toMatch(/undefined|\$URL[^&]*\{/)
			expect(article).toContain(path)
			for (const [status, { content = {} }] of Object.entries<any>(operation.responses)) {
				const problems = Object.keys(content['application/problem+json']?.examples ?? {})
				for (const code of problems)
					expect(article).toContain(`<a href="#${code}">${status} ${code}</a>`)
				if (problems.length === 0) expect(article).toContain(`<strong>${status}</strong>`)
			}
		}
		// As it is sent, not as a text in quotes.
		expect(page).toContain('<pre>id: 1\ndata: {&quot;type&quot;:&quot;workflow:start&quot;')
	})

	test('links lead to places that are there, and to nothing outside', () => {
		const ids = new Set([...page.matchAll(/ id="([^"]+)"/g)].map(([, id]) => id))
		const targets = [...page.matchAll(/href="([^"]+)"/g)].map(([, target]) => target ?? '')
		expect(targets.filter((target) => target !== 'openapi.json' && !ids.has(target.slice(1)))).toEqual([])
	})

	test('needs no network and runs no script', () => {
		expect(page).not.toMatch(/<script|<link|<img|@import|url\(|\son\w+=/)
		expect(policy).toContain("default-src 'none'")
	})
})

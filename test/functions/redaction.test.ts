/** What the history of a run shows of secrets, and what it does not; the result of a run belongs to whoever reads it. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createApp } from '../../functions/app.js'
import { createJsonLogger } from '../../functions/logger.js'
import { REDACTED } from '../../src/redaction.js'
import { startEngine, type TestEngine } from '../support/engine.js'
import { ask } from './api.js'

let engine: TestEngine
let app: ReturnType<typeof createApp>
let runId: string
let failedId: string

beforeAll(async () => {
	engine = await startEngine({
		workflows: {
			blueprints: {
				login: {
					id: 'login',
					nodes: [
						{ id: 'log-in', uses: 'login' },
						{ id: 'hook', uses: 'webhook' },
					],
					edges: [{ source: 'log-in', target: 'hook' }],
				},
				failing: { id: 'failing', nodes: [{ id: 'fails', uses: 'fail' }], edges: [] },
			},
			registry: {
				login: async () => ({
					output: { user: 'ada', password: 'hunter2', session: { Access_Token: ['hunter2'] } },
				}),
				fail: async () => {
					throw new Error('401 for postgres://ada:hunter2@db with password=hunter2', {
						cause: new Error('authorization: Bearer hunter2'),
					})
				},
			},
		},
	})
	app = createApp({ db: engine.database })
	runId = (await engine.run({ blueprint: 'login', input: { token: 'hunter2' } })).runId
	failedId = (await engine.run({ blueprint: 'failing' })).runId
})
afterAll(() => engine?.stop())

test('outputs in the history have no values under these names, and no token of a webhook', async () => {
	const { text, body } = await ask(app, 'GET', `/runs/${runId}/nodes?include=output`)
	expect(text).not.toContain('hunter2')
	expect(body.nodes.find((node: { nodeId: string }) => node.nodeId === 'log-in').output).toEqual({
		user: 'ada',
		password: REDACTED,
		session: { Access_Token: REDACTED },
	})
	const hook = body.nodes.find((node: { nodeId: string }) => node.nodeId === 'hook').output
	expect(hook.url).toBe(`http://127.0.0.1:3000/webhooks/${REDACTED}`)
})

test('errors in the history have none either, in nodes and in events', async () => {
	for (const path of ['nodes', 'events']) {
		const { text } = await ask(app, 'GET', `/runs/${failedId}/${path}`)
		expect(text).toContain('401 for postgres://ada')
		expect(text).not.toContain('hunter2')
	}
})

test('the result of a run is what its nodes have made', async () => {
	const { body } = await ask(app, 'GET', `/runs/${runId}`)
	expect(body.result.context).toMatchObject({
		token: 'hunter2',
		'_outputs.log-in': { user: 'ada', password: 'hunter2' },
	})
	const failed = await ask(app, 'GET', `/runs/${failedId}`)
	expect(failed.body.errors[0].message).toContain('password=hunter2')
})

test('an operator names other names, or none', async () => {
	const outputOf = async (redactKeys: string[]): Promise<unknown> =>
		(
			await ask(
				createApp({ db: engine.database, redactKeys }),
				'GET',
				`/runs/${runId}/nodes?include=output`,
			)
		).body.nodes[1].output
	expect(await outputOf(['user'])).toMatchObject({ user: REDACTED, password: 'hunter2' })
	expect(await outputOf([])).toMatchObject({ user: 'ada', password: 'hunter2' })
})

test('a log has none, in fields, in errors and in what caused them', () => {
	const lines: string[] = []
	const logger = createJsonLogger('test', 'info', (line) => void lines.push(line))
	logger.error('It failed for amqp://ada:hunter2@rabbit', {
		runId: 'run-1',
		password: 'hunter2',
		error: Object.assign(new Error('x', { cause: new Error('token: hunter2') }), {
			input: 'redis://:hunter2@redis',
			code: 'ERR_INVALID_URL',
		}),
	})
	expect(lines).toHaveLength(1)
	expect(lines[0]).not.toContain('hunter2')
	expect(JSON.parse(lines[0] ?? '')).toMatchObject({
		level: 50,
		name: 'test',
		runId: 'run-1',
		password: REDACTED,
		error: { type: 'Error', message: 'x', code: 'ERR_INVALID_URL' },
	})
})

/** Webhook nodes and the waits that are paired with them. */
import type { NodeDefinition, WorkflowBlueprint } from 'flowcraft'
import { setTimeout as delay } from 'node:timers/promises'
import { afterEach, describe, expect, test } from 'vitest'
import { GoneError, NotFoundError } from '../../src/errors.js'
import type { Logger } from '../../src/ports/logger.js'
import { cancelRun } from '../../src/run/cancel.js'
import { readRun } from '../../src/run/read.js'
import { receiveWebhook, sharedWebhookSecret } from '../../src/run/webhooks.js'
import type { WorkflowsModule } from '../../worker/execution/workflows.js'
import { createWebhookUrls } from '../../worker/execution/webhook.js'
import { startEngine, type TestEngine, type TestEngineOptions } from '../support/engine.js'
import { waitFor } from '../support/wait-for.js'

let engine: TestEngine
afterEach(() => engine.stop())

/** `hook` gives out a URL, `send` gets it, `answer` waits for the request. */
function withWebhook(answer: Partial<NodeDefinition>, hook: Record<string, unknown> = {}): WorkflowBlueprint {
	return {
		id: 'hooked',
		nodes: [
			{ id: 'hook', uses: 'webhook', params: hook },
			{ id: 'send', uses: 'send' },
			{ id: 'answer', uses: 'wait', ...answer },
			{ id: 'after', uses: 'echo' },
		],
		edges: [
			{ source: 'hook', target: 'send' },
			{ source: 'send', target: 'answer' },
			{ source: 'answer', target: 'after' },
		],
	}
}

interface Sent {
	readonly url: string
	readonly event: string
}

/** What `send` was given, in order. */
let sent: Sent[] = []

async function begin(
	blueprints: WorkflowBlueprint | readonly WorkflowBlueprint[],
	options: TestEngineOptions & { registry?: WorkflowsModule['registry'] } = {},
): Promise<void> {
	sent = []
	const all = [blueprints].flat() as readonly WorkflowBlueprint[]
	engine = await startEngine({
		...options,
		workflows: {
			blueprints: Object.fromEntries(all.map((blueprint) => [blueprint.id, blueprint])),
			registry: {
				echo: async ({ input }) => ({ output: input }),
				send: async ({ input }) => {
					sent.push(input as Sent)
					return { output: 'sent' }
				},
				...options.registry,
			},
		},
	})
}

const tokenOf = ({ url }: Sent): string => url.slice(url.lastIndexOf('/') + 1)
const call = (given: Sent, text = 'hello', json?: unknown) =>
	receiveWebhook(engine.database.sql, tokenOf(given), {
		text,
		headers: { 'x-from': 'shop' },
		...(json === undefined ? {} : { json }),
	})

async function startAwaiting(blueprint = 'hooked'): Promise<{ runId: string; given: Sent }> {
	const runId = await engine.start({ blueprint })
	await waitFor(
		'the run to wait',
		async () => (await readRun(engine.database.sql, runId))?.status === 'awaiting',
	)
	return { runId, given: sent.at(-1) as Sent }
}

const hooks = () =>
	engine.rows<{ hash: string; used: boolean; days: number }>(
		'select hash, used_at is not null as used, round(extract(epoch from expires_at - created_at) / 86400)::int as days from flowcraft_webhooks',
	)

describe('a webhook node', () => {
	test('ends at once with a URL that later nodes can send, and the event of its request', async () => {
		await begin(withWebhook({ params: { webhookNodeId: 'hook' } }), {
			worker: { publicUrl: 'https://flows.example.com/base/' },
		})
		const { runId, given } = await startAwaiting()
		expect(given.url).toMatch(/^https:\/\/flows\.example\.com\/base\/webhooks\/[\w-]{43}$/)
		expect(given.event).toMatch(/^webhook:[0-9a-f]{64}$/)
		expect((await readRun(engine.database.sql, runId))?.awaiting).toEqual([
			{ nodeId: 'answer', reason: 'external_event', eventName: given.event },
		])
		expect(await hooks()).toEqual([{ hash: given.event.slice('webhook:'.length), used: false, days: 7 }])
	})

	test('stores and logs no token but in its own output', async () => {
		const lines: string[] = []
		const log = (message: string, fields?: object): void =>
			void lines.push(`${message} ${JSON.stringify(fields)}`)
		const logger: Logger = { debug: log, info: log, warn: log, error: log }
		await begin(withWebhook({ params: { webhookNodeId: 'hook' } }), { logger })
		const { runId, given } = await startAwaiting()
		await call(given)
		await engine.end(runId)
		const token = tokenOf(given)
		const tables = await engine.rows<{ name: string }>(
			"select tablename as name from pg_tables where schemaname = 'public' and tablename <> 'flowcraft_nodes'",
		)
		expect(tables.length).toBeGreaterThan(10)
		for (const { name } of tables) {
			expect([
				name,
				await engine.rows(`select t::text from ${name} t where strpos(t::text, $1) > 0`, token),
			]).toEqual([name, []])
		}
		expect(
			await engine.rows('select node_id from flowcraft_nodes n where strpos(n::text, $1) > 0', token),
		).toEqual([{ node_id: 'hook' }])
		expect(lines.join('\n')).not.toContain(token)
	})

	test('gives every run, node and iteration a URL of its own, in every process the same', async () => {
		await begin(withWebhook({ params: { webhookNodeId: 'hook' } }))
		await startAwaiting()
		await startAwaiting()
		expect(new Set(sent.map(({ url }) => url)).size).toBe(2)
		const sql = engine.database.sql
		const secrets = await Promise.all(Array.from({ length: 10 }, () => sharedWebhookSecret(sql)))
		expect(new Set(secrets).size).toBe(1)
		const claimed = {
			key: { runId: 'r', nodeId: 'n', generation: '', recovers: '' },
			attempt: 1,
		} as Parameters<ReturnType<typeof createWebhookUrls>['derive']>[0]
		const derive = (options: object, other: object = {}) =>
			createWebhookUrls(sql, options).derive({ ...claimed, ...other })
		expect(await derive({})).toEqual(await derive({}))
		const all = await Promise.all([
			derive({}),
			derive({ webhookSecret: 'x'.repeat(32) }),
			derive({}, { attempt: 2 }),
			derive({}, { key: { ...claimed.key, generation: '0' } }),
			derive({}, { key: { ...claimed.key, nodeId: 'm' } }),
		])
		expect(new Set(all.map(({ hash }) => hash)).size).toBe(all.length)
	})

	test('with an expiry that is none fails at once', async () => {
		await begin(withWebhook({}, { expiresIn: 'soon' }))
		const run = await engine.run({ blueprint: 'hooked' })
		expect(run.errors).toMatchObject([
			{ nodeId: 'hook', message: expect.stringMatching(/invalid expiresIn "soon"/) },
		])
		expect(await hooks()).toEqual([])
	})
})

describe('a request', () => {
	test.each<[string, Partial<NodeDefinition>]>([
		['webhookNodeId', { params: { webhookNodeId: 'hook' } }],
		['the event name that Flowcraft’s compiler writes', { params: { eventName: 'webhook:hook' } }],
		['the webhook node’s output as its input', { inputs: 'hook' }],
	])('reaches the wait that names its webhook by %s', async (_, answer) => {
		await begin(withWebhook(answer))
		const { runId, given } = await startAwaiting()
		expect((await call(given, '{"paid":true}', { paid: true })).woken).toEqual([
			{ runId, nodeId: 'answer' },
		])
		const request = { json: { paid: true }, text: '{"paid":true}', headers: { 'x-from': 'shop' } }
		expect((await engine.end(runId)).context).toMatchObject({
			'_outputs.answer': request,
			'_outputs.after': request,
		})
	})

	test('is taken once: the second one is refused and changes nothing', async () => {
		await begin(withWebhook({ params: { webhookNodeId: 'hook' } }))
		const { runId, given } = await startAwaiting()
		const answers = await Promise.allSettled(
			Array.from({ length: 8 }, (_, i) => call(given, `request ${i}`)),
		)
		expect(answers.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
		for (const answer of answers)
			if (answer.status === 'rejected') expect(answer.reason).toBeInstanceOf(GoneError)
		expect((await engine.end(runId)).status).toBe('completed')
		await expect(call(given)).rejects.toThrow('This webhook was used before')
		expect(await engine.rows('select id from flowcraft_kept_events')).toEqual([])
	})

	test('that comes before its wait is kept for it', async () => {
		await begin(withWebhook({ params: { webhookNodeId: 'hook' } }), {
			registry: {
				send: async ({ input }) => {
					expect((await call(input as Sent, 'early')).woken).toEqual([])
					return { output: 'sent' }
				},
			},
		})
		const run = await engine.run({ blueprint: 'hooked' })
		expect(run.context).toMatchObject({
			'_outputs.answer': { text: 'early', headers: { 'x-from': 'shop' } },
		})
		await expect(engine.rows('select id from flowcraft_kept_events')).resolves.toEqual([])
	})

	test('and its wait at the same moment meet, fifty times, whichever comes first', async () => {
		const calls: Promise<unknown>[] = []
		await begin(withWebhook({ params: { webhookNodeId: 'hook' } }), {
			registry: {
				send: async ({ input }) => {
					calls.push(delay(Math.random() * 60).then(() => call(input as Sent)))
					return { output: 'sent' }
				},
			},
		})
		const runIds = await Promise.all(
			Array.from({ length: 50 }, async () => {
				await delay(Math.random() * 200)
				return engine.start({ blueprint: 'hooked' })
			}),
		)
		for (const runId of runIds) expect((await engine.end(runId)).status).toBe('completed')
		await Promise.all(calls)
		expect(await engine.rows('select id from flowcraft_kept_events')).toEqual([])
	})

	test('to an expired or an unknown webhook is refused and changes nothing', async () => {
		await begin(withWebhook({ params: { webhookNodeId: 'hook' } }, { expiresIn: 0 }))
		const { runId, given } = await startAwaiting()
		await expect(call(given)).rejects.toThrow(new GoneError('This webhook has expired.'))
		for (const token of [
			'',
			'x',
			'A'.repeat(43),
			`${tokenOf(given)}x`,
			`${tokenOf(given).slice(0, -2)}\u0000x`,
		]) {
			await expect(
				receiveWebhook(engine.database.sql, token, { text: '', headers: {} }),
			).rejects.toThrow(NotFoundError)
		}
		expect((await readRun(engine.database.sql, runId))?.status).toBe('awaiting')
		expect(await hooks()).toMatchObject([{ used: false }])
	})

	test('of each turn of a loop reaches the wait of that turn', async () => {
		await begin(
			{
				id: 'hooked',
				nodes: [
					{ id: 'hook', uses: 'webhook' },
					{ id: 'send', uses: 'send', inputs: 'hook' },
					{ id: 'answer', uses: 'wait', params: { webhookNodeId: 'hook' } },
					{ id: 'count', uses: 'count' },
					{ id: 'loop', uses: 'loop-controller', params: { condition: 'more' } },
				],
				edges: [
					{ source: 'hook', target: 'send' },
					{ source: 'send', target: 'answer' },
					{ source: 'answer', target: 'count' },
					{ source: 'count', target: 'loop' },
					{ source: 'loop', target: 'hook', action: 'continue' },
				],
				metadata: { cycleEntryPoints: ['hook'] },
			},
			{
				registry: {
					count: async ({ context, input }) => {
						const texts = [
							...(((await context.get('texts')) as string[] | undefined) ?? []),
							(input as { text: string }).text,
						]
						await context.set('texts', texts)
						await context.set('more', texts.length < 3)
						return {}
					},
				},
			},
		)
		const runId = await engine.start({ blueprint: 'hooked' })
		for (let turn = 1; turn <= 3; turn++) {
			await waitFor(`turn ${turn}`, () => sent.length === turn)
			await call(sent[turn - 1] as Sent, `turn ${turn}`)
		}
		expect((await engine.end(runId)).context).toMatchObject({ texts: ['turn 1', 'turn 2', 'turn 3'] })
	})

	test('reaches a wait in a child run that was handed the webhook', async () => {
		const child: WorkflowBlueprint = {
			id: 'child',
			nodes: [{ id: 'answer', uses: 'wait', inputs: 'given' }],
			edges: [],
		}
		await begin([
			child,
			{
				id: 'hooked',
				nodes: [
					{ id: 'hook', uses: 'webhook' },
					{ id: 'send', uses: 'send' },
					{
						id: 'sub',
						uses: 'subflow',
						params: { blueprintId: 'child', inputs: { given: 'hook' } },
					},
				],
				edges: [
					{ source: 'hook', target: 'send' },
					{ source: 'send', target: 'sub' },
				],
			},
		])
		const { runId, given } = await startAwaiting()
		await call(given, 'for the child')
		const run = await engine.end(runId)
		expect(run).toMatchObject({
			status: 'completed',
			context: { '_outputs.sub': { text: 'for the child' } },
		})
	})

	test('that does not come in time fails the wait; one that comes later is too late', async () => {
		await begin(withWebhook({ params: { webhookNodeId: 'hook', timeout: 50 } }))
		const run = await engine.run({ blueprint: 'hooked' })
		expect(run.errors).toMatchObject([{ nodeId: 'answer', name: 'NodeWaitTimeoutError' }])
		await expect(call(sent[0] as Sent)).rejects.toThrow('The run that gave out this webhook has ended')
		expect((await readRun(engine.database.sql, run.runId))?.status).toBe('failed')
	})

	test('is refused when its run has ended, and is not used up by that', async () => {
		await begin(withWebhook({ params: { webhookNodeId: 'hook' } }))
		const { runId, given } = await startAwaiting()
		await cancelRun(engine.database.sql, runId)
		for (let time = 1; time <= 2; time++)
			await expect(call(given)).rejects.toThrow(
				new GoneError('The run that gave out this webhook has ended: nobody waits for it any more.'),
			)
		expect(await hooks()).toMatchObject([{ used: false }])
		expect(await engine.rows('select id from flowcraft_kept_events')).toEqual([])
	})

	test('that a child run gave out reaches the parent that waits for it, although the child has ended', async () => {
		await begin([
			{ id: 'child', nodes: [{ id: 'hook', uses: 'webhook' }], edges: [] },
			{
				id: 'hooked',
				nodes: [
					{ id: 'sub', uses: 'subflow', params: { blueprintId: 'child' } },
					{ id: 'send', uses: 'send', inputs: 'sub' },
					{ id: 'answer', uses: 'wait', inputs: 'sub' },
				],
				edges: [
					{ source: 'sub', target: 'send' },
					{ source: 'send', target: 'answer' },
				],
			},
		])
		const { runId, given } = await startAwaiting()
		await call(given, 'for the parent')
		expect((await engine.end(runId)).context).toMatchObject({
			'_outputs.answer': { text: 'for the parent' },
		})
	})
})

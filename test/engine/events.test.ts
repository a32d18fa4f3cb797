/** Waits that end by an event, by a resume or by their timeout, whatever comes first. */
import type { NodeDefinition, WorkflowBlueprint } from 'flowcraft'
import { setTimeout as delay } from 'node:timers/promises'
import { afterEach, describe, expect, test } from 'vitest'
import { cancelRun } from '../../src/run/cancel.js'
import { sendEvent } from '../../src/run/events.js'
import { readRun } from '../../src/run/read.js'
import { resumeRun } from '../../src/run/resume.js'
import type { WorkflowsModule } from '../../worker/execution/workflows.js'
import { startEngine, type TestEngine } from '../support/engine.js'
import { waitFor } from '../support/wait-for.js'

let engine: TestEngine
afterEach(() => engine.stop())

/** `w` waits, `after` gets what ended the wait. */
function waiting(
	params: Record<string, unknown>,
	rest: Partial<NodeDefinition> = {},
	id = 'waiting',
): WorkflowBlueprint {
	return {
		id,
		nodes: [
			{ id: 'w', uses: 'wait', params, ...rest },
			{ id: 'after', uses: 'echo' },
		],
		edges: [{ source: 'w', target: 'after' }],
	}
}

async function begin(
	blueprints: readonly WorkflowBlueprint[],
	registry: WorkflowsModule['registry'] = {},
): Promise<void> {
	engine = await startEngine({
		workflows: {
			blueprints: Object.fromEntries(blueprints.map((blueprint) => [blueprint.id, blueprint])),
			registry: {
				echo: async ({ input }) => ({ output: input }),
				rescue: async () => ({ output: 'rescued' }),
				...registry,
			},
		},
	})
}

const send = (name: string, payload?: unknown, key?: string): ReturnType<typeof sendEvent> =>
	sendEvent(engine.database.sql, { name, payload, ...(key === undefined ? {} : { key }) })

const awaitingOf = async (runId: string) => (await readRun(engine.database.sql, runId))?.awaiting

/** Starts a run and waits until it waits. */
async function startAwaiting(blueprint = 'waiting', input: Record<string, unknown> = {}): Promise<string> {
	const runId = await engine.start({ blueprint, input })
	await waitFor(
		'the run to wait',
		async () => (await readRun(engine.database.sql, runId))?.status === 'awaiting',
	)
	return runId
}

const timersOf = async (runId: string): Promise<number> =>
	(await engine.rows('select id from flowcraft_outbox where run_id = $1', runId)).length

describe('a timeout', () => {
	test('fails the node, which tells what it waited for and how long', async () => {
		await begin([waiting({ timeout: 60 }), waiting({ timeout: 60, eventName: 'paid' }, {}, 'event')])
		const plain = await engine.run({ blueprint: 'waiting' })
		expect(plain).toMatchObject({
			status: 'failed',
			errors: [
				{
					nodeId: 'w',
					name: 'NodeWaitTimeoutError',
					message: "Nobody resumed node 'w' within 60 ms",
					attempt: 1,
				},
			],
		})
		const event = await engine.run({ blueprint: 'event' })
		expect(event.errors?.[0]?.message).toBe(
			"Event 'paid', which node 'w' waits for, did not come within 60 ms",
		)
	})

	test('is a failure like any other: it is retried, waits anew, then the fallback runs', async () => {
		const blueprint = waiting(
			{ timeout: '0s' },
			{ config: { maxRetries: 2, retryDelay: 1, fallback: 'plan-b' } },
		)
		await begin([{ ...blueprint, nodes: [...blueprint.nodes, { id: 'plan-b', uses: 'rescue' }] }])
		const run = await engine.run({ blueprint: 'waiting' })
		expect(run).toMatchObject({
			status: 'completed',
			context: { '_outputs.plan-b': 'rescued', '_outputs.after': 'rescued' },
		})
		const attempts = await engine.rows(
			'select attempt from flowcraft_attempts where run_id = $1',
			run.runId,
		)
		expect(attempts).toEqual([{ attempt: 1 }])
	})

	test('is shown as wakeUpAt, and goes with a resume', async () => {
		await begin([waiting({ timeout: '5m' })])
		const runId = await startAwaiting()
		const [wait] = (await awaitingOf(runId)) ?? []
		expect(wait).toMatchObject({ nodeId: 'w', reason: 'external_event' })
		const inMs = Date.parse(wait?.wakeUpAt ?? '') - Date.now()
		expect(inMs).toBeGreaterThan(4 * 60_000)
		expect(inMs).toBeLessThan(6 * 60_000)
		await resumeRun(engine.database.sql, runId, { output: 'in time' })
		expect((await engine.end(runId)).context).toMatchObject({ '_outputs.after': 'in time' })
		expect(await timersOf(runId)).toBe(0)
	})

	test('that is none fails the node at once', async () => {
		const invalid = ['tomorrow', -1, '999999999d', null]
		await begin(
			invalid.map((timeout, i) => waiting({ timeout }, { config: { maxRetries: 3 } }, `invalid-${i}`)),
		)
		for (const [i, timeout] of invalid.entries()) {
			const run = await engine.run({ blueprint: `invalid-${i}` })
			const message = `Wait node 'w' has the invalid timeout ${JSON.stringify(timeout)}: expected milliseconds, or text like '5m', '10s', '1h', '2d'`
			expect(run.errors).toMatchObject([{ isFatal: true, attempt: 1, message }])
		}
	})
})

describe('an event', () => {
	test('ends every wait for it, in all runs, with its payload as their output', async () => {
		const both: WorkflowBlueprint = {
			id: 'both',
			nodes: ['a', 'b'].map((id) => ({ id, uses: 'wait', params: { eventName: 'paid' } })),
			edges: [],
		}
		await begin([waiting({ eventName: 'paid' }), both, waiting({ eventName: 'other' }, {}, 'other')])
		const first = await startAwaiting('waiting')
		const second = await startAwaiting('both')
		const other = await startAwaiting('other')
		expect(await awaitingOf(first)).toEqual([
			{ nodeId: 'w', reason: 'external_event', eventName: 'paid' },
		])

		const { woken, kept } = await send('paid', { amount: 3 })
		expect(kept).toBe(false)
		expect(woken.map(({ runId, nodeId }) => `${runId} ${nodeId}`).sort()).toEqual(
			[`${first} w`, `${second} a`, `${second} b`].sort(),
		)
		expect((await engine.end(first)).context).toMatchObject({
			'_outputs.w': { amount: 3 },
			'_outputs.after': { amount: 3 },
		})
		expect((await engine.end(second)).context).toMatchObject({
			'_outputs.a': { amount: 3 },
			'_outputs.b': { amount: 3 },
		})
		expect((await readRun(engine.database.sql, other))?.status).toBe('awaiting')
	})

	test('removes the timers of the waits that it ends', async () => {
		await begin([waiting({ eventName: 'paid', timeout: '1h' })])
		const runId = await startAwaiting()
		expect(await timersOf(runId)).toBe(1)
		await send('paid')
		expect((await engine.end(runId)).status).toBe('completed')
		expect(await timersOf(runId)).toBe(0)
	})

	test('with a key ends waits with that key and waits without one; an event without a key only the latter', async () => {
		await begin([
			waiting({ eventName: 'paid', correlationKey: 'order-1' }, {}, 'literal'),
			waiting({ eventName: 'paid', correlationKeyFrom: 'order.id' }, {}, 'from'),
			waiting({ eventName: 'paid' }, {}, 'any'),
		])
		const literal = await startAwaiting('literal')
		const seven = await startAwaiting('from', { order: { id: 7 } })
		const any = await startAwaiting('any')
		expect((await awaitingOf(seven))?.[0]).toMatchObject({ eventName: 'paid', correlationKey: '7' })

		expect((await send('paid', 'no key')).woken).toEqual([{ runId: any, nodeId: 'w' }])
		expect(await send('paid', 'nobody', 'order-2')).toEqual({ woken: [], kept: true })
		expect((await send('paid', 'seven', '7')).woken).toEqual([{ runId: seven, nodeId: 'w' }])
		expect((await send('paid', 'one', 'order-1')).woken).toEqual([{ runId: literal, nodeId: 'w' }])
		expect((await engine.end(literal)).context).toMatchObject({ '_outputs.after': 'one' })
		// It takes every key: the one that was kept for nobody as well.
		expect((await engine.run({ blueprint: 'any' })).context).toMatchObject({ '_outputs.after': 'nobody' })
	})

	test('that nobody waits for is kept, and ends one later wait, the oldest first', async () => {
		await begin([waiting({ eventName: 'paid', timeout: '1h' })])
		expect(await send('paid', 1)).toEqual({ woken: [], kept: true })
		expect(await send('paid', 2)).toEqual({ woken: [], kept: true })
		const first = await engine.run({ blueprint: 'waiting' })
		const second = await engine.run({ blueprint: 'waiting' })
		expect([first.context['_outputs.after'], second.context['_outputs.after']]).toEqual([1, 2])
		const transitions = await engine.rows(
			'select status from flowcraft_transitions where run_id = $1',
			first.runId,
		)
		expect(transitions.map(({ status }) => status)).not.toContain('awaiting')
		const third = await startAwaiting()
		expect(await timersOf(third)).toBe(1)
		expect(await engine.rows('select id from flowcraft_kept_events')).toEqual([])
	})

	test('is not kept longer than asked for', async () => {
		await begin([waiting({ eventName: 'paid' })])
		expect(await sendEvent(engine.database.sql, { name: 'paid' }, { keepMs: 0 })).toEqual({
			woken: [],
			kept: false,
		})
		expect((await send('paid')).kept).toBe(true)
		await engine.rows('update flowcraft_kept_events set expires_at = clock_timestamp()')
		await startAwaiting()
		await engine.rows('select flowcraft_sweep_expired(60000)')
		expect(await engine.rows('select id from flowcraft_kept_events')).toEqual([])
	})

	test('finds no wait of a cancelled run, nor one that a resume has ended', async () => {
		await begin([waiting({ eventName: 'paid' })])
		const cancelled = await startAwaiting()
		const resumed = await startAwaiting()
		await cancelRun(engine.database.sql, cancelled)
		await resumeRun(engine.database.sql, resumed)
		expect(await send('paid')).toEqual({ woken: [], kept: true })
	})

	test('ends a wait in a child run: the parent waits with it and goes on with it', async () => {
		const parent: WorkflowBlueprint = {
			id: 'parent',
			nodes: [{ id: 'sub', uses: 'subflow', params: { blueprintId: 'waiting' } }],
			edges: [],
		}
		await begin([waiting({ eventName: 'paid' }), parent])
		const runId = await startAwaiting('parent')
		const { woken } = await send('paid', 'by the child')
		expect(woken).toMatchObject([{ nodeId: 'w' }])
		expect(woken[0]?.runId).not.toBe(runId)
		const run = await engine.end(runId)
		expect(run).toMatchObject({ status: 'completed', context: { '_outputs.sub': 'by the child' } })
	})

	test('ends the wait of a node of a user’s own that asked for it', async () => {
		await begin([{ id: 'own', nodes: [{ id: 'n', uses: 'asks' }], edges: [] }], {
			asks: async ({ dependencies }) => {
				await dependencies.workflowState.markAsAwaiting('n', { eventName: 'paid', correlationKey: 7 })
				return { output: 'without payload' }
			},
		})
		const first = await startAwaiting('own')
		await send('paid', undefined, '7')
		expect((await engine.end(first)).context).toMatchObject({ '_outputs.n': 'without payload' })
	})

	test('cannot be waited for under an impossible name or key: the node fails at once', async () => {
		const cases: [string, Record<string, unknown>, RegExp][] = [
			['a name that is not text', { eventName: 7 }, /invalid eventName 7/],
			['an empty name', { eventName: '' }, /its name must not be empty/],
			[
				'two keys',
				{ eventName: 'e', correlationKey: 'a', correlationKeyFrom: 'b' },
				/both correlationKey and correlationKeyFrom/,
			],
			[
				'a key that is not there',
				{ eventName: 'e', correlationKeyFrom: 'order.id' },
				/'order.id', which has no value/,
			],
			[
				'a key that is no text',
				{ eventName: 'e', correlationKey: { a: 1 } },
				/neither text nor a number: {"a":1}/,
			],
			[
				'a key that is too long',
				{ eventName: 'e', correlationKey: 'x'.repeat(257) },
				/its key must not be longer/,
			],
		]
		await begin(cases.map(([what, params]) => waiting(params, { config: { maxRetries: 3 } }, what)))
		for (const [what, , message] of cases) {
			const run = await engine.run({ blueprint: what })
			expect([what, run.errors]).toMatchObject([
				what,
				[{ nodeId: 'w', attempt: 1, message: expect.stringMatching(message) }],
			])
		}
	})

	test('with an impossible name or key, or in a webhook’s name, is refused', async () => {
		await begin([])
		for (const event of [
			{ name: '' },
			{ name: 'a\u0000' },
			{ name: 'a', key: 'x'.repeat(257) },
			{ name: 'webhook:0' },
		]) {
			await expect(sendEvent(engine.database.sql, event)).rejects.toThrow(/^The event cannot be sent/)
		}
	})
})

describe('an event and the wait for it at the same moment', () => {
	test('meet, a hundred times, whichever comes first', async () => {
		await begin([waiting({ eventName: 'paid', correlationKeyFrom: 'order' })])
		const outcomes = await Promise.all(
			Array.from({ length: 100 }, async (_, order) => {
				await delay(Math.random() * 300)
				const runId = await engine.start({ blueprint: 'waiting', input: { order } })
				await delay(Math.random() * 120)
				const { woken, kept } = await send('paid', `for ${order}`, String(order))
				return { runId, order, woken, kept }
			}),
		)
		for (const { runId, order, woken, kept } of outcomes) {
			expect((await engine.end(runId)).context).toMatchObject({ '_outputs.after': `for ${order}` })
			expect([woken.length, kept]).toEqual(kept ? [0, true] : [1, false])
		}
		const kept = outcomes.filter((outcome) => outcome.kept).length
		console.log(`${100 - kept} events found their wait, ${kept} were kept for it`)
		expect(await engine.rows('select id from flowcraft_kept_events')).toEqual([])
	})

	test('meet when the event is not committed yet as the wait begins', async () => {
		for (const correlation of [{}, { correlationKey: 'k' }]) {
			await begin([waiting({ eventName: 'paid', ...correlation })])
			let runId = ''
			await engine.database.sql.begin(async (tx) => {
				expect(await sendEvent(tx, { name: 'paid', key: 'k', payload: 'late' })).toEqual({
					woken: [],
					kept: true,
				})
				runId = await engine.start({ blueprint: 'waiting' })
				await waitFor('the wait’s commit to stand behind the event', async () => {
					const blocked =
						await engine.rows(`select pid from pg_locks where locktype = 'advisory' and not granted
					and database = (select oid from pg_database where datname = current_database())`)
					return blocked.length > 0
				})
			})
			expect((await engine.end(runId)).context).toMatchObject({ '_outputs.after': 'late' })
			await engine.stop()
		}
		await begin([])
	})

	test('do not hold up those with other keys', async () => {
		await begin([waiting({ eventName: 'paid', correlationKey: 'a' })])
		await engine.database.sql.begin(async (tx) => {
			await sendEvent(tx, { name: 'paid', key: 'b' })
			await startAwaiting()
			expect((await send('paid', 1, 'a')).woken).toHaveLength(1)
		})
	})
})

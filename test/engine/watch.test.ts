/** The numbered events that live readers get: each once, in one order, whatever commits late. */
import type { Sql } from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { keepEmitted } from '../../src/claim/emit.js'
import { createDatabase } from '../../src/db/client.js'
import { InvalidInputError, NotFoundError } from '../../src/errors.js'
import { sweepExpired, sweepWorkers } from '../../src/outbox/sweep.js'
import { cancelRun } from '../../src/run/cancel.js'
import { pauseRun, unpauseRun } from '../../src/run/pause.js'
import { retryRun } from '../../src/run/retry.js'
import { type WatchedEvent, type WatchOptions, watchRun } from '../../src/run/watch.js'
import { type Core, createCore, flow, keyOf } from '../support/core.js'
import { whenBlocked } from '../support/locks.js'
import { startProxy } from '../support/tcp-proxy.js'
import { waitFor } from '../support/wait-for.js'

let core: Core
let worker: string
beforeAll(async () => {
	core = await createCore()
	worker = await core.worker()
	await core.register(
		flow('join', [
			['a', 'b'],
			['a', 'c'],
			['b', 'd'],
			['c', 'd'],
		]),
	)
	await core.register(flow('pair', [], { a: {}, b: {} }))
	await core.register(flow('rescued', [['a', 'z']], { a: { config: { fallback: 'f' } }, f: {} }))
})
afterAll(() => core.drop())

const complete = async (runId: string, nodeId: string, more = {}): Promise<void> =>
	void (await core.commit(
		core.completed(await core.claimed(worker, runId, nodeId, more), { output: nodeId }),
	))

/** What there is to tell at this moment. */
async function toldOf(runId: string, after?: string): Promise<WatchedEvent[]> {
	const events: WatchedEvent[] = []
	for await (const batch of watchRun(core.sql, runId, { after, timeoutMs: 0 })) events.push(...batch.events)
	return events
}

/** `12 node:start a` */
const line = ({ id, type, payload }: WatchedEvent): string =>
	[id, type, payload['nodeId'] ?? payload['status']].filter(Boolean).join(' ')
const lines = async (runId: string, after?: string): Promise<string[]> =>
	(await toldOf(runId, after)).map(line)

test('tells what has happened in the order of cause and effect, and the same to whoever asks again', async () => {
	const runId = await core.start('join')
	expect(await lines(runId)).toEqual(['1 workflow:start'])
	const claimed = await core.claimed(worker, runId, 'a')
	expect(await lines(runId, '1')).toEqual(['2 node:start a'])
	await core.commit(core.completed(claimed))
	await complete(runId, 'b')
	await complete(runId, 'c')
	await complete(runId, 'd')
	const all = await lines(runId)
	expect(all).toEqual([
		'1 workflow:start',
		'2 node:start a',
		'3 node:finish a',
		'4 node:start b',
		'5 node:finish b',
		'6 node:start c',
		'7 node:finish c',
		'8 node:start d',
		'9 node:finish d',
		'10 workflow:finish completed',
	])
	for (let seen = 0; seen <= all.length; seen++) {
		expect(await lines(runId, String(seen))).toEqual(all.slice(seen))
	}
})

test('several who watch one run from its beginning to its end are told the same', async () => {
	const runId = await core.start('join')
	const watchers = Array.from({ length: 5 }, async () => {
		const told: string[] = []
		for await (const { events } of watchRun(core.sql, runId, { minPollMs: 1, maxPollMs: 5 })) {
			told.push(...events.map(line))
		}
		return told
	})
	for (const nodeId of ['a', 'b', 'c', 'd']) await complete(runId, nodeId)
	const [first, ...others] = await Promise.all(watchers)
	expect(first).toHaveLength(10)
	expect(new Set(first?.map((told) => told.split(' ')[0])).size).toBe(10)
	for (const other of others) expect(other).toEqual(first)
})

describe('what commits late', () => {
	let held: Sql
	beforeAll(() => {
		held = createDatabase(core.url, { max: 2 }).sql
	})
	afterAll(() => held.end())

	/** A claim whose transaction stays open until the returned function is called. */
	async function openClaim(runId: string, nodeId: string): Promise<() => Promise<void>> {
		let commit = (): void => {}
		const done = new Promise<void>((resolve) => {
			commit = resolve
		})
		let transaction: Promise<unknown> = Promise.resolve()
		await new Promise<void>((resolve, reject) => {
			transaction = held.begin(async (tx) => {
				await tx.unsafe(
					'select * from flowcraft_claim($1, array[$2], array[$3], array[$4], array[$5], array[gen_random_uuid()])',
					[worker, runId, nodeId, '', ''],
				)
				resolve()
				await done
			})
			transaction.catch(reject)
		})
		return async () => {
			commit()
			await transaction
		}
	}

	test('is told although later events were told before it', async () => {
		const runId = await core.start('pair')
		const commit = await openClaim(runId, 'a')
		// Begins later and commits earlier.
		await core.claimed(worker, runId, 'b')
		expect(await lines(runId)).toEqual(['1 workflow:start', '2 node:start b'])
		await commit()
		expect(await lines(runId, '2')).toEqual(['3 node:start a'])
		expect(await lines(runId)).toHaveLength(3)
	})

	test('is told when it began after somebody else who is still at it', async () => {
		const runId = await core.start('pair')
		const other = await core.start('pair')
		const commit = await openClaim(other, 'a')
		expect(await lines(runId)).toEqual(['1 workflow:start'])
		await core.claimed(worker, runId, 'b')
		expect(await lines(runId, '1')).toEqual(['2 node:start b'])
		await commit()
		expect(await lines(runId)).toHaveLength(2)
	})
})

test('a look that meets another one under way waits for it, and tells what that one has told', async () => {
	const runId = await core.start('pair')
	expect(await lines(runId)).toEqual(['1 workflow:start'])
	await complete(runId, 'a')
	const { second } = await core.sql.begin(async (tx) => {
		await tx`select from flowcraft_follow_run(${runId}, 0, 100)`
		const [{ pid }] = await tx<[{ pid: number }]>`select pg_backend_pid() as pid`
		const second = lines(runId)
		await whenBlocked(core.sql, pid)
		return { second }
	})
	expect(await second).toEqual(['1 workflow:start', '2 node:start a', '3 node:finish a'])
	expect(await lines(runId)).toHaveLength(3)
})

test('a node that waits has begun', async () => {
	await core.register(flow('waits', [], { w: { uses: 'wait' } }))
	const runId = await core.start('waits')
	const claimed = await core.claimed(worker, runId, 'w')
	await core.commit({
		key: claimed.key,
		token: claimed.token,
		outcome: 'waiting',
		wait: '{"reason":"external_event"}',
	})
	expect(await lines(runId)).toEqual(['1 workflow:start', '2 node:start w', '3 workflow:pause awaiting'])
})

test('attempts, crashes, fallbacks and retries by hand are told once each', async () => {
	const runId = await core.start('rescued')
	const silent = await core.worker(0)
	const claim = await core.claim(worker, keyOf(runId, 'a'))
	expect(claim.status).toBe('claimed')
	await core.rows('update flowcraft_nodes set worker_id = $1::text::uuid where run_id = $2', silent, runId)
	await sweepWorkers(core.sql, 10)
	expect(await lines(runId)).toEqual(['1 workflow:start', '2 node:start a', '3 node:retry a'])
	const second = await core.claimed(worker, runId, 'a')
	await core.commit({
		key: second.key,
		token: second.token,
		outcome: 'retry',
		delayMs: 0,
		error: '{"message":"Again"}',
	})
	await core.commit(core.failed(await core.claimed(worker, runId, 'a'), 'Broken'))
	await core.commit(core.failed(await core.claimed(worker, runId, 'f', { recovers: '["a"]' }), 'Too'))
	const told = await toldOf(runId, '3')
	expect(told.map((event) => `${line(event)} ${event.attempt ?? ''}`)).toEqual([
		'4 node:start a 1',
		'5 node:retry a 1',
		'6 node:start a 2',
		'7 node:error a 2',
		'8 node:fallback a ',
		'9 node:start f 1',
		'10 node:error f 1',
		'11 workflow:finish failed ',
	])
	await retryRun(core.sql, runId)
	await complete(runId, 'f', { recovers: '["a"]' })
	// The failed node is recovered now, which is no event of its own.
	expect(await lines(runId, '11')).toEqual([
		'12 workflow:resume',
		'13 node:retry f',
		'14 node:start f',
		'15 node:finish f',
	])
	await complete(runId, 'z')
	expect(await lines(runId, '15')).toEqual([
		'16 node:start z',
		'17 node:finish z',
		'18 workflow:finish completed',
	])
})

test('pausing, unpausing and cancelling are told', async () => {
	const runId = await core.start('pair')
	await core.claimed(worker, runId, 'a')
	await pauseRun(core.sql, runId)
	expect(await lines(runId)).toEqual(['1 workflow:start', '2 node:start a', '3 workflow:pause paused'])
	await unpauseRun(core.sql, runId)
	await cancelRun(core.sql, runId)
	expect(await lines(runId, '3')).toEqual(['4 workflow:resume', '5 workflow:finish cancelled'])
})

test('a run that nobody watches has no numbered events', async () => {
	const runId = await core.start('pair')
	await complete(runId, 'a')
	await complete(runId, 'b')
	expect(await core.rows('select from flowcraft_stream_events where run_id = $1', runId)).toEqual([])
	expect(await core.rows('select from flowcraft_streams where run_id = $1', runId)).toEqual([])
	expect(await lines(runId)).toHaveLength(6)
})

describe('what nodes emit', () => {
	const emitted = (events: readonly WatchedEvent[]): unknown[] =>
		events
			.filter(({ type }) => type === 'node:emit')
			.map(({ id, payload, dataJson }) => [
				id,
				payload['attempt'],
				payload['crashes'],
				payload['seq'],
				dataJson,
			])

	test('is told after the start of its node, with attempt and number, and goes on within what came together', async () => {
		const runId = await core.start('pair')
		const { key, token } = await core.claimed(worker, runId, 'a')
		expect(
			await keepEmitted(core.sql, [{ key, token, first: 1, data: ['"one"', '{"b":1,"a":2}', '"3"'] }]),
		).toBe(1)
		await keepEmitted(core.sql, [{ key, token, first: 4, data: ['4'] }])
		const told = await toldOf(runId)
		expect(told.map(line)).toEqual([
			'1 workflow:start',
			'2 node:start a',
			'3.1 node:emit a',
			'3.2 node:emit a',
			'3 node:emit a',
			'4 node:emit a',
		])
		expect(emitted(told)).toEqual([
			['3.1', 1, 0, 1, '"one"'],
			['3.2', 1, 0, 2, '{"b":1,"a":2}'],
			['3', 1, 0, 3, '"3"'],
			['4', 1, 0, 4, '4'],
		])
		for (const [at, { id }] of told.entries()) expect(await toldOf(runId, id)).toEqual(told.slice(at + 1))
	})

	test('is told once, however often it is kept', async () => {
		const runId = await core.start('pair')
		const { key, token } = await core.claimed(worker, runId, 'a')
		for (let time = 0; time < 3; time++)
			await keepEmitted(core.sql, [{ key, token, first: 1, data: ['1', '2'] }])
		expect(emitted(await toldOf(runId))).toHaveLength(2)
		await keepEmitted(core.sql, [{ key, token, first: 3, data: ['3'] }])
		expect(emitted(await toldOf(runId))).toHaveLength(3)
	})

	test('is told apart by attempt, and only the holder of the claim emits', async () => {
		const runId = await core.start('pair')
		const first = await core.claimed(worker, runId, 'a')
		await keepEmitted(core.sql, [{ ...first, first: 1, data: ['"first"'] }])
		await core.commit({ key: first.key, token: first.token, outcome: 'retry', delayMs: 0, error: '{}' })
		const second = await core.claimed(worker, runId, 'a')
		expect(await keepEmitted(core.sql, [{ ...first, first: 2, data: ['"zombie"'] }])).toBe(0)
		expect(await keepEmitted(core.sql, [{ ...second, first: 1, data: ['"second"'] }])).toBe(1)
		expect(emitted(await toldOf(runId)).map((told) => (told as unknown[]).slice(1))).toEqual([
			[1, 0, 1, '"first"'],
			[2, 0, 1, '"second"'],
		])
	})

	test('of several runs is kept with one statement, also by several workers at once', async () => {
		const runIds = await Promise.all(Array.from({ length: 6 }, () => core.start('pair')))
		const claims = await Promise.all(
			runIds.flatMap((runId) => ['a', 'b'].map((nodeId) => core.claimed(worker, runId, nodeId))),
		)
		// In opposite orders: whoever locked as given would wait for the other for ever.
		await Promise.all(
			[claims, claims.toReversed()].flatMap((order, half) =>
				Array.from({ length: 5 }, (_, round) =>
					keepEmitted(
						core.sql,
						order.map((claim) => ({ ...claim, first: 1 + half * 5 + round, data: ['0'] })),
					),
				),
			),
		)
		for (const runId of runIds) expect(emitted(await toldOf(runId))).toHaveLength(20)
	})

	test('goes after an hour', async () => {
		const runId = await core.start('pair')
		const { key, token } = await core.claimed(worker, runId, 'a')
		await keepEmitted(core.sql, [{ key, token, first: 1, data: ['1'] }])
		await keepEmitted(core.sql, [{ key, token, first: 2, data: ['2'] }])
		await core.rows(
			`update flowcraft_stream_events set at = at - interval '61 minutes' where run_id = $1 and seq = 3`,
			runId,
		)
		await sweepExpired(core.sql, 3_600_000)
		expect(await lines(runId)).toEqual(['1 workflow:start', '2 node:start a', '4 node:emit a'])
	})
})

describe('watching', () => {
	const collect = async (runId: string, options: WatchOptions): Promise<WatchedEvent[][]> => {
		const batches: WatchedEvent[][] = []
		for await (const { events } of watchRun(core.sql, runId, options)) batches.push([...events])
		return batches
	}

	test('says every now and then that it goes on, and ends with its time', async () => {
		const runId = await core.start('pair')
		const batches = await collect(runId, { after: '1', timeoutMs: 300, heartbeatMs: 20 })
		expect(batches.length).toBeGreaterThan(2)
		expect(batches.flat()).toEqual([])
	})

	test('ends when it is told to, whatever it waits for', async () => {
		const runId = await core.start('pair')
		const abort = new AbortController()
		const watching = watchRun(core.sql, runId, {
			signal: abort.signal,
			minPollMs: 600_000,
			maxPollMs: 600_000,
		})
		await watching.next()
		const next = watching.next()
		abort.abort()
		expect(await next).toEqual({ done: true, value: undefined })
	})

	test('looks at once when it is told that something happened, and stops listening at the end', async () => {
		const runId = await core.start('pair')
		const looks = new Set<() => void>()
		const watching = watchRun(core.sql, runId, {
			minPollMs: 600_000,
			maxPollMs: 600_000,
			heartbeatMs: 600_000,
			onHint: (look) => {
				looks.add(look)
				return () => looks.delete(look)
			},
		})
		await watching.next()
		const next = watching.next()
		await complete(runId, 'a')
		for (const look of looks) look()
		expect((await next).value?.events.map(line)).toEqual(['2 node:start a', '3 node:finish a'])
		await watching.return()
		expect(looks.size).toBe(0)
	})

	test('goes on when Postgres comes back', async () => {
		const proxy = await startProxy(core.url)
		const database = createDatabase(proxy.url, { max: 1 })
		try {
			const runId = await core.start('pair')
			const told: string[] = []
			const watched = (async () => {
				for await (const { events } of watchRun(database.sql, runId)) told.push(...events.map(line))
			})()
			await waitFor('the start to be told', () => told.length === 1)
			proxy.refuse()
			proxy.cut()
			await complete(runId, 'a')
			await proxy.accept()
			await complete(runId, 'b')
			await watched
			expect(told).toHaveLength(6)
		} finally {
			await database.close()
			await proxy.close()
		}
	})

	test('refuses what is no event of the run, and a run that is not there', async () => {
		const runId = await core.start('pair')
		for (const after of ['2', 'x', '-1', '1.x', '']) {
			await expect(watchRun(core.sql, runId, { after }).next()).rejects.toThrow(InvalidInputError)
		}
		await expect(watchRun(core.sql, 'nothing').next()).rejects.toThrow(NotFoundError)
		await expect(watchRun(core.sql, 'nul\u0000').next()).rejects.toThrow(NotFoundError)
	})
})

import { drizzle } from 'drizzle-orm/postgres-js'
import { sql as template } from 'drizzle-orm'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ConflictError, InvalidInputError, NotFoundError } from '../../src/errors.js'
import { startRun, startRuns, type StartRunInput } from '../../src/run/start.js'
import { readRun } from '../../src/run/read.js'
import { type Core, createCore, flow } from '../support/core.js'

let core: Core

beforeAll(async () => {
	core = await createCore()
	await core.register(flow('one', [], { a: {} }))
	await core.register(
		flow(
			'fork',
			[
				['a', 'c'],
				['b', 'c'],
			],
			{ loner: {}, f: {}, guarded: { config: { fallback: 'f' } } },
		),
	)
	await core.rows('create table orders (id int primary key)')
})
afterAll(() => core.drop())

const start = (input: Partial<StartRunInput> = {}) => startRun(core.sql, { blueprint: 'one', ...input })

/** How many rows there are of everything that a start writes. */
async function counts(): Promise<Record<string, unknown>> {
	const [row] = await core.rows(
		`select (select count(*) from flowcraft_statuses)::int as statuses, (select count(*) from flowcraft_nodes)::int as nodes,
			(select count(*) from flowcraft_contexts)::int as contexts, (select count(*) from flowcraft_outbox)::int as outbox,
			(select count(*) from flowcraft_transitions)::int as transitions, (select count(*) from flowcraft_idempotency_keys)::int as keys`,
	)
	return row ?? {}
}

test('a start writes the run, its context, its start nodes and their messages, and nothing else', async () => {
	const { runId, status, repeated } = await start({
		blueprint: 'fork',
		input: { x: { y: [1, null] }, nothing: undefined },
		tags: ['vip', 'a "b", {c}'],
		traceparent: '00-aa-bb-01',
	})
	expect([status, repeated]).toEqual(['running', false])
	// Neither joins nor fallbacks.
	expect(await core.outbox(runId)).toEqual(['a', 'b', 'guarded', 'loner'])
	expect(Object.keys(await core.nodes(runId)).sort()).toEqual(['a', 'b', 'guarded', 'loner'])
	expect(await core.run(runId)).toMatchObject({ status: 'running', live: 4, waiting: 0, failed: 0 })
	expect(
		await core.rows('select key, value, seq::int from flowcraft_contexts where run_id = $1', runId),
	).toEqual([{ key: 'x', value: '{"y":[1,null]}', seq: 0 }])
	expect(await readRun(core.sql, runId)).toMatchObject({
		runId,
		blueprint: 'fork',
		status: 'running',
		tags: ['vip', 'a "b", {c}'],
	})
	expect(
		await core.rows('select distinct traceparent from flowcraft_outbox where run_id = $1', runId),
	).toEqual([{ traceparent: '00-aa-bb-01' }])
	expect(await core.violations()).toEqual([])
})

test('a start is one round trip', async () => {
	const statements: string[] = []
	const sql = postgres(core.url, {
		max: 1,
		fetch_types: false,
		debug: (_connection, statement) => statements.push(statement),
	})
	try {
		await startRun(sql, { blueprint: 'one', input: { x: 1 }, idempotencyKey: 'round-trip' })
		expect(statements).toHaveLength(1)
	} finally {
		await sql.end()
	}
})

describe("inside a caller's transaction", () => {
	test('a run exists exactly if the rows of the Drizzle transaction do', async () => {
		const client = postgres(core.url, { max: 2 })
		const db = drizzle(client, { casing: 'snake_case' })
		try {
			const committed = await db.transaction(async (tx) => {
				await tx.execute(template`insert into orders values (1)`)
				return startRun(tx, {
					blueprint: 'one',
					input: { order: 1, when: new Date(0) },
					tags: ['t'],
					idempotencyKey: 'order-1',
				})
			})
			expect(await core.run(committed.runId)).toMatchObject({ status: 'running' })
			let rolledBack = ''
			await expect(
				db.transaction(async (tx) => {
					await tx.execute(template`insert into orders values (2)`)
					rolledBack = (await startRun(tx, { blueprint: 'one', idempotencyKey: 'order-2' })).runId
					await tx.execute(template`insert into orders values (1)`)
				}),
			).rejects.toThrow(/Failed query|duplicate key/)
			await expect(core.run(rolledBack)).rejects.toThrow('no run')
			expect(await core.outbox(rolledBack)).toEqual([])
			expect(await core.rows('select id from orders')).toEqual([{ id: 1 }])
			// The key was not used up.
			expect(await start({ idempotencyKey: 'order-2' })).toMatchObject({ repeated: false })
			// The client is the caller's, as it was.
			expect(await startRun(db, { blueprint: 'one' })).toMatchObject({ repeated: false })
		} finally {
			await client.end()
		}
	})

	test('a run exists exactly if the rows of the postgres.js transaction do', async () => {
		const sql = postgres(core.url, { max: 2 })
		try {
			const committed = await sql.begin(async (tx) => {
				await tx`insert into orders values (11)`
				return startRun(tx, { blueprint: 'one', input: { order: 11 } })
			})
			expect(await core.run(committed.runId)).toMatchObject({ status: 'running' })
			let rolledBack = ''
			await expect(
				sql.begin(async (tx) => {
					rolledBack = (await startRun(tx, { blueprint: 'one' })).runId
					throw new Error('Changed my mind')
				}),
			).rejects.toThrow('Changed my mind')
			await expect(core.run(rolledBack)).rejects.toThrow('no run')
		} finally {
			await sql.end()
		}
	})

	test("a start that is refused leaves the caller's transaction alive", async () => {
		const { runId } = await start({ idempotencyKey: 'taken' })
		await core.sql.begin(async (tx) => {
			await expect(startRun(tx, { blueprint: 'no-such' })).rejects.toThrow(NotFoundError)
			await expect(startRun(tx, { blueprint: 'one', runId })).rejects.toThrow(ConflictError)
			await expect(
				startRun(tx, { blueprint: 'one', input: { other: 1 }, idempotencyKey: 'taken' }),
			).rejects.toThrow(ConflictError)
			await expect(startRun(tx, { blueprint: 'one', input: { n: 1n } })).rejects.toThrow(
				InvalidInputError,
			)
			await tx`insert into orders values (21)`
		})
		expect(await core.rows('select id from orders where id = 21')).toHaveLength(1)
	})

	test('nobody sees the run before the transaction commits', async () => {
		await core.sql.begin(async (tx) => {
			const { runId } = await startRun(tx, { blueprint: 'one' })
			expect(await readRun(core.sql, runId)).toBeUndefined()
			expect(await core.outbox(runId)).toEqual([])
		})
	})
})

describe('idempotency keys', () => {
	test('a repeated start returns the first run, as it is by now, and writes nothing', async () => {
		const first = await start({ input: { a: 1, b: 2 }, tags: ['t'], idempotencyKey: 'k1' })
		await core.commit(core.completed(await core.claimed(await core.worker(), first.runId, 'a')))
		const before = await counts()
		// The order of keys means nothing, nor who traces it.
		const again = await start({
			input: { b: 2, a: 1 },
			tags: ['t'],
			idempotencyKey: 'k1',
			traceparent: 'other',
		})
		expect(again).toEqual({ runId: first.runId, status: 'completed', repeated: true })
		expect(await counts()).toEqual(before)
	})

	test.each<[string, Partial<StartRunInput>]>([
		['another input', { input: { a: 2 } }],
		['another key of the input', { input: { b: 1 } }],
		['more input', { input: { a: 1, b: 1 } }],
		['another blueprint', { blueprint: 'fork', input: { a: 1 } }],
		['tags', { input: { a: 1 }, tags: ['t'] }],
		['a run id', { input: { a: 1 }, runId: 'mine' }],
	])('one that is used again with %s is a conflict, and nothing is written', async (what, other) => {
		const key = `k2 ${what}`
		const { runId } = await start({ input: { a: 1 }, idempotencyKey: key })
		const before = await counts()
		await expect(start({ ...other, idempotencyKey: key })).rejects.toThrow(`was used for run '${runId}'`)
		expect(await counts()).toEqual(before)
	})

	test('of twenty starts with one key at once, one starts a run and all return it', async () => {
		for (let round = 0; round < 5; round++) {
			const started = await Promise.all(
				Array.from({ length: 20 }, () => start({ input: { round }, idempotencyKey: `k3-${round}` })),
			)
			expect(new Set(started.map(({ runId }) => runId)).size).toBe(1)
			expect(started.filter(({ repeated }) => !repeated)).toHaveLength(1)
		}
	})

	test('of twenty starts with one key and different bodies at once, one starts a run and the others conflict', async () => {
		const outcomes = await Promise.allSettled(
			Array.from({ length: 20 }, (_, n) => start({ input: { n }, idempotencyKey: 'k4' })),
		)
		expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
		for (const outcome of outcomes)
			if (outcome.status === 'rejected') expect(outcome.reason).toBeInstanceOf(ConflictError)
	})

	test('a start that waits for one which rolls back starts the run itself', async () => {
		const { second, rolledBack } = await core.sql
			.begin(async (tx) => {
				const { runId } = await startRun(tx, { blueprint: 'one', idempotencyKey: 'k5' })
				const second = start({ idempotencyKey: 'k5' })
				throw Object.assign(new Error('Rolled back'), { second, rolledBack: runId })
			})
			.catch((error: unknown) => error as { second: ReturnType<typeof start>; rolledBack: string })
		const started = await second
		expect(started.repeated).toBe(false)
		expect(started.runId).not.toBe(rolledBack)
		expect(await core.run(started.runId)).toMatchObject({ status: 'running' })
	})

	test('keys of different scopes never meet', async () => {
		const [a, b, none] = [
			await start({ idempotencyKey: 'k6', idempotencyScope: 'a' }),
			await start({ idempotencyKey: 'k6', idempotencyScope: 'b' }),
			await start({ idempotencyKey: 'k6' }),
		]
		expect(new Set([a.runId, b.runId, none.runId]).size).toBe(3)
	})

	test('one whose time is over starts a new run, and is remembered anew', async () => {
		const first = await start({ idempotencyKey: 'k7' })
		await core.rows(
			`update flowcraft_idempotency_keys set expires_at = clock_timestamp() - interval '1 second' where key = 'k7'`,
		)
		const second = await start({ input: { other: true }, idempotencyKey: 'k7' })
		expect(second.repeated).toBe(false)
		expect(second.runId).not.toBe(first.runId)
		expect(await start({ input: { other: true }, idempotencyKey: 'k7' })).toMatchObject({
			runId: second.runId,
			repeated: true,
		})
	})

	test.each<[string, Partial<StartRunInput>]>([
		['an unknown blueprint', { blueprint: 'later' }],
		['an unknown version', { blueprint: 'one', version: '99' }],
		['a taken run id', { runId: 'taken-by-k8' }],
	])('a start that fails for %s does not use up its key', async (what, input) => {
		if (input.runId !== undefined) await start({ runId: input.runId })
		const before = await counts()
		await expect(start({ ...input, idempotencyKey: `k8 ${what}` })).rejects.toThrow(
			/There is no|There is a run/,
		)
		expect(await counts()).toEqual(before)
		expect(await start({ idempotencyKey: `k8 ${what}` })).toMatchObject({ repeated: false })
	})

	test('two starts at once with one key, of a blueprint that does not exist, are both told so', async () => {
		for (let round = 0; round < 10; round++) {
			const outcomes = await Promise.allSettled(
				Array.from({ length: 4 }, () => start({ blueprint: 'never', idempotencyKey: `k9-${round}` })),
			)
			for (const outcome of outcomes)
				expect(outcome.status === 'rejected' && outcome.reason).toBeInstanceOf(NotFoundError)
		}
	})
})

describe('run ids, versions and odd input', () => {
	test('a run id of the caller\u2019s is taken once, also when two come at once', async () => {
		const outcomes = await Promise.allSettled(
			Array.from({ length: 8 }, () => start({ runId: 'order/4711 ü' })),
		)
		expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
		for (const outcome of outcomes)
			if (outcome.status === 'rejected') expect(outcome.reason).toBeInstanceOf(ConflictError)
		// Nor are the nodes of another blueprint added, beside a start in the same statement.
		await core.register(flow('other', [], { elsewhere: {} }))
		const [taken, other] = await startRuns(
			core.sql,
			['order/4711 ü', 'order/4712'].map((runId) => ({ blueprint: 'other', runId })),
		)
		expect(taken).toMatchObject({ status: 'rejected', reason: expect.any(ConflictError) })
		expect(other).toMatchObject({ value: { runId: 'order/4712' } })
		expect(await core.run('order/4711 ü')).toMatchObject({ live: 1 })
		expect(await core.outbox('order/4711 ü')).toHaveLength(1)
	})

	test('a version is named by its metadata.version or its hash; without one it is the current one', async () => {
		const version = (name: string, id: string) => ({
			...flow('versioned', [], { [id]: {} }),
			metadata: { version: name },
		})
		await core.register(version('1', 'old'))
		await core.register(version('2', 'new'))
		// A worker of the previous release comes back: what is current stays.
		await core.register(version('1', 'old'))
		const startNode = async (input: Partial<StartRunInput>) =>
			Object.keys(await core.nodes((await start({ blueprint: 'versioned', ...input })).runId))
		expect(await startNode({})).toEqual(['new'])
		expect(await startNode({ version: '1' })).toEqual(['old'])
		const [{ hash }] = (await core.rows<{ hash: string }>(
			`select hash from flowcraft_blueprints where blueprint_id = 'versioned' and version = '1'`,
		)) as [{ hash: string }]
		expect(await startNode({ version: hash })).toEqual(['old'])
		await expect(start({ blueprint: 'versioned', version: '3' })).rejects.toThrow(
			"no version '3' of blueprint 'versioned'",
		)
		await expect(start({ blueprint: 'unknown', version: '3' })).rejects.toThrow("no blueprint 'unknown'")
	})

	test('any key is safe', async () => {
		const keys = [
			'',
			' ',
			`'`,
			'"',
			'\\',
			'{}',
			'NULL',
			'a,b',
			'__proto__',
			'constructor',
			'\n\t',
			'\u{1F600}',
			'$1',
			'%s',
			'ü'.repeat(500),
		]
		const input = Object.fromEntries(keys.map((key) => [key, { key }]))
		const { runId } = await start({ input })
		const rows = await core.rows<{ key: string; value: string }>(
			'select key, value from flowcraft_contexts where run_id = $1',
			runId,
		)
		expect(new Map(rows.map(({ key, value }) => [key, JSON.parse(value) as unknown]))).toEqual(
			new Map(keys.map((key) => [key, { key }])),
		)
	})

	test('a value of many megabytes and a context of thousands of keys are taken', async () => {
		const { runId } = await start({
			input: {
				huge: 'x'.repeat(8_000_000),
				...Object.fromEntries(Array.from({ length: 5000 }, (_, n) => [`k${n}`, n])),
			},
		})
		const [row] = await core.rows(
			`select count(*)::int as keys, max(length(value))::int as longest from flowcraft_contexts where run_id = $1`,
			runId,
		)
		expect(row).toEqual({ keys: 5001, longest: 8_000_002 })
	})

	test('every fault of the input is named, and nothing is written', async () => {
		const before = await counts()
		const circular: Record<string, unknown> = {}
		circular['self'] = circular
		const faults = await start({
			blueprint: '',
			version: 'v'.repeat(257),
			runId: 'a\u0000',
			idempotencyKey: '\ud83d',
			tags: ['', 'ok', 'x'.repeat(101)],
			input: { n: 1n, circular, 'k\u0000': 1, ok: 1 },
		}).catch((error: unknown) => (error as InvalidInputError).faults)
		expect((faults as InvalidInputError['faults']).map(({ path }) => path).sort()).toEqual(
			[
				'/blueprint',
				'/version',
				'/runId',
				'/idempotencyKey',
				'/tags/0',
				'/tags/2',
				'/input/n',
				'/input/circular',
				'/input/k\\u0000',
			].sort(),
		)
		expect(await counts()).toEqual(before)
	})
})

describe('many starts at once', () => {
	const startAll = (...inputs: Partial<StartRunInput>[]) =>
		startRuns(
			core.sql,
			inputs.map((input) => ({ blueprint: 'one', ...input })),
		)

	test('each run gets its own context, tags, trace and start nodes', async () => {
		const results = await startAll(
			{ runId: 'many-1', input: { n: 1, same: 'x' }, tags: ['t,1'] },
			{ runId: 'many-2', blueprint: 'fork', input: { n: 2 }, traceparent: '00-aa-bb-01' },
			{ runId: 'many-3' },
		)
		expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'fulfilled'])
		expect(
			await core.rows(
				`select run_id, key, value from flowcraft_contexts where run_id like 'many-%' order by run_id, key`,
			),
		).toEqual([
			{ run_id: 'many-1', key: 'n', value: '1' },
			{ run_id: 'many-1', key: 'same', value: '"x"' },
			{ run_id: 'many-2', key: 'n', value: '2' },
		])
		expect(
			await core.rows(
				`select run_id, tags::text, traceparent, live_count from flowcraft_statuses where run_id like 'many-%' order by run_id`,
			),
		).toEqual([
			{ run_id: 'many-1', tags: '{"t,1"}', traceparent: null, live_count: 1 },
			{ run_id: 'many-2', tags: '{}', traceparent: '00-aa-bb-01', live_count: 4 },
			{ run_id: 'many-3', tags: '{}', traceparent: null, live_count: 1 },
		])
		expect(await core.outbox('many-1')).toEqual(['a'])
		expect(await core.outbox('many-2')).toEqual(['a', 'b', 'guarded', 'loner'])
	})

	test('what is wrong with one start is the fault of that one alone', async () => {
		await startAll({ runId: 'taken' }, { idempotencyKey: 'used', input: { n: 1 } })
		const before = await counts()
		const results = await startAll(
			{ tags: ['\u0000'] },
			{ blueprint: 'nobody' },
			{ runId: 'fine' },
			{ version: 'never' },
			{ runId: 'taken', idempotencyKey: 'free' },
			{ idempotencyKey: 'used', input: { n: 2 } },
			{ idempotencyKey: 'used', input: { n: 1 } },
		)
		expect(
			results.map((result) =>
				result.status === 'rejected'
					? (result.reason as Error).constructor.name
					: result.value.repeated,
			),
		).toEqual([
			'InvalidInputError',
			'NotFoundError',
			false,
			'NotFoundError',
			'ConflictError',
			'ConflictError',
			true,
		])
		const after = await counts()
		expect(after).toEqual({
			...before,
			statuses: Number(before['statuses']) + 1,
			nodes: Number(before['nodes']) + 1,
			outbox: Number(before['outbox']) + 1,
			transitions: Number(before['transitions']) + 1,
		})
	})

	test('the same run id, or the same key, twice in one call is as in two calls', async () => {
		const results = await startAll(
			{ runId: 'twin', input: { n: 1 } },
			{ runId: 'twin', input: { n: 2 } },
			{ idempotencyKey: 'twins' },
			{ idempotencyKey: 'twins' },
			{ idempotencyKey: 'twins', idempotencyScope: 'another' },
		)
		expect(
			results.map((result) => (result.status === 'rejected' ? 'conflict' : result.value.repeated)),
		).toEqual([false, 'conflict', false, true, false])
		expect(await core.rows(`select value from flowcraft_contexts where run_id = 'twin'`)).toEqual([
			{ value: '1' },
		])
	})

	test('calls with the same keys and ids in any order do not lock each other out', async () => {
		const inputs = Array.from({ length: 40 }, (_, i) => ({
			runId: `crossing-${i}`,
			idempotencyKey: `crossing-${i}`,
		}))
		const calls = await Promise.all(
			Array.from({ length: 8 }, (_, i) => startAll(...(i % 2 === 0 ? inputs : inputs.toReversed()))),
		)
		expect(calls.flat().filter(({ status }) => status === 'rejected')).toEqual([])
		const [row] = await core.rows(
			`select count(*)::int from flowcraft_statuses where run_id like 'crossing-%'`,
		)
		expect(row).toEqual({ count: 40 })
	})

	test('a value that Postgres refuses fails its own start, and the others are started', async () => {
		await core.rows(`create function refuse_one() returns trigger language plpgsql as $$
			begin
				if new.run_id = 'refused' then raise exception 'no' using errcode = '22000'; end if;
				return new;
			end $$`)
		await core.rows(
			'create trigger refuse_one before insert on flowcraft_statuses for each row execute function refuse_one()',
		)
		try {
			const results = await startAll(
				{ runId: 'before-it' },
				{ runId: 'refused' },
				{ runId: 'after-it' },
			)
			expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
		} finally {
			await core.rows('drop trigger refuse_one on flowcraft_statuses')
		}
	})

	test('a rule of the database’s owner fails the start that breaks it, and the others are started', async () => {
		await core.rows(
			`alter table flowcraft_statuses add constraint no_badness check (run_id <> 'bad') not valid`,
		)
		try {
			const results = await startAll(
				{ runId: 'beside-bad-1' },
				{ runId: 'bad' },
				{ runId: 'beside-bad-2' },
			)
			expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
		} finally {
			await core.rows('alter table flowcraft_statuses drop constraint no_badness')
		}
	})

	test('in a transaction of the caller’s all are told what ended it', async () => {
		await core.rows(
			`alter table flowcraft_statuses add constraint no_badness check (run_id <> 'bad') not valid`,
		)
		const reasons: string[] = []
		try {
			await core.sql
				.begin(async (tx) => {
					const results = await startRuns(tx, [
						{ blueprint: 'one', runId: 'with-bad' },
						{ blueprint: 'one', runId: 'bad' },
					])
					for (const result of results)
						reasons.push(result.status === 'rejected' ? String(result.reason) : 'started')
					throw new Error('rolled back')
				})
				.catch(() => {})
		} finally {
			await core.rows('alter table flowcraft_statuses drop constraint no_badness')
		}
		expect(reasons).toEqual([
			expect.stringContaining('no_badness'),
			expect.stringContaining('no_badness'),
		])
	})

	test('large ones do not share a statement that would be too large', async () => {
		const input = { text: 'x'.repeat(1_500_000) }
		const results = await startAll(...Array.from({ length: 6 }, () => ({ input })))
		expect(results.map(({ status }) => status)).toEqual(Array.from({ length: 6 }, () => 'fulfilled'))
	})

	test('the sweep of expired keys waits for nobody who takes one over', async () => {
		await startAll(...['z', 'm', 'a'].map((key) => ({ idempotencyKey: `expired-${key}` })))
		await core.rows(
			`update flowcraft_idempotency_keys set expires_at = now() - interval '1 second' where key like 'expired-%'`,
		)
		await core.sql.begin(async (tx) => {
			await startRun(tx, { blueprint: 'one', idempotencyKey: 'expired-m' })
			await core.rows('select flowcraft_sweep_expired(0)')
		})
		expect(
			await core.rows(`select key from flowcraft_idempotency_keys where key like 'expired-%'`),
		).toEqual([{ key: 'expired-m' }])
	})

	test('hundreds are started, in order', async () => {
		const results = await startAll(...Array.from({ length: 130 }, (_, i) => ({ runId: `hundreds-${i}` })))
		expect(
			results.map((result) => (result.status === 'fulfilled' ? result.value.runId : undefined)),
		).toEqual(Array.from({ length: 130 }, (_, i) => `hundreds-${i}`))
	})
})

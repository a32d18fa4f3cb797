import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { PostgresContext } from '../../src/context/postgres-context.js'
import { createContextReader, readKeysOfRuns } from '../../src/context/reading.js'
import { query } from '../../src/db/query.js'
import { readRun } from '../../src/run/read.js'
import { type Core, createCore, flow, keyOf } from '../support/core.js'

let core: Core
let worker: string

beforeAll(async () => {
	core = await createCore()
	worker = await core.worker()
	await core.register(
		flow('chain', [
			['a', 'b'],
			['b', 'c'],
		]),
	)
	await core.register(flow('free', [], { a: {}, b: {}, __proto__: {}, 'x.y': {} }))
})
afterAll(() => core.drop())

/** Completes a node with an output and what it has written meanwhile. */
async function complete(
	runId: string,
	nodeId: string,
	output: unknown,
	writes: Record<string, unknown> = {},
): Promise<void> {
	await core.commit(core.completed(await core.claimed(worker, runId, nodeId), { output, writes }))
}

const get = async (runId: string, ...keys: string[]) =>
	Object.fromEntries(await createContextReader(core.sql).readKeys(runId, keys))
const entries = async (runId: string) =>
	Object.fromEntries(await createContextReader(core.sql).readAll(runId))

/** Both ways to read must say the same, of every key that has a value. */
async function context(runId: string): Promise<Record<string, string>> {
	const all = await entries(runId)
	expect(await get(runId, ...Object.keys(all))).toEqual(all)
	return all
}

describe('which of several values of a key is read', () => {
	test('what a run was started with, until a node writes or returns something under that key', async () => {
		const runId = await core.start('chain', { input: { a: 'start', b: 'start', k: 'start' } })
		expect(await get(runId, 'a', 'b', 'k')).toEqual({ a: '"start"', b: '"start"', k: '"start"' })
		await complete(runId, 'a', 'output', { k: 'written' })
		expect(await get(runId, 'a', 'b', 'k', '_outputs.a')).toEqual({
			a: '"output"',
			b: '"start"',
			k: '"written"',
			'_outputs.a': '"output"',
		})
		await context(runId)
	})

	test('the later commit wins, be it an output or a write', async () => {
		const runId = await core.start('chain')
		await complete(runId, 'a', 'output of a')
		await complete(runId, 'b', 1, { a: 'written by b', '_outputs.a': 'written too' })
		expect(await get(runId, 'a', '_outputs.a')).toEqual({
			a: '"written by b"',
			'_outputs.a': '"written too"',
		})
		await complete(runId, 'c', 'output of c')
		expect(await get(runId, 'c')).toEqual({ c: '"output of c"' })
		await context(runId)
	})

	test("within one commit a node's output wins over what it wrote under its own key", async () => {
		const runId = await core.start('chain')
		await complete(runId, 'a', 'output', { a: 'written', '_outputs.a': 'written' })
		expect(await get(runId, 'a', '_outputs.a')).toEqual({ a: '"output"', '_outputs.a': '"output"' })
		await context(runId)
	})

	test('a key that was deleted is gone, an output of that name included, until somebody writes it again', async () => {
		const runId = await core.start('chain', { input: { k: 1 } })
		await complete(runId, 'a', 'output')
		await complete(runId, 'b', 2, { a: undefined, k: undefined })
		expect(await get(runId, 'a', 'k', '_outputs.a')).toEqual({ '_outputs.a': '"output"' })
		expect(Object.keys(await context(runId)).sort()).toEqual([
			'_executionId',
			'_inputs.b',
			'_inputs.c',
			'_outputs.a',
			'_outputs.b',
			'b',
		])
		await complete(runId, 'c', 3, { a: 'again' })
		expect(await get(runId, 'a')).toEqual({ a: '"again"' })
	})

	test('of several generations the newest finished one counts, whichever was committed last', async () => {
		const runId = await core.start('chain')
		await complete(runId, 'a', 0)
		await core.rows(
			`insert into flowcraft_nodes (run_id, node_id, generation, state, output, finished_seq)
			values ($1, 'x', '1', 'completed', '"first"', 9), ($1, 'x', '2', 'completed', '"second"', 5), ($1, 'x', '3', 'failed', null, 10)`,
			runId,
		)
		expect(await get(runId, 'x', '_outputs.x')).toEqual({ x: '"second"', '_outputs.x': '"second"' })
		await context(runId)
	})

	test('a node that was recovered has the output null, and its fallback the one that it returned', async () => {
		await core.register(flow('rescued', [], { a: { config: { fallback: 'f' } }, f: {} }))
		const runId = await core.start('rescued')
		await core.commit(core.failed(await core.claimed(worker, runId, 'a')))
		expect(await get(runId, '_outputs.a', 'a')).toEqual({})
		await core.commit(
			core.completed(await core.claimed(worker, runId, 'f', { recovers: '["a"]' }), {
				output: 'saved',
			}),
		)
		expect(await get(runId, '_outputs.a', '_outputs.f')).toEqual({
			'_outputs.a': 'null',
			'_outputs.f': '"saved"',
		})
	})

	test('a node that returned nothing has the key, and nothing under it', async () => {
		const runId = await core.start('chain', { input: { a: 'start' } })
		await complete(runId, 'a', undefined)
		expect(await get(runId, 'a', '_outputs.a')).toEqual({ a: null, '_outputs.a': null })
		expect(await entries(runId)).not.toHaveProperty('a')
		const context = new PostgresContext(runId, { client: core.sql })
		expect([await context.has('a'), await context.get('a'), await context.has('b')]).toEqual([
			true,
			undefined,
			false,
		])
	})

	test('_inputs.x is what the last taken edge brought to x, unless the run was started with one', async () => {
		await core.register(
			flow('inputs', [
				['a', 'b'],
				['a', 'c', { transform: 'input.n' }],
			]),
		)
		const runId = await core.start('inputs', { input: { '_inputs.a': 'given' } })
		expect(await get(runId, '_inputs.a', '_inputs.b')).toEqual({ '_inputs.a': '"given"' })
		await complete(runId, 'a', { n: 7 })
		expect(await get(runId, '_inputs.a', '_inputs.b', '_inputs.c', '_inputs.d')).toEqual({
			'_inputs.a': '"given"',
			'_inputs.b': '{"n":7}',
			'_inputs.c': '7',
		})
		await context(runId)
	})

	test('the run knows its own id', async () => {
		const runId = await core.start('chain', { runId: 'quotes " and \\ backslashes' })
		expect(JSON.parse((await entries(runId))['_executionId'] ?? '')).toBe(runId)
	})

	test('a write from outside wins over what was committed before, and loses to what is committed later', async () => {
		const runId = await core.start('chain', { input: { k: 0 } })
		const outside = new PostgresContext(runId, { client: core.sql })
		await complete(runId, 'a', 1, { k: 1 })
		await outside.patch([
			{ op: 'set', key: 'k', value: 2 },
			{ op: 'set', key: 'a', value: 'mine' },
			{ op: 'set', key: 'k', value: 3 },
		])
		expect(await get(runId, 'k', 'a')).toEqual({ k: '3', a: '"mine"' })
		await complete(runId, 'b', 2, { k: 4 })
		expect(await outside.get('k')).toBe(4)
		expect(await outside.delete('k')).toBe(true)
		expect(await outside.delete('k')).toBe(false)
		expect(await outside.has('k')).toBe(false)
	})
})

test('keys of several runs are read in one statement, each from its own run', async () => {
	const [first, second] = [
		await core.start('chain', { input: { k: 1, l: 1 } }),
		await core.start('chain', { input: { k: 2 } }),
	]
	const found = await readKeysOfRuns(core.sql, [
		{ runId: first, keys: ['k', 'l', 'k', 'none'] },
		{ runId: second, keys: ['k', 'l'] },
		{ runId: 'no-such-run', keys: ['k'] },
		{ runId: first, keys: [] },
	])
	expect(found.map((keys) => Object.fromEntries(keys))).toEqual([{ k: '1', l: '1' }, { k: '2' }, {}, {}])
})

describe('odd keys and values', () => {
	test('__proto__ is a key and a node like any other', async () => {
		const runId = await core.start('free', {
			input: JSON.parse('{"__proto__": {"polluted": true}, "constructor": 1}') as Record<
				string,
				unknown
			>,
		})
		const before = await new PostgresContext(runId, { client: core.sql }).toJSON()
		expect(Object.getOwnPropertyDescriptor(before, '__proto__')?.value).toEqual({ polluted: true })
		expect(Object.getPrototypeOf(before)).toBe(Object.prototype)
		await complete(runId, 'x.y', 'dotted')
		expect(await get(runId, '_outputs.x.y', 'x.y', 'constructor')).toEqual({
			'_outputs.x.y': '"dotted"',
			'x.y': '"dotted"',
			constructor: '1',
		})
	})

	test('NUL, lone surrogates and texts that are no JSON do not break the views, and are read as they were written', async () => {
		const runId = await core.start('free')
		const odd = {
			nul: 'a\u0000b',
			half: 'a\ud83db',
			low: '\ude00',
			pair: '\u{1F600}',
			literal: '\\u0000',
		}
		await complete(runId, 'a', odd, odd)
		// As if a serializer had written something of its own.
		await core.rows(`insert into flowcraft_contexts values ($1, 'raw', 'no JSON {', 9)`, runId)
		await complete(runId, 'b', 'fine')
		await core.rows(`update flowcraft_nodes set state = 'completed' where run_id = $1`, runId)
		await core.rows(
			`update flowcraft_statuses set status = 'completed', live_count = 0, finished_at = clock_timestamp() where run_id = $1`,
			runId,
		)

		const [document] = await core.rows<{ data: string }>(
			'select data::text as data from flowcraft_context_documents where run_id = $1',
			runId,
		)
		const seen = JSON.parse(document?.data ?? '') as Record<string, unknown>
		expect(seen).toMatchObject({
			b: 'fine',
			raw: 'no JSON {',
			nul: 'a\ufffdb',
			half: 'a\ufffdb',
			low: '\ufffd',
			pair: '\u{1F600}',
			literal: '\\u0000',
		})
		const [result] = await core.rows<{ result: string }>(
			'select result::text as result from flowcraft_results where run_id = $1',
			runId,
		)
		expect(JSON.parse(result?.result ?? '')).toEqual({ context: seen, status: 'completed' })
		expect(JSON.parse((await get(runId, '_outputs.a'))['_outputs.a'] ?? '')).toEqual(odd)
	})

	test('a result that holds NUL and halves of pairs is read back as it was', async () => {
		await core.register(flow('single', [], { a: {} }))
		const runId = await core.start('single', { input: { nul: '\u0000', '"quoted\\"': 1 } })
		await complete(runId, 'a', { half: '\ud83d', big: '1e400' })
		const run = await readRun(core.sql, runId)
		expect(JSON.parse(run?.contextJson ?? '')).toMatchObject({
			nul: '\u0000',
			'"quoted\\"': 1,
			a: { half: '\ud83d', big: '1e400' },
		})
	})

	test('the views show nothing of a live run but its status', async () => {
		const runId = await core.start('single', { input: { k: 1 } })
		expect(
			await core.rows('select status, result, reason from flowcraft_results where run_id = $1', runId),
		).toEqual([{ status: 'running', result: null, reason: null }])
		await core.commit(core.failed(await core.claimed(worker, runId, 'a'), 'No'))
		const [row] = await core.rows(
			'select status, result, reason from flowcraft_results where run_id = $1',
			runId,
		)
		expect(row).toMatchObject({
			status: 'failed',
			reason: "Node 'a' failed: No",
			result: { status: 'failed', context: { k: 1 } },
		})
	})
})

describe('what reading costs', () => {
	/** Pages that a statement looks at. */
	async function pages(text: string, ...parameters: string[]): Promise<number> {
		const explain = async (): Promise<number> => {
			const rows = await query<{
				'QUERY PLAN': [{ Plan: { 'Shared Hit Blocks': number; 'Shared Read Blocks': number } }]
			}>(core.sql, `explain (analyze, buffers, format json) ${text}`, parameters)
			const plan = rows[0]?.['QUERY PLAN'][0].Plan
			return (plan?.['Shared Hit Blocks'] ?? 0) + (plan?.['Shared Read Blocks'] ?? 0)
		}
		await explain() // The first one reads the catalog too.
		return explain()
	}

	test('one key costs the same in a context of five keys and in one of twenty thousand, beside many other runs', async () => {
		const small = await core.start('chain', { input: { k: 1 } })
		await complete(small, 'a', 1)
		const large = await core.start('chain', {
			input: { k: 1, ...Object.fromEntries(Array.from({ length: 20_000 }, (_, n) => [`key-${n}`, n])) },
		})
		await complete(large, 'a', 1)
		await core.rows(
			`insert into flowcraft_nodes (run_id, node_id, state, output, finished_seq)
			select $1, 'n' || n, 'completed', 'null', n from generate_series(1, 20000) n`,
			large,
		)
		for (const key of ['k', 'none', '_outputs.a', 'a', '_inputs.b']) {
			const read = (runId: string) =>
				pages('select * from flowcraft_context_get($1, array[$2])', runId, key)
			const [cheap, dear] = [await read(small), await read(large)]
			expect({ key, pages: dear }).toEqual({ key, pages: expect.any(Number) as number })
			// A level more of an index, at most, for each of three look-ups.
			expect(dear).toBeLessThanOrEqual(cheap + 6)
			expect(dear).toBeLessThan(30)
		}
	})

	test('the status of a run is read from the view without its context', async () => {
		const runId = await core.start('chain', {
			input: Object.fromEntries(Array.from({ length: 5_000 }, (_, n) => [`key-${n}`, n])),
		})
		expect(await pages('select status from flowcraft_results where run_id = $1', runId)).toBeLessThan(10)
	})
})

test('a node of an unknown run has no context', async () => {
	expect(await core.claim(worker, keyOf('no-such-run', 'a'))).toEqual({ status: 'done' })
	expect(await get('no-such-run', 'k', '_outputs.a')).toEqual({})
	expect(await readRun(core.sql, 'no-such-run')).toBeUndefined()
})

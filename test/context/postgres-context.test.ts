import { drizzle } from 'drizzle-orm/postgres-js'
import type { IAsyncContext, PatchOperation } from 'flowcraft'
import postgres from 'postgres'
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import { PostgresContext } from '../../src/context/postgres-context.js'
import { createValueCodec, UnstorableValueError } from '../../src/context/values.js'
import { NotFoundError } from '../../src/errors.js'
import { type Core, createCore, flow } from '../support/core.js'

let core: Core
let runId: string
/** Through the interface that Flowcraft users know. */
let context: IAsyncContext<Record<string, unknown>>

beforeAll(async () => {
	core = await createCore()
	await core.register(flow('chain', [['a', 'b']]))
})

afterAll(async () => {
	await core?.drop()
})

beforeEach(async () => {
	runId = await core.start('chain', { input: { greeting: 'hello' } })
	context = contextOf(runId)
})

const contextOf = (id: string): PostgresContext => new PostgresContext(id, { client: core.sql })

const STARTED = { greeting: 'hello' }

/** The whole context, without the run's id: that belongs to Flowcraft's results, not to what anybody has set. */
async function wholeOf(of: IAsyncContext<Record<string, unknown>>): Promise<Record<string, unknown>> {
	const whole = await of.toJSON()
	delete whole['_executionId']
	return whole
}

describe('keys', () => {
	it.each([
		['quotes', `it's a "key" with \`quotes\``],
		['SQL', `'); drop table flowcraft_contexts; --`],
		['dots and brackets', 'a.b[0].c'],
		['braces and commas, as in arrays of Postgres', '{a,"b",NULL}'],
		['the word NULL', 'NULL'],
		['backslashes', 'a\\b\\\\c\\"d'],
		['percent signs and dollars', '%s $1 ${x}'],
		['__proto__', '__proto__'],
		['constructor', 'constructor'],
		['toString', 'toString'],
		['nothing at all', ''],
		['blanks and line breaks', ' \t\n\r '],
		['emoji', '👩‍👩‍👧 🏳️‍🌈'],
		['letters of other scripts', 'ключ/鍵/مفتاح'],
		['a path of Flowcraft', 'nothing._outputs.a'],
		['1024 characters', 'k'.repeat(1024)],
		['1024 characters that take four bytes each in UTF-8', '𝕜'.repeat(512)],
	])('may contain or be %s', async (_, key) => {
		expect(await context.has(key)).toBe(false)
		expect(await context.get(key)).toBeUndefined()

		await context.set(key, 'first')
		await context.set(key, { value: key })
		expect(await context.has(key)).toBe(true)
		expect(await context.get(key)).toEqual({ value: key })
		const whole = await wholeOf(context)
		expect(Object.getPrototypeOf(whole)).toBe(Object.prototype)
		expect(Object.keys(whole).sort()).toEqual(['greeting', key].sort())
		expect(Object.getOwnPropertyDescriptor(whole, key)?.value).toEqual({ value: key })

		expect(await context.delete(key)).toBe(true)
		expect(await context.has(key)).toBe(false)
		expect(await wholeOf(context)).toEqual(STARTED)
	})

	it.each([
		['NUL', 'a\u0000b', /its key contains a NUL character/],
		['half of a surrogate pair', 'a\ud83d', /half of a surrogate pair/],
		['more than 1024 characters', 'k'.repeat(1025), /its key has 1025 characters, the limit is 1024/],
	])('with %s cannot be written, and so are not there', async (_, key, message) => {
		const refused = context.set(key, 1)
		await expect(refused).rejects.toThrow(UnstorableValueError)
		await expect(refused).rejects.toThrow(message)
		expect(await context.has(key)).toBe(false)
		expect(await context.get(key)).toBeUndefined()
		expect(await context.delete(key)).toBe(false)
	})
})

describe('values', () => {
	it.each<[string, unknown]>([
		['null', null],
		['true', true],
		['false', false],
		['zero', 0],
		['a negative fraction', -1.5e-7],
		['the largest safe integer', Number.MAX_SAFE_INTEGER],
		['a huge number', 1.7976931348623157e308],
		['an empty text', ''],
		['a text that looks like JSON', '{"a": [1]}'],
		['a text that looks like a number', '123'],
		['the text null', 'null'],
		['a text with NUL, lone surrogates and a line break', 'a\u0000b\ud800c\n'],
		['a text with quotes and backslashes', `'"\\`],
		['an empty array', []],
		['a nested array', [[], [null, [1, ['two']]]]],
		['an empty object', {}],
		[
			'an object with odd keys',
			JSON.parse('{"__proto__": {"polluted": true}, "": 1, "b": 2, "a": 1, "1": 0}'),
		],
		['something that looks like our own wrapper', { $serialized: 'no' }],
		['a large text', 'x'.repeat(1_000_000)],
		['a deep object', JSON.parse('{"a":'.repeat(500) + '1' + '}'.repeat(500))],
	])('%s comes back as it went in', async (_, value) => {
		await context.set('value', value)

		expect(await context.get('value')).toStrictEqual(value)
		expect(await context.has('value')).toBe(true)
		expect((await wholeOf(context))['value']).toStrictEqual(value)
		expect(JSON.stringify(await context.get('value'))).toBe(JSON.stringify(value))
	})

	it('come back as JSON has them, where JSON has no such thing', async () => {
		await context.set('date', new Date(0))
		await context.set('infinite', Infinity)
		await context.set('sparse', [undefined, 1])

		expect(await wholeOf(context)).toEqual({
			...STARTED,
			date: '1970-01-01T00:00:00.000Z',
			infinite: null,
			sparse: [null, 1],
		})
	})

	it('of undefined delete the key', async () => {
		await context.set('greeting', undefined)

		expect(await context.get('greeting')).toBeUndefined()
		expect(await wholeOf(context)).not.toHaveProperty('greeting')
	})

	it('that cannot be stored are refused with their key, and change nothing', async () => {
		const cyclic: Record<string, unknown> = {}
		cyclic['self'] = cyclic

		await expect(context.set('greeting', cyclic)).rejects.toThrow(
			"The value of 'greeting' cannot be stored: it contains itself",
		)
		await expect(context.set('greeting', 1n)).rejects.toThrow(
			/'greeting' cannot be stored: it contains a BigInt/,
		)
		expect(await context.get('greeting')).toBe('hello')
	})

	it('go through the serializer that the run is written with', async () => {
		const codec = createValueCodec({
			serialize: ({ v }) =>
				v instanceof Map ? `map ${JSON.stringify([...v])}` : `json ${JSON.stringify(v)}`,
			deserialize: (text) => ({
				v: text.startsWith('map ') ? new Map(JSON.parse(text.slice(4))) : JSON.parse(text.slice(5)),
			}),
		})
		const typed = new PostgresContext(runId, { client: core.sql, codec })
		await typed.set('map', new Map([['a', 1]]))

		expect(await typed.get('map')).toEqual(new Map([['a', 1]]))
		expect(await wholeOf(typed)).toMatchObject({ greeting: 'hello', map: new Map([['a', 1]]) })
	})
})

describe('patch', () => {
	it('applies all operations in their order, the last one of a key counting', async () => {
		await context.patch([
			{ op: 'set', key: 'a', value: 1 },
			{ op: 'set', key: 'b', value: 2 },
			{ op: 'delete', key: 'a' },
			{ op: 'delete', key: 'c' },
			{ op: 'set', key: 'c', value: 3 },
			{ op: 'delete', key: 'greeting' },
			{ op: 'set', key: '__proto__', value: 4 },
		])

		const whole = await wholeOf(context)
		expect(Object.entries(whole).sort()).toEqual([
			['__proto__', 4],
			['b', 2],
			['c', 3],
		])
	})

	it('applies all operations or none', async () => {
		const operations: PatchOperation[] = [
			{ op: 'set', key: 'good', value: 1 },
			{ op: 'delete', key: 'greeting' },
			{ op: 'set', key: 'bad', value: 1n },
		]
		await expect(context.patch(operations)).rejects.toThrow(UnstorableValueError)

		expect(await wholeOf(context)).toEqual(STARTED)
	})

	it('of nothing does nothing, even to a run that does not exist', async () => {
		await contextOf('nobody').patch([])
		expect(await wholeOf(context)).toEqual(STARTED)
	})

	it('takes a thousand operations at once', async () => {
		await context.patch(
			Array.from({ length: 1000 }, (_, n) => ({ op: 'set' as const, key: `key ${n}`, value: n })),
		)

		expect(Object.keys(await wholeOf(context))).toHaveLength(1001)
		expect(await context.get('key 999')).toBe(999)
	})

	it('loses nothing to patches of the same run at the same time', async () => {
		await Promise.all(
			Array.from({ length: 20 }, (_, n) =>
				context.patch([
					{ op: 'set', key: `key ${n}`, value: n },
					{ op: 'set', key: 'last', value: n },
				]),
			),
		)

		const whole = await wholeOf(context)
		expect(Object.keys(whole)).toHaveLength(22)
		expect(await context.get('last')).toBe(whole['last'])
	})
})

describe('delete', () => {
	it('tells whether there was something to delete', async () => {
		expect(await context.delete('greeting')).toBe(true)
		expect(await context.delete('greeting')).toBe(false)
		expect(await context.delete('nothing')).toBe(false)
		expect(await wholeOf(context)).toEqual({})
	})

	it('leaves room for another value of the key', async () => {
		await context.delete('greeting')
		await context.set('greeting', 'again')

		expect(await wholeOf(context)).toEqual({ ...STARTED, greeting: 'again' })
	})
})

describe('outputs of nodes', () => {
	beforeEach(async () => {
		const node = await core.claimed(await core.worker(), runId, 'a')
		await core.commit(core.completed(node, { output: { n: 1 }, writes: { note: 'from a' } }))
	})

	it("are there under Flowcraft's keys, beside what the nodes wrote and what they were given", async () => {
		expect(await wholeOf(context)).toEqual({
			...STARTED,
			a: { n: 1 },
			'_outputs.a': { n: 1 },
			'_inputs.b': { n: 1 },
			note: 'from a',
		})
		for (const [key, value] of Object.entries(await wholeOf(context))) {
			expect(await context.get(key), key).toEqual(value)
			expect(await context.has(key), key).toBe(true)
		}
	})

	it('are hidden by what is set or deleted later, and hide what was set before', async () => {
		await context.set('a', 'set later')
		expect(await wholeOf(context)).toMatchObject({ a: 'set later', '_outputs.a': { n: 1 } })
		await context.delete('_outputs.a')
		expect(await context.has('_outputs.a')).toBe(false)
		expect(await wholeOf(context)).not.toHaveProperty(['_outputs.a'])

		await context.set('b', 'set before')
		const node = await core.claimed(await core.worker(), runId, 'b')
		await core.commit(core.completed(node, { output: 'committed' }))
		expect(await context.get('b')).toBe('committed')
	})
})

describe('a run', () => {
	it('that does not exist has an empty context, which cannot be written', async () => {
		const nobody = contextOf('nobody')

		expect(await nobody.get('greeting')).toBeUndefined()
		expect(await nobody.has('greeting')).toBe(false)
		expect(await nobody.delete('greeting')).toBe(false)
		expect(await wholeOf(nobody)).toEqual({})
		await expect(nobody.set('greeting', 'hello')).rejects.toThrow(NotFoundError)
		await expect(nobody.patch([{ op: 'delete', key: 'greeting' }])).rejects.toThrow(
			"There is no run 'nobody'.",
		)
		expect(await core.rows("select key from flowcraft_contexts where run_id = 'nobody'")).toEqual([])
	})

	it('sees nothing of another one', async () => {
		const other = await core.start('chain')
		await contextOf(other).set('greeting', 'goodbye')

		expect(await wholeOf(context)).toEqual(STARTED)
	})

	it('that has ended can still be read and annotated', async () => {
		await core.rows(`select flowcraft_cancel_run($1, 'enough')`, runId)
		await context.set('note', 'why it was cancelled')

		expect(await wholeOf(context)).toEqual({ ...STARTED, note: 'why it was cancelled' })
	})
})

describe('a transaction of the caller', () => {
	it('of postgres.js takes the writes with it', async () => {
		const writing = core.sql.begin(async (tx) => {
			const inside = new PostgresContext(runId, { client: tx })
			await inside.set('greeting', 'uncommitted')
			expect(await inside.get('greeting')).toBe('uncommitted')
			expect(await context.get('greeting')).toBe('hello')
			throw new Error('rolled back')
		})
		await expect(writing).rejects.toThrow('rolled back')

		expect(await context.get('greeting')).toBe('hello')
	})

	it('of Drizzle takes the writes with it', async () => {
		const client = postgres(core.url, { max: 1, onnotice: () => {} })
		onTestFinished(() => client.end())
		await drizzle(client).transaction(async (tx) => {
			await new PostgresContext(runId, { client: tx }).patch([
				{ op: 'set', key: `it's`, value: ['{"a,b"}', '\\'] },
			])
		})

		expect(await context.get(`it's`)).toEqual(['{"a,b"}', '\\'])
	})
})

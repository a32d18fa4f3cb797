/**
 * Thousands of hostile keys and values through real runs, as the input of a start and as what nodes set: each comes back
 * as it went in, to a later node and in the result, or its run fails with a message that names the key.
 */
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { InvalidInputError } from '../../src/errors.js'
import { startEngine, type TestEngine } from '../support/engine.js'
import { testSize } from '../support/size.js'
import { FAULTY_TEXTS, HOSTILE_TEXTS } from './schema-arbitrary.js'

/** Pairs of a key and a value. */
const PAIRS = testSize('FUZZ_VALUES', { small: 500, full: 5000 })
const SEED = Number(process.env['FUZZ_SEED'] ?? Date.now() % 1_000_000)
const PER_RUN = 50
/** Runs under way at once. */
const PARALLEL = 8
const TIMEOUT_MS = 120_000 + PAIRS * 100

type Pair = readonly [key: string, value: unknown]

interface Batch {
	readonly input: readonly Pair[]
	readonly written: readonly Pair[]
	/** What the second node has read. */
	readonly read: Map<string, unknown>
}

const batches = new Map<string, Batch>()
let engine: TestEngine

beforeAll(async () => {
	engine = await startEngine({
		workflows: {
			blueprints: {
				values: {
					id: 'values',
					nodes: [
						{ id: 'write', uses: 'write' },
						{ id: 'read', uses: 'read' },
					],
					edges: [{ source: 'write', target: 'read' }],
				},
			},
			registry: {
				write: async ({ context }) => {
					const batch = batches.get(String(await context.get('batch')))
					for (const [key, value] of batch?.written ?? []) await context.set(key, value)
					return {}
				},
				read: async ({ context }) => {
					const batch = batches.get(String(await context.get('batch')))
					await Promise.all(
						[...(batch?.input ?? []), ...(batch?.written ?? [])].map(async ([key]) => {
							batch?.read.set(key, await context.get(key))
						}),
					)
					return {}
				},
			},
		},
	})
})
afterAll(() => engine?.stop())

/** Keys that mean something to Flowcraft, or are already taken. */
const isReserved = (key: string): boolean =>
	/^_(outputs|inputs)\./.test(key) || ['batch', 'write', 'read', '_executionId'].includes(key)

const text = fc.oneof(
	fc.constantFrom(...HOSTILE_TEXTS),
	fc.string({ unit: 'binary', maxLength: 40 }),
	fc.string({ unit: 'grapheme', maxLength: 40 }),
)
const key = fc
	.oneof(
		{ weight: 3, arbitrary: fc.tuple(text, fc.nat(10_000)).map(([name, number]) => `${name}${number}`) },
		{ weight: 3, arbitrary: text },
		{ weight: 1, arbitrary: fc.constantFrom(...FAULTY_TEXTS) },
		{ weight: 1, arbitrary: fc.integer({ min: 900, max: 1_100 }).map((length) => 'k'.repeat(length)) },
	)
	.filter((name) => !isReserved(name))

function nested(depth: number): unknown {
	let value: unknown = 'core'
	for (let i = 0; i < depth; i++) value = i % 2 === 0 ? [value] : { a: value }
	return value
}

const value = fc.oneof(
	{ weight: 4, arbitrary: fc.jsonValue({ maxDepth: 4, stringUnit: 'binary' }) },
	{ weight: 3, arbitrary: fc.oneof(text, fc.constantFrom(...FAULTY_TEXTS)) },
	{
		weight: 2,
		arbitrary: fc.constantFrom(
			Number.MAX_VALUE,
			-Number.MAX_VALUE,
			Number.MIN_VALUE,
			Number.MAX_SAFE_INTEGER,
			2 ** 63,
			1e21,
			-0,
			0.1 + 0.2,
			null,
			false,
			'',
			[],
			{},
		),
	},
	{ weight: 2, arbitrary: fc.dictionary(text, fc.oneof(fc.jsonValue(), text), { maxKeys: 6 }) },
	{ weight: 1, arbitrary: fc.integer({ min: 1, max: 3_000 }).map(nested) },
	{
		weight: 1,
		arbitrary: fc.integer({ min: 1, max: 20_000 }).map((length) => 'v\u{1f480}'.repeat(length)),
	},
	{ weight: 1, arbitrary: fc.constantFrom<unknown>(10n, { deep: [1n] }, circular()) },
)

function circular(): unknown {
	const self: Record<string, unknown> = {}
	self['self'] = [self]
	return self
}

/** Why Postgres or JSON will never hold this pair; undefined if they will. */
function unstorable([name, content]: Pair): string | undefined {
	if (name.includes('\u0000')) return 'a key with NUL'
	if (!name.isWellFormed()) return 'a key with half of a surrogate pair'
	if (name.length > 1024) return 'a key of more than 1024 characters'
	try {
		JSON.stringify(content)
		return undefined
	} catch (error) {
		return error instanceof Error && error.message.includes('BigInt') ? 'a BigInt' : 'a value in itself'
	}
}

/** As an error writes a key: shortened, and in characters that text may have. */
const inMessages = (name: string): string =>
	(name.length > 200 ? name.slice(0, 200) : name).replaceAll('\u0000', '\\u0000').toWellFormed()

/** Runs the pairs; of those that a message refuses, one after the other is left out. Returns what was refused. */
async function carry(input: Pair[], written: Pair[]): Promise<Pair[]> {
	const refused: Pair[] = []
	const refuse = (pairs: Pair[], message: string): Pair[] => {
		const [culprit] = pairs.filter(
			(pair) => unstorable(pair) !== undefined && message.includes(inMessages(pair[0])),
		)
		if (culprit === undefined) throw new Error(`No key of a bad pair is named in: ${message}`)
		refused.push(culprit)
		return pairs.filter((pair) => pair !== culprit)
	}
	for (;;) {
		const id = crypto.randomUUID()
		const batch: Batch = { input, written, read: new Map() }
		batches.set(id, batch)
		let runId: string
		try {
			runId = await engine.start({
				blueprint: 'values',
				input: Object.fromEntries([...input, ['batch', id]]),
			})
		} catch (error) {
			if (!(error instanceof InvalidInputError)) throw error
			input = refuse(input, error.message)
			continue
		}
		const run = await engine.end(runId, 60_000)
		if (run.status === 'failed') {
			expect(run.errors).toHaveLength(1)
			written = refuse(written, run.errors?.[0]?.message ?? '')
			continue
		}
		expect(run.status).toBe('completed')
		for (const [name, content] of [...input, ...written]) {
			expect(batch.read.has(name), JSON.stringify(name)).toBe(true)
			expect(Object.hasOwn(run.context, name), JSON.stringify(name)).toBe(true)
			// As text: the order of keys counts too, and an assertion on values overflows the stack before JSON does.
			const stored = JSON.stringify(JSON.parse(JSON.stringify(content)))
			expect(JSON.stringify(batch.read.get(name)) === stored, JSON.stringify(name)).toBe(true)
			expect(JSON.stringify(run.context[name]) === stored, JSON.stringify(name)).toBe(true)
		}
		return refused
	}
}

/** In batches without repeated keys. */
function inBatches(pairs: readonly Pair[]): Pair[][] {
	const open: Map<string, Pair>[] = []
	for (const pair of pairs) {
		let batch = open.find((one) => one.size < PER_RUN && !one.has(pair[0]))
		if (batch === undefined) open.push((batch = new Map<string, Pair>()))
		batch.set(pair[0], pair)
	}
	return open.map((batch) => [...batch.values()])
}

test(
	`${PAIRS} hostile keys and values (seed ${SEED}) come back as they went in, or fail their run by name`,
	async () => {
		const sample = fc.sample(fc.tuple(key, value), { numRuns: PAIRS, seed: SEED })
		const refusals = new Map<string, number>()
		const todo = inBatches(sample)
		const runs = todo.length
		const work = async (): Promise<void> => {
			for (let batch = todo.pop(); batch !== undefined; batch = todo.pop()) {
				const half = Math.floor(batch.length / 2)
				// A start refuses what it cannot store; a node fails by it.
				for (const pair of await carry(batch.slice(0, half), batch.slice(half))) {
					const why = unstorable(pair) ?? 'nothing that is wrong with it'
					refusals.set(why, (refusals.get(why) ?? 0) + 1)
				}
			}
		}
		await Promise.all(Array.from({ length: PARALLEL }, work))
		const refused = [...refusals.values()].reduce((sum, count) => sum + count, 0)
		console.log(
			`${PAIRS} pairs in ${runs} batches, seed ${SEED}: ${PAIRS - refused} came back, ${refused} refused by name (${[
				...refusals,
			]
				.map(([why, count]) => `${count} × ${why}`)
				.join(', ')})`,
		)
		expect(refused).toBe(sample.filter((pair) => unstorable(pair) !== undefined).length)
		expect(PAIRS - refused).toBeGreaterThan(PAIRS / 2)
	},
	TIMEOUT_MS,
)

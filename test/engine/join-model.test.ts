/**
 * Random programs of nested loops, joins and batches: what runs, in which turn, and how often, as a model says that
 * shares nothing with the planner; with every message doubled, shuffled and late, on four workers.
 */
import fc from 'fast-check'
import { UnsafeEvaluator } from 'flowcraft'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { registerBlueprint } from '../../src/blueprint/register.js'
import { noLogger } from '../../src/ports/logger.js'
import { createInProcessBroker } from '../../worker/broker/in-process.js'
import { adversarial, type AdversarialBroker } from '../support/adversarial-broker.js'
import { startEngine, type TestEngine } from '../support/engine.js'
import { testSize } from '../support/size.js'
import { at, blocksIn, type Outcome, type Program, predict } from './join-model.js'
import { blueprintOf, programRegistry, randomProgram } from './join-programs.js'

const PROGRAMS = testSize('MODEL_PROGRAMS', { small: 40, full: 500 })
const SEED = Number(process.env['RANDOM_SEED'] ?? Date.now() % 1_000_000)
/** Under way at once. */
const PARALLEL = 8
const TIMEOUT_MS = Math.max(240_000, PROGRAMS * 2_000)

let engine: TestEngine
let broker: AdversarialBroker
/** Construct × outcome, of the programs by hand and the random ones. */
const table = new Map<string, { construct: string; completed: number; failed: number }>()
/** Executions, by run and node. */
const calls = new Map<string, number>()

beforeAll(async () => {
	broker = adversarial(createInProcessBroker({ queues: ['flowcraft-jobs'] }))
	const workflows = {
		registry: programRegistry((runId, key) => {
			calls.set(`${runId} ${key}`, (calls.get(`${runId} ${key}`) ?? 0) + 1)
		}),
		evaluator: new UnsafeEvaluator(),
		logger: noLogger,
	}
	engine = await startEngine({ broker })
	for (let worker = 0; worker < 4; worker++) await engine.addWorker(workflows, { concurrency: 4 })
})
afterAll(() => engine.stop())

/** The stored form of a generation is `a1b12…`: a letter for the count of digits, then the digits. */
const turnsOf = (generation: string): number[] =>
	[...generation.matchAll(/[a-p](\d+)/g)].map(([, digits]) => Number(digits))

/** Runs a program to its end: what ran, and what the engine must not have done. */
async function run(id: string, program: Program): Promise<Outcome & { readonly wrong: unknown[] }> {
	await registerBlueprint(engine.database.sql, blueprintOf(id, program))
	const runId = await engine.start({ blueprint: id })
	const { status } = await engine.end(runId, 60_000)
	const rows = await engine.rows<{ node_id: string; generation: string; dynamic: string | null }>(
		`select node_id, generation, dynamic from flowcraft_nodes
		where run_id = $1 and state in ('completed', 'failed', 'recovered')`,
		runId,
	)
	const ran = rows.map(({ node_id: nodeId, generation, dynamic }) => {
		const turns = turnsOf(generation)
		if (dynamic === null) return at(nodeId, turns)
		// A node of a batch: its place is the scatter or the gather that added it, its id ends with the item.
		const { place } = JSON.parse(dynamic) as { place: string }
		return at(place.replace(/^[a-z]+/, `item${nodeId.split('_').at(-1) ?? ''}`), turns)
	})
	const twice = [...calls].filter(([key, count]) => key.startsWith(runId) && count > 1)
	const joins = await engine.rows(
		`select node_id, generation, arrived, expected from flowcraft_nodes
		where run_id = $1 and expected is not null and state <> 'pending' and arrived <> expected`,
		runId,
	)
	for (const construct of new Set(constructsIn(program))) {
		const row = table.get(construct) ?? { construct, completed: 0, failed: 0 }
		row[predict(program).status] += 1
		table.set(construct, row)
	}
	return { status: status as Outcome['status'], ran: ran.sort(), wrong: [...twice, ...joins] }
}

/** What a program holds, for the table. */
function constructsIn(block: Program, around: readonly string[] = []): string[] {
	const own = ((): string[] => {
		switch (block.type) {
			case 'leaf':
				return block.fate === 'done'
					? []
					: [`a node that ${block.fate === 'fails' ? 'fails' : 'is rescued'}`]
			case 'sequence':
				return []
			case 'parallel':
				return [
					`${block.join} join of several`,
					...(block.isFed ? ['all join, fed from outside'] : []),
				]
			case 'choice':
				return [`${block.join} join of one of several`]
			case 'loop':
				return [`loop, ${block.controllerJoin} controller`]
			case 'batch':
				return [block.items > block.chunkSize ? 'batch in chunks' : 'batch at once']
		}
	})()
	const inLoop = around.includes('loop') ? own.map((construct) => `${construct}, in a loop`) : []
	return [
		...own,
		...inLoop,
		...blocksIn(block).flatMap((inner) => constructsIn(inner, [...around, block.type])),
	]
}

const leaf: Program = { type: 'leaf', fate: 'done' }
const several = (join: 'all' | 'any', isFed = false): Program => ({
	type: 'parallel',
	join,
	isFed,
	branches: [leaf, { type: 'sequence', parts: [leaf, leaf] }, leaf],
})
const loop = (turns: number, body: Program, controllerJoin: 'all' | 'any' = 'all'): Program => ({
	type: 'loop',
	turns,
	controllerJoin,
	body,
})

describe('as the model says', () => {
	test.each<[string, Program]>([
		['an any join of three that all arrive, in a loop, runs once in each turn', loop(3, several('any'))],
		['a loop in a loop in a loop turns as often as they say', loop(2, loop(3, loop(2, leaf), 'any'))],
		[
			'an all join in an inner loop that is fed from outside both joins once in each turn of both',
			loop(3, loop(2, several('all', true))),
		],
		[
			'a batch in chunks in a loop in a loop is a new one in each turn',
			loop(2, loop(2, { type: 'batch', items: 7, chunkSize: 3 })),
		],
		[
			'a batch in chunks that a loop leaves behind at an any join is one of its own in each turn',
			loop(3, {
				type: 'parallel',
				join: 'any',
				isFed: false,
				branches: [leaf, { type: 'batch', items: 9, chunkSize: 2 }],
			}),
		],
		[
			'an all join behind one branch of several never runs, in a loop either, and the run ends',
			loop(3, { type: 'choice', join: 'all', taken: 1, branches: [leaf, leaf] }),
		],
	])(
		'%s',
		async (_, program) => {
			expect(await run(`fixed-${crypto.randomUUID()}`, program)).toEqual({
				...predict(program),
				wrong: [],
			})
		},
		60_000,
	)

	test(
		`${PROGRAMS} random programs run what they should, each node once in each turn`,
		async () => {
			console.log(`seed ${SEED}`)
			const programs = fc.sample(randomProgram, { numRuns: PROGRAMS, seed: SEED })
			let next = 0
			await Promise.all(
				Array.from({ length: PARALLEL }, async () => {
					for (let position = next++; position < programs.length; position = next++) {
						const program = programs[position] as Program
						const seen = await run(`program-${position}`, program)
						expect(seen, `seed ${SEED}, program ${position}: ${JSON.stringify(program)}`).toEqual(
							{ ...predict(program), wrong: [] },
						)
					}
				}),
			)
			console.table([...table.values()].sort((a, b) => a.construct.localeCompare(b.construct)))
			expect([...table.keys()]).toEqual(
				expect.arrayContaining([
					'any join of several, in a loop',
					'all join of several, in a loop',
					'all join of one of several, in a loop',
					'batch in chunks, in a loop',
					'all join, fed from outside, in a loop',
					'loop, all controller, in a loop',
					'loop, any controller, in a loop',
				]),
			)
			expect(broker.repeated()).toBeGreaterThan(PROGRAMS)
		},
		TIMEOUT_MS,
	)
})

/** A few hundred random blueprints: distributed, and with every message doubled and shuffled, as in process. */
import fc from 'fast-check'
import {
	FlowRuntime,
	isNodeClass,
	type NodeClass,
	type NodeContext,
	type NodeFunction,
	type WorkflowBlueprint,
} from 'flowcraft'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { registerBlueprint } from '../../src/blueprint/register.js'
import { noLogger } from '../../src/ports/logger.js'
import { createInProcessBroker } from '../../worker/broker/in-process.js'
import type { Worker } from '../../worker/worker/worker.js'
import { adversarial, type AdversarialBroker } from '../support/adversarial-broker.js'
import { startEngine, type TestEngine } from '../support/engine.js'
import { testSize } from '../support/size.js'
import { registry } from './catalogue/registry.js'
import { type RandomCase, randomCase } from './random-blueprints.js'

/** Blueprints per test. */
const RUNS = testSize('RANDOM_BLUEPRINTS', { small: 200, full: 1000 })
/** Most blueprints take a few ms; retries and a loaded machine take the rest. */
const TIMEOUT_MS = Math.max(240_000, RUNS * 1_000)
const SEED = Number(process.env['RANDOM_SEED'] ?? Date.now() % 1_000_000)
/** What `randomCase` has to hold, or the cases are trivial. */
const CONSTRUCTS = [
	'all join',
	'any join',
	'several starts',
	'plain edge',
	'true edge',
	'false edge',
	'action edge',
	'other edge',
	'transform edge',
	'value',
	'echo',
	'write',
	'route',
	'flaky',
	'rescued',
	'fail',
	'fatal',
	'exhausted',
]
/** Nodes that fail for good never complete a run that reaches them. */
const ALWAYS_FAILING = new Set(['fail', 'fatal', 'exhausted'])
/** Blueprints under way at once. */
const PARALLEL = 10

/** The attempt of a node's two: the engine gives its number, in process they have to be counted. */
function flaky(attemptOf: (name: string, given: Record<string, unknown>) => number): NodeFunction {
	return async ({ params, dependencies }) => {
		const name = String(params['name'])
		const attempt = attemptOf(name, dependencies)
		if (attempt < Number(params['succeedsAt'])) throw new Error(`attempt ${attempt} of ${name}`)
		return { output: `succeeded at ${attempt}` }
	}
}

function counted(): NodeFunction {
	const calls = new Map<string, number>()
	return flaky((name) => {
		const call = calls.get(name) ?? 0
		calls.set(name, call + 1)
		// An `any` join may run what follows it several times: each time two attempts.
		return (call % 2) + 1
	})
}

function comparable(context: Record<string, unknown>): Record<string, unknown> {
	const plain = JSON.parse(JSON.stringify(context)) as Record<string, unknown>
	return Object.fromEntries(
		Object.entries(plain).filter(([key]) => !key.startsWith('_inputs.') && key !== '_executionId'),
	)
}

/** Implementations that note each execution: of a node, in a run, at an attempt. */
function noting(executions: Map<string, number>, nodes: Registry): Registry {
	const note = (context: NodeContext): void => {
		const key = `${String(context.dependencies['idempotencyKey'])} ${String(context.dependencies['attempt'])}`
		executions.set(key, (executions.get(key) ?? 0) + 1)
	}
	return Object.fromEntries(
		Object.entries(nodes).map(([uses, implementation]) => [
			uses,
			isNodeClass(implementation)
				? implementation
				: (context: NodeContext) => {
						note(context)
						return implementation(context)
					},
		]),
	)
}

interface Outcome {
	readonly status: string
	readonly errors: readonly string[]
	readonly context: Record<string, unknown>
}

async function inProcess(blueprint: WorkflowBlueprint): Promise<Outcome> {
	const runtime = new FlowRuntime({ registry: { ...registry, flaky: counted() }, logger: noLogger })
	const { status, context, errors = [] } = await runtime.run(structuredClone(blueprint), {})
	// What follows an `any` join that runs several times fails several times too.
	const failed = [...new Set(errors.map((error) => String(error.nodeId)))].sort()
	// Settled: in process a run completes as soon as any fallback ran; here only if every failure was recovered.
	return { status: failed.length > 0 ? 'failed' : status, errors: failed, context: comparable(context) }
}

async function distributed(engine: TestEngine, blueprint: WorkflowBlueprint): Promise<Outcome> {
	await registerBlueprint(engine.database.sql, blueprint)
	const {
		status,
		context,
		errors = [],
	} = await engine.end(await engine.start({ blueprint: blueprint.id }), 60_000)
	return { status, errors: errors.map(({ nodeId }) => nodeId).sort(), context: comparable(context) }
}

/** Runs all cases, some at a time, and reports the first difference with its blueprint. */
async function compareAll(engine: TestEngine, name: string): Promise<Table> {
	const cases = fc.sample(randomCase, { numRuns: RUNS, seed: SEED })
	const table: Table = new Map()
	let next = 0
	await Promise.all(
		Array.from({ length: PARALLEL }, async () => {
			for (let position = next++; position < cases.length; position = next++) {
				const { blueprint: definition, constructs } = cases[position] as RandomCase
				const blueprint = { id: `${name}-${position}`, ...definition }
				const [expected, actual] = await Promise.all([
					inProcess(blueprint),
					distributed(engine, blueprint),
				])
				expect(actual, `seed ${SEED}, case ${position}: ${JSON.stringify(definition)}`).toEqual(
					expected,
				)
				for (const construct of constructs) {
					const row = table.get(construct) ?? new Map<string, number>()
					row.set(actual.status, (row.get(actual.status) ?? 0) + 1)
					table.set(construct, row)
				}
			}
		}),
	)
	return table
}

type Registry = Record<string, NodeFunction | NodeClass>
type Table = Map<string, Map<string, number>>

/** Prints construct × outcome, and fails for an empty cell: a thousand trivial graphs prove nothing. */
function expectNoEmptyCell(table: Table): void {
	const rows = CONSTRUCTS.map((construct) => ({
		construct,
		completed: table.get(construct)?.get('completed') ?? 0,
		failed: table.get(construct)?.get('failed') ?? 0,
	}))
	console.table(rows)
	const empty = rows.filter(
		({ construct, completed, failed }) =>
			failed === 0 || (completed === 0 && !ALWAYS_FAILING.has(construct)),
	)
	expect(empty, `seed ${SEED}`).toEqual([])
	expect([...table.keys()].filter((construct) => !CONSTRUCTS.includes(construct))).toEqual([])
}

describe(`${RUNS} random blueprints, seed ${SEED}`, () => {
	let engine: TestEngine
	let hostile: TestEngine
	let broker: AdversarialBroker
	const workers: Worker[] = []
	const executions = new Map<string, number>()
	beforeAll(async () => {
		const nodes = { ...registry, flaky: flaky((_, given) => Number(given['attempt'])) }
		engine = await startEngine({ workflows: { registry: nodes, logger: noLogger } })
		broker = adversarial(createInProcessBroker({ queues: ['flowcraft-jobs'] }))
		hostile = await startEngine({ broker })
		const noted = { registry: noting(executions, nodes), logger: noLogger }
		// Two of them go on with successors by themselves, two get a message for every node.
		for (const maxInARow of [8, 8, 1, 1])
			workers.push(await hostile.addWorker(noted, { concurrency: 4, maxInARow }))
	})
	afterAll(async () => {
		await Promise.all([engine.stop(), hostile.stop()])
	})

	test(
		'end as in process',
		async () => {
			expectNoEmptyCell(await compareAll(engine, 'plain'))
		},
		TIMEOUT_MS,
	)

	test(
		'end the same on four workers with every message delivered twice, shuffled and late: each attempt once, no join lost or doubled',
		async () => {
			expectNoEmptyCell(await compareAll(hostile, 'hostile'))

			// It was as bad as it should be.
			expect(broker.repeated()).toBeGreaterThan(RUNS)
			for (const worker of workers) expect(worker.counts().completed).toBeGreaterThan(0)

			expect([...executions].filter(([, times]) => times > 1)).toEqual([])
			const [row] = await hostile.rows<{
				executed: number
				doubled: number
				lost: number
				left: number
			}>(
				`select
					(select sum(attempt)::int from flowcraft_nodes where state in ('completed', 'failed', 'recovered')) as executed,
					(select count(*)::int from flowcraft_nodes n where expected is not null and (
						arrived > expected or arrived <> (
							select count(*) from flowcraft_arrivals a
							where a.run_id = n.run_id and a.node_id = n.node_id and a.generation = n.generation
						)
					)) as doubled,
					(select count(*)::int from flowcraft_nodes
						where expected is not null and state = 'pending' and arrived = expected and taken > 0) as lost,
					(select count(*)::int from flowcraft_statuses where finished_at is null) as left`,
			)
			expect(row).toEqual({ executed: executions.size, doubled: 0, lost: 0, left: 0 })
		},
		TIMEOUT_MS,
	)
})

/** A few hundred random blueprints: distributed, and with every message doubled and shuffled, as in process. */
import fc from 'fast-check'
import { FlowRuntime, type NodeFunction, type WorkflowBlueprint } from 'flowcraft'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { registerBlueprint } from '../../src/blueprint/register.js'
import type { Broker } from '../../src/ports/broker.js'
import { noLogger } from '../../src/ports/logger.js'
import { createInProcessBroker } from '../../worker/broker/in-process.js'
import { startEngine, type TestEngine } from '../support/engine.js'
import { testSize } from '../support/size.js'
import { registry } from './catalogue/registry.js'
import { type RandomCase, randomCase } from './random-blueprints.js'

/** Blueprints per test. */
const RUNS = testSize('RANDOM_BLUEPRINTS', { small: 200, full: 1000 })
/** Most blueprints take a few ms; retries and a loaded machine take the rest. */
const TIMEOUT_MS = Math.max(240_000, RUNS * 1_000)
const SEED = Number(process.env['RANDOM_SEED'] ?? Date.now() % 1_000_000)
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
	const { status, context, errors = [] } = await engine.run({ blueprint: blueprint.id })
	return { status, errors: errors.map(({ nodeId }) => nodeId).sort(), context: comparable(context) }
}

/** Runs all cases, some at a time, and reports the first difference with its blueprint. */
async function compareAll(engine: TestEngine, name: string): Promise<Map<string, Map<string, number>>> {
	const cases = fc.sample(randomCase, { numRuns: RUNS, seed: SEED })
	const table = new Map<string, Map<string, number>>()
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

/** Delivers every message twice, the second time at random, and none in the order of its publication. */
function adversarial(broker: Broker): Broker {
	return {
		...broker,
		async publish(messages) {
			const shuffled = messages
				.map((message, position) => ({ message, position, key: Math.random() }))
				.sort((a, b) => a.key - b.key)
			const outcomes = await broker.publish(shuffled.map(({ message }) => message))
			setTimeout(() => void broker.publish(shuffled.map(({ message }) => message)), Math.random() * 20)
			return shuffled
				.map((each, place) => ({ ...each, outcome: outcomes[place] }))
				.sort((a, b) => a.position - b.position)
				.map(({ outcome }) => outcome ?? { status: 'failed', reason: 'no answer' })
		},
		depth: (queue) => broker.depth(queue),
		consume: (options) => broker.consume(options),
		isConnected: () => broker.isConnected(),
		close: () => broker.close(),
	}
}

describe(`${RUNS} random blueprints, seed ${SEED}`, () => {
	let engine: TestEngine
	let hostile: TestEngine
	beforeAll(async () => {
		const module = {
			registry: { ...registry, flaky: flaky((_, given) => Number(given['attempt'])) },
			logger: noLogger,
		}
		engine = await startEngine({ workflows: module })
		hostile = await startEngine({
			workflows: module,
			worker: { concurrency: 4 },
			broker: adversarial(createInProcessBroker({ queues: ['flowcraft-jobs'] })),
		})
		for (let more = 0; more < 3; more++) await hostile.addWorker(module, { concurrency: 4 })
	})
	afterAll(async () => {
		await Promise.all([engine.stop(), hostile.stop()])
	})

	test(
		'end as in process',
		async () => {
			const table = await compareAll(engine, 'plain')
			const rows = [...table].map(([construct, outcomes]) => ({
				construct,
				completed: outcomes.get('completed') ?? 0,
				failed: outcomes.get('failed') ?? 0,
			}))
			console.table(rows.sort((a, b) => a.construct.localeCompare(b.construct)))
			// Nodes that fail for good never complete a run; every other construct has been seen with both ends.
			const alwaysFailing = new Set(['fail', 'fatal', 'exhausted'])
			for (const { construct, completed, failed } of rows) {
				expect(failed, `${construct} in runs that fail`).toBeGreaterThan(0)
				if (!alwaysFailing.has(construct))
					expect(completed, `${construct} in runs that complete`).toBeGreaterThan(0)
			}
		},
		TIMEOUT_MS,
	)

	test(
		'end the same with every message delivered twice and shuffled, on four workers',
		async () => {
			await compareAll(hostile, 'hostile')
			const [doubles] = await hostile.rows<{ joins: number; left: number }>(
				`select (select count(*)::int from flowcraft_nodes where arrived > expected) as joins,
				(select count(*)::int from flowcraft_statuses where finished_at is null) as left`,
			)
			expect(doubles).toEqual({ joins: 0, left: 0 })
		},
		TIMEOUT_MS,
	)
})

/** The distributed result equals the result of Flowcraft's in-process runtime, wherever that is the reference. */
import { FlowRuntime, type WorkflowBlueprint } from 'flowcraft'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { noLogger } from '../../src/ports/logger.js'
import { startEngine, type TestEngine } from '../support/engine.js'
import { type Case, catalogue, children, registry } from './catalogue.js'

const blueprintOf = (testCase: Case, position: number): WorkflowBlueprint => ({
	id: `case-${position}`,
	...testCase.blueprint,
})

const module = {
	registry,
	blueprints: Object.fromEntries(
		[...catalogue.map(blueprintOf), ...children].map((blueprint) => [blueprint.id, blueprint]),
	),
	logger: noLogger,
}

let engine: TestEngine
beforeAll(async () => {
	engine = await startEngine({ workflows: { ...module, dependencies: { attempts: new Map() } } })
})
afterAll(() => engine.stop())

/** What both have to agree on: everything but the inputs that edges leave behind and the run's own id. */
function comparable(context: Record<string, unknown>): Record<string, unknown> {
	const plain = JSON.parse(JSON.stringify(context)) as Record<string, unknown>
	return Object.fromEntries(
		Object.entries(plain)
			.filter(([key]) => !key.startsWith('_inputs.') && key !== '_executionId')
			// A subflow with mapped outputs returns its whole context, which holds the same two.
			.map(([key, value]) => [
				key,
				isRecord(value) && '_executionId' in value ? comparable(value) : value,
			]),
	)
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
	typeof value === 'object' && value !== null && !Array.isArray(value)

describe('runs distributed as in process', () => {
	test.each(catalogue.map((testCase, position) => [testCase.name, testCase, position] as const))(
		'%s',
		async (_, testCase, position) => {
			const blueprint = blueprintOf(testCase, position)
			const runtime = new FlowRuntime({ ...module, dependencies: { attempts: new Map() } })
			const [expected, actual] = await Promise.all([
				runtime.run(structuredClone(blueprint), structuredClone(testCase.input ?? {})),
				engine.run({ blueprint: blueprint.id, input: testCase.input ?? {} }),
			])
			expect(actual.status).toBe(expected.status)
			expect(comparable(actual.context)).toEqual(comparable(expected.context))
			expect((actual.errors ?? []).map(({ nodeId }) => nodeId).sort()).toEqual(
				(expected.errors ?? []).map(({ nodeId }) => nodeId).sort(),
			)
		},
	)
})

/**
 * The distributed result equals the result of Flowcraft's in-process runtime, wherever that is the reference; where a
 * settled difference applies (`catalogue/differences.ts`), it equals what the case says.
 */
import { FlowRuntime, type WorkflowBlueprint } from 'flowcraft'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { validateBlueprint } from '../../src/blueprint/validate.js'
import { InvalidInputError } from '../../src/errors.js'
import { readRun } from '../../src/run/read.js'
import { resumeRun } from '../../src/run/resume.js'
import { type EndedRun, startEngine, type TestEngine } from '../support/engine.js'
import { waitFor } from '../support/wait-for.js'
import { type Case, type Construct, CONSTRUCTS, type Expectation } from './catalogue/case.js'
import { type Difference, differences, type Reference } from './catalogue/differences.js'
import { catalogue } from './catalogue/index.js'
import { optionsOf } from './catalogue/setups.js'
import { children } from './catalogue/subflows.js'

/** Most cases take a few ms; a loaded machine takes the rest. */
const DEADLINE_MS = 60_000

const setupOf = ({ setup = 'plain' }: Case): NonNullable<Case['setup']> => setup
const blueprintOf = (testCase: Case, position: number): WorkflowBlueprint => ({
	id: `case-${position}`,
	...testCase.blueprint,
})
const isRefused = ({ expected }: Case): boolean => expected?.status === 'refused'

const engines = new Map<string, TestEngine>()
beforeAll(async () => {
	for (const setup of new Set(catalogue.map(setupOf))) {
		const blueprints = [
			...catalogue.map(blueprintOf).filter((_, position) => {
				const testCase = catalogue[position] as Case
				return setupOf(testCase) === setup && !isRefused(testCase)
			}),
			...children,
		]
		const workflows = {
			...optionsOf(setup),
			blueprints: Object.fromEntries(blueprints.map((blueprint) => [blueprint.id, blueprint])),
		}
		engines.set(setup, await startEngine({ workflows }))
	}
})
afterAll(() => Promise.all([...engines.values()].map((engine) => engine.stop())))

const isRecord = (value: unknown): value is Record<string, unknown> =>
	typeof value === 'object' && value !== null && !Array.isArray(value)

/** Keys that name a batch by an id of the moment, beside the run's own id and what edges leave behind. */
const INTERNAL =
	/^(_inputs\.|_executionId$|_batch\.|_awaiting|(_outputs\.)?.*_[0-9a-f-]{32,36}_\d+$|.*_allWorkerIds$)/

/** Without the id of the moment that batches put into the ids of their nodes. */
const idsOf = (nodeIds: readonly string[]): string[] =>
	[...new Set(nodeIds.map((nodeId) => nodeId.replace(/_[0-9a-f-]{32,36}_/, '_')))].sort()

/** What both have to agree on. */
function comparable(context: Readonly<Record<string, unknown>>): Record<string, unknown> {
	const plain = JSON.parse(JSON.stringify(context)) as Record<string, unknown>
	return Object.fromEntries(
		Object.entries(plain)
			.filter(([key]) => !INTERNAL.test(key))
			// A subflow with mapped outputs returns its whole context, which holds the same keys.
			.map(([key, value]) => [
				key,
				isRecord(value) && '_executionId' in value ? comparable(value) : value,
			]),
	)
}

async function inProcess(testCase: Case, blueprint: WorkflowBlueprint): Promise<Reference> {
	const runtime = new FlowRuntime({
		...optionsOf(setupOf(testCase)),
		blueprints: Object.fromEntries(children.map((child) => [child.id, child])),
	} as ConstructorParameters<typeof FlowRuntime>[0])
	try {
		const result = await runtime.run(structuredClone(blueprint), structuredClone({ ...testCase.input }))
		return {
			status: result.status,
			context: comparable(result.context as Record<string, unknown>),
			// What runs several times fails several times.
			failed: idsOf((result.errors ?? []).map(({ nodeId }) => String(nodeId))),
		}
	} catch (error) {
		return { status: `threw ${String(error)}`, context: {}, failed: [] }
	}
}

async function distributed(testCase: Case, blueprint: WorkflowBlueprint): Promise<EndedRun> {
	const engine = engines.get(setupOf(testCase)) as TestEngine
	const db = engine.database.sql
	const runId = await engine.start({ blueprint: blueprint.id, input: testCase.input ?? {} })
	for (const { nodeId, ...resume } of testCase.resumes ?? []) {
		await waitFor('the run to wait', async () => (await readRun(db, runId))?.status === 'awaiting')
		const [child, own = child] = nodeId.split('/')
		const [row] =
			own === child
				? [{ run_id: runId }]
				: await engine.rows<{ run_id: string }>(
						'select run_id from flowcraft_statuses where parent_run_id = $1 and parent_node_id = $2',
						runId,
						String(child),
					)
		await resumeRun(db, String(row?.run_id), { nodeId: String(own), ...resume })
	}
	const run = await engine.end(runId, DEADLINE_MS)
	return { ...run, context: decoded(testCase, run.context) }
}

/** What a serializer of one's own wrote is kept as it wrote it. */
function decoded(testCase: Case, context: EndedRun['context']): EndedRun['context'] {
	const { serializer } = optionsOf(setupOf(testCase))
	if (serializer === undefined) return context
	return Object.fromEntries(
		Object.entries(context).map(([key, value]) => [
			key,
			isRecord(value) && typeof value['$serialized'] === 'string'
				? (serializer.deserialize(value['$serialized']) as { v?: unknown }).v
				: value,
		]),
	)
}

function expectAsWritten(run: EndedRun, { status, context = {}, errors }: Expectation): void {
	expect(run.status).toBe(status)
	for (const [key, value] of Object.entries(context)) {
		if (value === undefined) expect(run.context).not.toHaveProperty([key])
		else expect(run.context, key).toHaveProperty([key], value)
	}
	if (errors === undefined) return
	const messages = Object.fromEntries((run.errors ?? []).map(({ nodeId, message }) => [nodeId, message]))
	expect(messages).toEqual(
		Object.fromEntries(
			Object.entries(errors).map(([nodeId, message]) => [
				nodeId,
				message instanceof RegExp ? expect.stringMatching(message) : message,
			]),
		),
	)
}

/** For the table: what became of each case. */
const outcomes: {
	readonly testCase: Case
	readonly status: string
	readonly settled: readonly Difference[]
}[] = []

describe('runs distributed as in process', () => {
	test.concurrent.each(catalogue.map((testCase, position) => [testCase.name, testCase, position] as const))(
		'%s',
		async (_, testCase, position) => {
			const blueprint = blueprintOf(testCase, position)
			const endless = differences.some((each) => each.endless && each.applies(testCase, undefined))
			const reference = endless ? undefined : await inProcess(testCase, blueprint)
			const applying = differences.filter((each) => each.applies(testCase, reference))
			const settled = applying.filter(({ messagesOnly }) => !messagesOnly)
			const numbers = settled.map(({ number }) => number)
			if (testCase.expected !== undefined)
				expect(applying, 'a difference says why the result is written by hand').not.toEqual([])
			if (settled.length > 0)
				expect(testCase.expected, `written by hand, for ${numbers.join()}`).toBeDefined()

			if (isRefused(testCase)) {
				expect(() => validateBlueprint(blueprint)).toThrow(InvalidInputError)
				outcomes.push({ testCase, status: 'refused', settled })
				return
			}
			const run = await distributed(testCase, blueprint)
			outcomes.push({ testCase, status: run.status, settled: applying })
			if (testCase.expected !== undefined) expectAsWritten(run, testCase.expected)
			if (settled.length > 0 || reference === undefined) return
			expect(run.status).toBe(reference.status)
			expect(comparable(run.context)).toEqual(reference.context)
			expect(idsOf((run.errors ?? []).map(({ nodeId }) => nodeId))).toEqual(reference.failed)
		},
		2 * DEADLINE_MS,
	)
})

describe('the catalogue', () => {
	test('covers every construct', () => {
		const rows = CONSTRUCTS.map((construct) => {
			const ofIt = outcomes.filter(({ testCase }) => testCase.constructs.includes(construct))
			const count = (holds: (outcome: (typeof outcomes)[number]) => boolean) =>
				ofIt.filter(holds).length
			return {
				construct: construct satisfies Construct,
				cases: ofIt.length,
				completed: count(({ status }) => status === 'completed'),
				failed: count(({ status }) => status === 'failed'),
				refused: count(({ status }) => status === 'refused'),
				settled: count(({ settled }) => settled.some(({ messagesOnly }) => !messagesOnly)),
			}
		})
		console.log(`${outcomes.length} blueprints; 'settled': with an expectation written by hand`)
		console.table(rows)
		expect(outcomes).toHaveLength(catalogue.length)
		expect(catalogue.length).toBeGreaterThanOrEqual(60)
		expect(rows.filter(({ cases }) => cases === 0)).toEqual([])
	})

	test('meets every settled difference in a case with an expectation of its own', () => {
		const rows = differences.map((difference) => ({
			number: difference.number,
			difference: difference.title,
			cases: outcomes.filter(
				({ testCase, settled }) => testCase.expected !== undefined && settled.includes(difference),
			).length,
		}))
		console.table(rows)
		expect(rows.filter(({ cases }) => cases === 0)).toEqual([])
	})
})

/** The example workflows that show what the engine does beyond a plain graph, whole, on the engine. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { documents } from '../../worker/workflows/document-processing/document-processing.js'
import { research } from '../../worker/workflows/research-loop/research-loop.js'
import { startEngine, type TestEngine } from '../support/engine.js'

let engine: TestEngine
beforeAll(async () => {
	engine = await startEngine({
		workflows: {
			blueprints: { ...documents.blueprints, ...research.blueprints },
			registry: { ...documents.registry, ...research.registry },
		},
	})
})
afterAll(() => engine.stop())

describe('document processing', () => {
	test('reads a thousand invoices; those that fail at first are rescued by the fallback of their class, and marked', async () => {
		const runId = await engine.start({ blueprint: 'document-processing' })
		const run = await engine.end(runId, 60_000)
		expect(run.status).toBe('completed')
		expect(run.context['add_up']).toMatchObject({ documents: 1_000, repaired: 142 })
		const { totalCents, toReview } = run.context['add_up'] as {
			totalCents: Record<string, number>
			toReview: string[]
		}
		const expected = Array.from(
			{ length: 1_000 },
			(_, position) => ((position * 37) % 900) * 100 + ((position * 13) % 100),
		)
		expect(Object.keys(totalCents).sort()).toEqual(['CHF', 'EUR', 'USD'])
		expect(Object.values(totalCents).reduce((sum, each) => sum + each, 0)).toBe(
			expected.reduce((sum, each) => sum + each, 0),
		)
		expect(toReview.slice(0, 3)).toEqual(['scan-6', 'scan-13', 'scan-20'])
	}, 90_000)

	test('takes documents of its own; one that is no invoice at all fails the run, and is named', async () => {
		const documentsGiven = [
			{ id: 'good', text: 'Invoice 1\nTotal 2.50 EUR' },
			{ id: 'letter', text: 'Dear customer,' },
		]
		const run = await engine.run({
			blueprint: 'document-processing',
			input: { documents: documentsGiven },
		})
		expect(run.status).toBe('failed')
		expect(run.errors).toMatchObject([
			{ message: 'letter: the text does not have the form of an invoice' },
		])
	})
})

describe('the research loop', () => {
	test('turns until nothing is left unexplained', async () => {
		const run = await engine.run({
			blueprint: 'research-loop',
			input: { question: 'What happens to a run when a worker dies?' },
		})
		expect(run.status).toBe('completed')
		expect(run.context['report']).toMatchObject({
			question: 'What happens to a run when a worker dies?',
			isComplete: true,
			open: [],
			turns: expect.any(Number),
		})
		const { turns, answer } = run.context['report'] as { turns: number; answer: string[] }
		expect(turns).toBeGreaterThan(2)
		expect(answer.map((line) => line.split(':')[0])).toEqual(
			expect.arrayContaining(['run', 'worker', 'heartbeat', 'lease', 'sweep']),
		)
		const joins = await engine.rows(
			`select generation from flowcraft_nodes where run_id = $1 and node_id = 'assess'`,
			run.runId,
		)
		expect(joins).toHaveLength(turns)
	})

	test('gives up after as many turns as it is told to', async () => {
		const run = await engine.run({
			blueprint: 'research-loop',
			input: { question: 'What is a run?', maxTurns: 1 },
		})
		expect(run.context['report']).toMatchObject({
			turns: 1,
			isComplete: false,
			open: ['blueprint', 'node'],
		})
	})

	test('does not turn where there is nothing to look up', async () => {
		const run = await engine.run({ blueprint: 'research-loop', input: { question: 'Why?' } })
		expect(run.context['report']).toEqual({
			question: 'Why?',
			turns: 0,
			isComplete: true,
			open: [],
			answer: [],
		})
	})
})

/**
 * Big batches and fan-outs. `FULL=1` for the full size, and for what a node of it costs beside one of many small runs;
 * `npm run bench` measures the same on real servers.
 */
import { createFlow, type NodeContext, type WorkflowBlueprint } from 'flowcraft'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startEngine, type TestEngine } from '../support/engine.js'
import { isFull } from '../support/size.js'

const SIZE = isFull ? 10_000 : 600
const SMALL = 100
/** Cost per node of a big run at most, as a multiple of that in as many nodes of small runs. */
const MAX_RATIO = 1.3
/** Compared at full size only: name, the big blueprint, the small one. */
const COMPARED = isFull
	? [
			['batch', 'batch', 'batch'],
			['fan-out', `fan-out-${SIZE}`, `fan-out-${SMALL}`],
		]
	: []
const DEADLINE_MS = isFull ? 180_000 : 60_000

const batch = (id: string, chunkSize?: number) =>
	createFlow(id)
		.batch('work', async ({ input }: NodeContext) => ({ output: Number(input) * 2 }), {
			inputKey: 'items',
			outputKey: 'doubled' as never,
			...(chunkSize === undefined ? {} : { chunkSize }),
		})
		.node('count', async ({ context }: NodeContext) => ({
			output: ((await context.get('doubled')) as unknown[]).length,
		}))
		.edge('work', 'count')

function fanOut(width: number): WorkflowBlueprint {
	const ids = Array.from({ length: width }, (_, position) => `w${position}`)
	return {
		id: `fan-out-${width}`,
		nodes: [
			{ id: 'start', uses: 'one' },
			...ids.map((id) => ({ id, uses: 'add' })),
			{ id: 'end', uses: 'add' },
		],
		edges: ids.flatMap((id) => [
			{ source: 'start', target: id },
			{ source: id, target: 'end' },
		]),
	}
}

let engine: TestEngine
beforeAll(async () => {
	engine = await startEngine({
		workflows: {
			blueprints: {
				batch: batch('batch'),
				chunks: batch('chunks', 250),
				wide: fanOut(SIZE),
				narrow: fanOut(SMALL),
			},
			registry: {
				one: async () => ({ output: 1 }),
				add: async ({ input }: NodeContext) => ({ output: Number(input) + 1 }),
			},
		},
	})
})
afterAll(() => engine.stop())

const items = (count: number): number[] => Array.from({ length: count }, (_, position) => position)

/** How often nodes of a run were started, and how many there are: each once. */
async function expectEachOnce(runId: string, nodes: number): Promise<void> {
	const [row] = await engine.rows<{ nodes: number; completed: number; again: number }>(
		`select count(*)::int as nodes, count(*) filter (where state = 'completed')::int as completed,
			count(*) filter (where attempt > 1 or crashes > 0)::int as again
		from flowcraft_nodes where run_id = $1`,
		runId,
	)
	expect(row).toEqual({ nodes, completed: nodes, again: 0 })
}

describe(`of ${SIZE}`, () => {
	test.each(['batch', 'chunks'])(
		'a batch (%s) runs each item once and keeps their order',
		async (blueprint) => {
			const runId = await engine.start({ blueprint, input: { items: items(SIZE) } })
			const run = await engine.end(runId, DEADLINE_MS)
			expect(run.status).toBe('completed')
			expect(run.context['count']).toBe(SIZE)
			expect(run.context['doubled']).toEqual(items(SIZE).map((item) => item * 2))
			await expectEachOnce(runId, SIZE + 3)
		},
		DEADLINE_MS,
	)

	test(
		'a fan-out runs each branch once and meets in one join',
		async () => {
			const runId = await engine.start({ blueprint: `fan-out-${SIZE}` })
			const run = await engine.end(runId, DEADLINE_MS)
			expect(run.status).toBe('completed')
			expect(run.context['end']).toBe(3)
			await expectEachOnce(runId, SIZE + 2)
		},
		DEADLINE_MS,
	)
})

test.each(COMPARED)(
	`a node of a ${SIZE}-wide %s costs at most ${MAX_RATIO} times one of as many nodes in runs of ${SMALL}`,
	async (name, big, small) => {
		const measure = async (blueprint: string, size: number): Promise<number> => {
			const begin = performance.now()
			const runIds = await Promise.all(
				Array.from({ length: SIZE / size }, () =>
					engine.start({ blueprint, input: { items: items(size) } }),
				),
			)
			for (const runId of runIds)
				expect((await engine.end(runId, DEADLINE_MS)).status).toBe('completed')
			return (performance.now() - begin) / SIZE
		}
		const [few, many] = [await measure(small, SMALL), await measure(big, SIZE)]
		console.log(
			`${name}: ${many.toFixed(2)} ms per node of ${SIZE}, ${few.toFixed(2)} ms in runs of ${SMALL}: ${(many / few).toFixed(2)}×`,
		)
		expect(many / few).toBeLessThan(MAX_RATIO)
	},
	4 * DEADLINE_MS,
)

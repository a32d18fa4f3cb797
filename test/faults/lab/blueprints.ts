/** The laboratory's blueprints, one for each thing that a run can do, and what has to have become of each in the end. */
import type { EdgeDefinition, NodeDefinition, WorkflowBlueprint } from 'flowcraft'

export interface LabBlueprint {
	readonly blueprint: WorkflowBlueprint
	/** How its runs end. */
	readonly status: 'completed' | 'failed'
	/** How many rows of `work` nodes have completed or recovered then, generations and substitutes counted apart. */
	readonly finished: Readonly<Record<string, number>>
	/** Not started by itself: a child, or made for one test. */
	readonly apart?: true
	/** The node that has to be resumed. */
	readonly resumes?: string
	/** It waits for the event `lab-event` with the output of its node `a` as the key. */
	readonly takesEvent?: true
}

const work = (id: string, more: Partial<Omit<NodeDefinition, 'id'>> = {}): NodeDefinition => ({
	id,
	uses: 'work',
	...more,
})
const path = (...ids: string[]): EdgeDefinition[] =>
	ids.slice(1).map((target, position) => ({ source: ids[position] ?? '', target }))
const once = (...ids: string[]): Record<string, number> => Object.fromEntries(ids.map((id) => [id, 1]))

const wide = Array.from({ length: 8 }, (_, position) => `w${position}`)

const wider = Array.from({ length: 40 }, (_, position) => `w${position}`)

export const all: readonly LabBlueprint[] = [
	{
		blueprint: {
			id: 'lab-chain',
			nodes: ['a', 'b', 'c'].map((id) => work(id)),
			edges: path('a', 'b', 'c'),
		},
		status: 'completed',
		finished: once('a', 'b', 'c'),
	},
	{
		blueprint: {
			id: 'lab-diamond',
			nodes: [work('a'), work('b', { params: { books: true } }), work('c'), work('d')],
			edges: [...path('a', 'b', 'd'), ...path('a', 'c', 'd')],
		},
		status: 'completed',
		finished: once('a', 'b', 'c', 'd'),
	},
	{
		blueprint: {
			id: 'lab-fan',
			nodes: ['a', ...wide, 'z'].map((id) => work(id)),
			edges: wide.flatMap((id) => path('a', id, 'z')),
		},
		status: 'completed',
		finished: once('a', ...wide, 'z'),
	},
	{
		blueprint: {
			id: 'lab-any',
			nodes: [
				work('a'),
				work('b'),
				work('c', { params: { ms: 30 } }),
				work('j', { config: { joinStrategy: 'any' } }),
				work('z'),
			],
			edges: [...path('a', 'b', 'j', 'z'), ...path('a', 'c', 'j')],
		},
		status: 'completed',
		finished: once('a', 'b', 'c', 'j', 'z'),
	},
	{
		// The join hears of the edge that is not taken, too.
		blueprint: {
			id: 'lab-condition',
			nodes: ['a', 'b', 'z'].map((id) => work(id)),
			edges: [...path('a', 'b', 'z'), { source: 'a', target: 'z', condition: 'absent.key' }],
		},
		status: 'completed',
		finished: once('a', 'b', 'z'),
	},
	{
		blueprint: {
			id: 'lab-retry',
			nodes: [
				work('a', {
					params: { failures: 2, books: true },
					config: { maxRetries: 3, retryDelay: 20 },
				}),
				work('b'),
			],
			edges: path('a', 'b'),
		},
		status: 'completed',
		finished: once('a', 'b'),
	},
	{
		blueprint: {
			id: 'lab-fallback',
			nodes: [
				work('a', {
					params: { failures: 99, books: true },
					config: { maxRetries: 2, retryDelay: 20, fallback: 'f' },
				}),
				work('f', { params: { books: true } }),
				work('b'),
			],
			edges: path('a', 'b'),
		},
		status: 'completed',
		finished: once('a', 'f', 'b'),
	},
	{
		blueprint: {
			id: 'lab-loop',
			nodes: [
				work('a'),
				{
					id: 'loop',
					uses: 'loop-controller',
					params: { condition: 'again' },
					config: { joinStrategy: 'any' },
				},
				work('turn', { params: { turns: 3, books: true } }),
				work('z'),
			],
			edges: [
				...path('a', 'turn', 'loop'),
				{ source: 'loop', target: 'turn', action: 'continue' },
				{ source: 'loop', target: 'z', action: 'break' },
			],
		},
		status: 'completed',
		finished: { a: 1, turn: 3, z: 1 },
	},
	{
		blueprint: {
			id: 'lab-batch',
			nodes: [
				work('a', { params: { items: [1, 2, 3, 4, 5] } }),
				{
					id: 'scatter',
					uses: 'batch-scatter',
					inputs: 'a',
					params: { workerUsesKey: 'work', gatherNodeId: 'gather', chunkSize: 2 },
				},
				{
					id: 'gather',
					uses: 'batch-gather',
					params: { gatherNodeId: 'gather', outputKey: 'gathered' },
				},
				work('z'),
			],
			edges: path('a', 'scatter', 'gather', 'z'),
		},
		status: 'completed',
		finished: once('a', 'z'),
	},
	{
		blueprint: {
			id: 'lab-subflow',
			nodes: [
				work('a'),
				{
					id: 'sub',
					uses: 'subflow',
					params: { blueprintId: 'lab-child', inputs: { order: 'order' } },
				},
				work('b'),
			],
			edges: path('a', 'sub', 'b'),
		},
		status: 'completed',
		finished: once('a', 'b'),
	},
	{
		blueprint: { id: 'lab-child', nodes: ['x', 'y'].map((id) => work(id)), edges: path('x', 'y') },
		status: 'completed',
		finished: once('x', 'y'),
		apart: true,
	},
	{
		blueprint: {
			id: 'lab-sleep',
			nodes: [work('a'), { id: 'sleep', uses: 'sleep', params: { duration: 150 } }, work('b')],
			edges: path('a', 'sleep', 'b'),
		},
		status: 'completed',
		finished: once('a', 'b'),
	},
	{
		blueprint: {
			id: 'lab-wait',
			nodes: [work('a'), { id: 'wait', uses: 'wait' }, work('b')],
			edges: path('a', 'wait', 'b'),
		},
		status: 'completed',
		finished: once('a', 'b'),
		resumes: 'wait',
	},
	{
		blueprint: {
			id: 'lab-steps',
			nodes: [
				work('a', {
					params: { steps: true, failures: 1 },
					config: { maxRetries: 2, retryDelay: 20 },
				}),
				work('b'),
			],
			edges: path('a', 'b'),
		},
		status: 'completed',
		finished: once('a', 'b'),
	},
	{
		// The other branch goes on; the join behind the failure never becomes ready.
		blueprint: {
			id: 'lab-fails',
			nodes: [
				work('a'),
				work('b', { params: { failures: 99 }, config: { maxRetries: 2, retryDelay: 20 } }),
				work('c'),
				work('j'),
			],
			edges: [...path('a', 'b', 'j'), ...path('a', 'c', 'j')],
		},
		status: 'failed',
		finished: once('a', 'c'),
	},
	{
		blueprint: {
			id: 'lab-event',
			nodes: [
				work('a'),
				{ id: 'event', uses: 'wait', params: { eventName: 'lab-event', correlationKeyFrom: 'a' } },
				work('b'),
			],
			edges: path('a', 'event', 'b'),
		},
		status: 'completed',
		finished: once('a', 'event', 'b'),
		takesEvent: true,
		apart: true,
	},
	{
		blueprint: {
			id: 'lab-wide',
			nodes: ['a', ...wider, 'z'].map((id) => work(id)),
			edges: wider.flatMap((id) => path('a', id, 'z')),
		},
		status: 'completed',
		finished: once('a', ...wider, 'z'),
		apart: true,
	},
	{
		// `workflows-rolling.ts` brings versions of its own.
		blueprint: {
			id: 'lab-rolling',
			nodes: [work('a'), { id: 'wait', uses: 'wait' }, work('b')],
			edges: path('a', 'wait', 'b'),
		},
		status: 'completed',
		finished: once('a', 'b'),
		resumes: 'wait',
		apart: true,
	},
	{
		blueprint: { id: 'lab-one', nodes: [work('a')], edges: [] },
		status: 'completed',
		finished: once('a'),
		apart: true,
	},
	{
		blueprint: {
			id: 'lab-killer',
			nodes: [work('a'), work('k', { params: { kills: true } }), work('z')],
			edges: path('a', 'k', 'z'),
		},
		status: 'failed',
		finished: once('a'),
		apart: true,
	},
]

/** Nodes that write a row of `lab_bookings` with their result, through `onCommit`. */
export const booking: readonly { readonly blueprint_id: string; readonly node_id: string }[] = all.flatMap(
	({ blueprint }) =>
		blueprint.nodes
			.filter(({ params }) => params?.['books'] === true)
			.map(({ id }) => ({ blueprint_id: blueprint.id, node_id: id })),
)
export const byId: ReadonlyMap<string, LabBlueprint> = new Map(all.map((each) => [each.blueprint.id, each]))
/** What a mixed workload is made of. */
export const mixed: readonly LabBlueprint[] = all.filter((each) => each.apart !== true)

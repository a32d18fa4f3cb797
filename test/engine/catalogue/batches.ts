/** Batches, and nodes that are added while a run goes on. */
import { type Case, edge, node } from './case.js'

/** A list, its batch, and what was gathered. */
const batch = (uses: string, items: unknown, more: { chunkSize?: number } = {}) => ({
	nodes: [
		node('list', 'value', { value: items }),
		node('scatter', 'batch-scatter', { workerUsesKey: uses, gatherNodeId: 'gather', ...more }),
		node('gather', 'batch-gather', { gatherNodeId: 'gather', outputKey: 'results' }),
		node('after', 'context', { reads: ['results'] }),
	],
	edges: [edge('list', 'scatter'), edge('scatter', 'gather'), edge('gather', 'after')],
})

export const batches: readonly Case[] = [
	{
		name: 'a batch runs its worker on each item and keeps their order',
		constructs: ['batch'],
		blueprint: batch('double', [3, 1, 2]),
	},
	{
		name: 'a batch of one item',
		constructs: ['batch'],
		blueprint: batch('double', [21]),
	},
	{
		name: 'a batch of values of every kind',
		constructs: ['batch', 'values'],
		blueprint: batch('echo', [null, '', { deep: [1] }, [2], false]),
	},
	{
		name: 'a batch of class nodes',
		constructs: ['batch', 'class node'],
		blueprint: batch('phases', ['x', 'y']),
	},
	{
		name: 'a batch of nothing goes on with no results',
		constructs: ['batch: empty', 'batch'],
		blueprint: batch('double', []),
		expected: { status: 'completed', context: { results: [], after: { results: [] } } },
	},
	{
		name: 'a batch in chunks has the same results as one at once',
		constructs: ['batch: chunks', 'batch'],
		blueprint: batch('double', [5, 4, 3, 2, 1, 0, 7], { chunkSize: 3 }),
		expected: { status: 'completed', context: { results: [10, 8, 6, 4, 2, 0, 14] } },
	},
	{
		name: 'a batch with an item that fails does not gather, and the run fails',
		constructs: ['batch: failing item', 'batch', 'failure'],
		blueprint: batch('picky', [1, 13, 2]),
	},
	{
		name: 'a batch of something that is no array fails',
		constructs: ['batch', 'failure'],
		blueprint: batch('double', 'text'),
	},
	{
		name: 'nodes that a node adds run, and the gather that it names waits for them',
		constructs: ['dynamic nodes'],
		blueprint: {
			nodes: [
				node('a', 'add-nodes', {
					nodes: [node('x', 'value', { value: 1 }), node('y', 'value', { value: 2 })],
					output: { gatherNodeId: 'g' },
				}),
				node('g', 'context', { reads: ['x', 'y'] }),
			],
			edges: [edge('a', 'g')],
		},
	},
	{
		name: 'nodes that a node adds without a gather run beside what follows it',
		constructs: ['dynamic nodes'],
		blueprint: {
			nodes: [
				node('a', 'add-nodes', { nodes: [node('x', 'value', { value: 1 })] }),
				node('b', 'value', { value: 2 }),
			],
			edges: [edge('a', 'b')],
		},
	},
	{
		name: 'a node that adds one under an id of the blueprint fails',
		constructs: ['dynamic nodes', 'failure'],
		blueprint: {
			nodes: [
				node('a', 'add-nodes', { nodes: [node('b', 'value', { value: 1 })] }),
				node('b', 'value', { value: 2 }),
			],
			edges: [edge('a', 'b')],
		},
		expected: {
			status: 'failed',
			context: { b: undefined },
			errors: { a: /the blueprint has a node of that id/ },
		},
	},
]

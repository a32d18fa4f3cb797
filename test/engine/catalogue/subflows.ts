/** Runs within runs. */
import type { WorkflowBlueprint } from 'flowcraft'
import { type Case, chain, edge, node } from './case.js'

export const subflows: readonly Case[] = [
	{
		name: 'a subflow maps inputs and outputs',
		constructs: ['subflow', 'subflow: mapped'],
		blueprint: {
			nodes: [
				node('a', 'value', { value: 20 }),
				node('s', 'subflow', {
					blueprintId: 'child-adds',
					inputs: { n: 'a', m: 'given' },
					outputs: { sum: 'plus' },
				}),
				node('b', 'context', { reads: ['sum'] }),
			],
			edges: [edge('a', 's'), edge('s', 'b')],
		},
		input: { given: 3 },
	},
	{
		name: 'a subflow without mappings passes its input to the start nodes and returns the end',
		constructs: ['subflow'],
		blueprint: {
			nodes: [
				node('a', 'value', { value: 20 }),
				node('s', 'subflow', { blueprintId: 'child-echoes' }),
				node('b', 'echo'),
			],
			edges: [edge('a', 's'), edge('s', 'b')],
		},
	},
	{
		name: 'a subflow with two ends returns both',
		constructs: ['subflow'],
		blueprint: {
			nodes: [
				node('a', 'value', { value: 1 }),
				node('s', 'subflow', { blueprintId: 'child-forks' }),
				node('b', 'echo'),
			],
			edges: [edge('a', 's'), edge('s', 'b')],
		},
	},
	{
		name: 'a failed subflow fails its node',
		constructs: ['subflow', 'failure'],
		blueprint: {
			nodes: [node('s', 'subflow', { blueprintId: 'child-fails' }), node('b', 'echo')],
			edges: [edge('s', 'b')],
		},
	},
	{
		name: 'a failed subflow has a fallback',
		constructs: ['subflow', 'fallback'],
		blueprint: {
			nodes: [
				node('s', 'subflow', { blueprintId: 'child-fails' }, { config: { fallback: 'f' } }),
				node('f', 'value', { value: 'rescued' }),
				node('b', 'echo'),
			],
			edges: [edge('s', 'b')],
		},
	},
	{
		name: 'subflows in subflows',
		constructs: ['subflow', 'nested subflow'],
		blueprint: {
			nodes: [
				node('a', 'value', { value: 7 }),
				node('s', 'subflow', { blueprintId: 'child-nests' }),
				node('b', 'echo'),
			],
			edges: [edge('a', 's'), edge('s', 'b')],
		},
	},
	{
		name: 'the same subflow twice, side by side',
		constructs: ['subflow', 'all join'],
		blueprint: {
			nodes: [
				node('a', 'value', { value: 1 }),
				node('b', 'value', { value: 2 }),
				node('s', 'subflow', { blueprintId: 'child-echoes' }),
				node('t', 'subflow', { blueprintId: 'child-echoes' }),
				node('j', 'echo', {}, { inputs: { s: 's', t: 't' } }),
			],
			edges: [edge('a', 's'), edge('b', 't'), edge('s', 'j'), edge('t', 'j')],
		},
	},
	{
		name: 'a subflow does not see its parent’s context, nor the parent its',
		constructs: ['subflow', 'context'],
		blueprint: {
			nodes: [
				node('a', 'context', { writes: { secret: 1 } }),
				node('s', 'subflow', { blueprintId: 'child-looks', inputs: { given: 'a' } }),
				node('b', 'context', { reads: ['inner', 'given'] }),
			],
			edges: chain('a', 's', 'b'),
		},
	},
	{
		name: 'a subflow that nobody has registered fails its node',
		constructs: ['subflow', 'failure'],
		blueprint: { nodes: [node('s', 'subflow', { blueprintId: 'unregistered' })], edges: [] },
	},
	{
		name: 'a subflow that calls itself without end is stopped at 32 levels',
		constructs: ['subflow', 'nested subflow', 'failure'],
		blueprint: { nodes: [node('s', 'subflow', { blueprintId: 'child-recurses' })], edges: [] },
		expected: { status: 'failed', errors: { s: /the limit is 32/ } },
	},
	{
		name: 'a wait in a subflow makes its parent wait, and both go on',
		constructs: ['subflow', 'wait'],
		blueprint: {
			nodes: [node('s', 'subflow', { blueprintId: 'child-waits' }), node('b', 'echo')],
			edges: [edge('s', 'b')],
		},
		resumes: [{ nodeId: 's/w', output: 'from outside' }],
		expected: { status: 'completed', context: { s: 'from outside', b: 'from outside' } },
	},
]

export const children: readonly WorkflowBlueprint[] = [
	{ id: 'child-adds', nodes: [node('plus', 'add', { by: 2 }, { inputs: 'n' })], edges: [] },
	{
		id: 'child-echoes',
		nodes: [node('in', 'echo'), node('out', 'wrap', { as: 'child' })],
		edges: [edge('in', 'out')],
	},
	{
		id: 'child-forks',
		nodes: [node('in', 'echo'), node('l', 'add'), node('r', 'add', { by: 2 })],
		edges: [edge('in', 'l'), edge('in', 'r')],
	},
	{ id: 'child-fails', nodes: [node('x', 'fail', { message: 'inside' })], edges: [] },
	{
		id: 'child-nests',
		nodes: [node('in', 'echo'), node('deep', 'subflow', { blueprintId: 'child-echoes' })],
		edges: [edge('in', 'deep')],
	},
	{
		id: 'child-looks',
		nodes: [node('x', 'context', { writes: { inner: 2 }, reads: ['secret', 'given'] })],
		edges: [],
	},
	{ id: 'child-recurses', nodes: [node('s', 'subflow', { blueprintId: 'child-recurses' })], edges: [] },
	{ id: 'child-waits', nodes: [node('w', 'wait')], edges: [] },
]

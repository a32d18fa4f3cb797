/** Loops: by a controller, by conditions, in one another. Their conditions count, so they need an evaluator that can. */
import { type Case, chain, edge, node } from './case.js'

const controller = (id: string, condition: string) =>
	node(id, 'loop-controller', { condition }, { config: { joinStrategy: 'any' } })

export const loops: readonly Case[] = [
	{
		name: 'a loop turns until its condition fails',
		constructs: ['loop', 'evaluator'],
		setup: 'unsafe',
		blueprint: {
			nodes: [
				node('s', 'reset', { key: 'turn' }),
				controller('c', 'turn < 4'),
				node('a', 'count', { key: 'turn' }),
				node('e', 'context', { reads: ['turn', '_outputs.a'] }),
			],
			edges: [
				edge('s', 'c'),
				edge('c', 'a', { action: 'continue' }),
				edge('a', 'c'),
				edge('c', 'e', { action: 'break' }),
			],
		},
	},
	{
		name: 'a loop whose condition never holds does not turn',
		constructs: ['loop'],
		setup: 'unsafe',
		blueprint: {
			nodes: [
				node('s', 'reset', { key: 'turn' }),
				controller('c', 'turn > 4'),
				node('a', 'count', { key: 'turn' }),
				node('e', 'value', { value: 'out' }),
			],
			edges: [
				edge('s', 'c'),
				edge('c', 'a', { action: 'continue' }),
				edge('a', 'c'),
				edge('c', 'e', { action: 'break' }),
			],
		},
	},
	{
		name: 'a loop with a body of several nodes',
		constructs: ['loop', 'context'],
		setup: 'unsafe',
		blueprint: {
			nodes: [
				node('s', 'reset', { key: 'turn' }),
				controller('c', 'turn < 3'),
				node('a', 'count', { key: 'turn' }),
				node('b', 'append', { key: 'seen', of: ['turn'] }),
				node('e', 'context', { reads: ['seen'] }),
			],
			edges: [
				edge('s', 'c'),
				edge('c', 'a', { action: 'continue' }),
				...chain('a', 'b', 'c'),
				edge('c', 'e', { action: 'break' }),
			],
		},
	},
	{
		name: 'a loop with a failing body ends there',
		constructs: ['loop', 'failure'],
		setup: 'unsafe',
		blueprint: {
			nodes: [
				node('s', 'reset', { key: 'turn' }),
				controller('c', 'turn < 3'),
				node('a', 'fail'),
				node('e', 'value', { value: 'never' }),
			],
			edges: [
				edge('s', 'c'),
				edge('c', 'a', { action: 'continue' }),
				edge('a', 'c'),
				edge('c', 'e', { action: 'break' }),
			],
		},
	},
	{
		name: 'a loop in a loop begins anew with each turn of the outer one',
		constructs: ['nested loop', 'loop'],
		setup: 'unsafe',
		blueprint: {
			nodes: [
				node('s', 'reset', { key: 'o' }),
				controller('outer', 'o < 3'),
				node('r', 'reset', { key: 'i' }),
				controller('inner', 'i < 2'),
				node('body', 'count', { key: 'i' }),
				node('note', 'append', { key: 'seen', of: ['o', 'i'] }),
				node('tail', 'count', { key: 'o' }),
				node('e', 'context', { reads: ['seen'] }),
			],
			edges: [
				edge('s', 'outer'),
				edge('outer', 'r', { action: 'continue' }),
				edge('r', 'inner'),
				edge('inner', 'body', { action: 'continue' }),
				...chain('body', 'note', 'inner'),
				edge('inner', 'tail', { action: 'break' }),
				edge('tail', 'outer'),
				edge('outer', 'e', { action: 'break' }),
			],
		},
		expected: {
			status: 'completed',
			context: {
				seen: [
					[0, 1],
					[0, 2],
					[1, 1],
					[1, 2],
					[2, 1],
					[2, 2],
				],
			},
		},
	},
	{
		name: 'an all join in a loop joins once in each turn',
		constructs: ['loop', 'all join'],
		setup: 'unsafe',
		blueprint: {
			nodes: [
				node('s', 'reset', { key: 'turn' }),
				controller('c', 'turn < 3'),
				node('a', 'count', { key: 'turn' }),
				node('b', 'count', { key: 'beside' }),
				node('j', 'append', { key: 'joined', of: ['turn', 'beside'] }),
				node('e', 'context', { reads: ['joined'] }),
			],
			edges: [
				edge('s', 'c'),
				edge('c', 'a', { action: 'continue' }),
				edge('c', 'b', { action: 'continue' }),
				edge('a', 'j'),
				edge('b', 'j'),
				edge('j', 'c'),
				edge('c', 'e', { action: 'break' }),
			],
		},
		expected: {
			status: 'completed',
			context: {
				joined: [
					[1, 1],
					[2, 2],
					[3, 3],
				],
			},
		},
	},
	{
		name: 'conditional edges of a controller come before its action',
		constructs: ['loop: conditional edges', 'loop', 'condition'],
		setup: 'unsafe',
		blueprint: {
			nodes: [
				node('s', 'reset', { key: 'turn' }),
				controller('c', 'turn < 9'),
				node('a', 'count', { key: 'turn' }),
				node('early', 'context', { reads: ['turn'] }),
				node('e', 'value', { value: 'never' }),
			],
			edges: [
				edge('s', 'c'),
				edge('c', 'a', { action: 'continue' }),
				edge('a', 'c'),
				edge('c', 'early', { condition: 'turn >= 2' }),
				edge('c', 'e', { action: 'break' }),
			],
		},
	},
	{
		name: 'a cycle that nothing leads into begins at its entry point',
		constructs: ['cycle without a start', 'condition'],
		setup: 'unsafe',
		blueprint: {
			nodes: [
				node('b', 'append', { key: 'seen', of: ['turn'] }),
				node('a', 'count', { key: 'turn' }),
				node('e', 'context', { reads: ['seen'] }),
			],
			edges: [
				edge('a', 'b'),
				edge('b', 'a', { condition: 'turn < 3' }),
				edge('b', 'e', { condition: 'turn >= 3' }),
			],
			metadata: { cycleEntryPoints: ['a'] },
		},
		expected: { status: 'completed', context: { turn: 3, e: { seen: [[1], [2], [3]] } } },
	},
]

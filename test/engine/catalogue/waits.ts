/** What waits: for a time, for somebody, for a request. In process such a run only ever gets as far as `awaiting`. */
import { type Case, chain, edge, node } from './case.js'

export const waits: readonly Case[] = [
	{
		name: 'a sleep hands its input on when it is over',
		constructs: ['sleep'],
		blueprint: {
			nodes: [node('a', 'value', { value: 1 }), node('s', 'sleep', { duration: 30 }), node('b', 'add')],
			edges: chain('a', 's', 'b'),
		},
		expected: { status: 'completed', context: { s: 1, b: 2 } },
	},
	{
		name: 'Flowcraft’s own sleep class in a registry sleeps as the engine does',
		constructs: ['sleep'],
		blueprint: {
			nodes: [node('a', 'value', { value: 1 }), node('s', 'nap', { duration: 30 }), node('b', 'add')],
			edges: chain('a', 's', 'b'),
		},
		expected: { status: 'completed', context: { s: 1, b: 2 } },
	},
	{
		name: 'a sleep with an impossible duration fails at once',
		constructs: ['sleep', 'failure'],
		blueprint: { nodes: [node('s', 'sleep', { duration: 'soon' })], edges: [] },
	},
	{
		name: 'a wait goes on with the output that it is resumed with',
		constructs: ['wait'],
		blueprint: { nodes: [node('w', 'wait'), node('b', 'wrap', { as: 'got' })], edges: [edge('w', 'b')] },
		resumes: [{ nodeId: 'w', output: { by: 'ada' } }],
		expected: { status: 'completed', context: { w: { by: 'ada' }, b: { got: { by: 'ada' } } } },
	},
	{
		name: 'a wait takes the edges of the action that it is resumed with',
		constructs: ['wait', 'action'],
		blueprint: {
			nodes: [
				node('w', 'wait'),
				node('yes', 'value', { value: 'yes' }),
				node('no', 'value', { value: 'no' }),
			],
			edges: [edge('w', 'yes', { action: 'approve' }), edge('w', 'no')],
		},
		resumes: [{ nodeId: 'w', action: 'approve' }],
		expected: { status: 'completed', context: { yes: 'yes', no: undefined } },
	},
	{
		name: 'several waits end one by one, and meet',
		constructs: ['several waits', 'wait', 'all join'],
		blueprint: {
			nodes: [
				node('v', 'wait'),
				node('w', 'wait'),
				node('j', 'echo', {}, { inputs: { v: 'v', w: 'w' } }),
			],
			edges: [edge('v', 'j'), edge('w', 'j')],
		},
		resumes: [
			{ nodeId: 'w', output: 2 },
			{ nodeId: 'v', output: 1 },
		],
		expected: { status: 'completed', context: { j: { v: 1, w: 2 } } },
	},
	{
		name: 'a wait that nobody ends in time fails, and its fallback runs',
		constructs: ['wait timeout', 'wait', 'fallback'],
		blueprint: {
			nodes: [
				node('w', 'wait', { timeout: 30 }, { config: { fallback: 'f' } }),
				node('f', 'value', { value: 'escalated' }),
				node('b', 'echo'),
			],
			edges: [edge('w', 'b')],
		},
		expected: { status: 'completed', context: { w: null, b: 'escalated' }, errors: {} },
	},
	{
		name: 'a node of one’s own waits, and keeps what it returned',
		constructs: ['wait'],
		blueprint: { nodes: [node('own', 'await-self'), node('b', 'echo')], edges: [edge('own', 'b')] },
		resumes: [{ nodeId: 'own' }],
		expected: { status: 'completed', context: { own: 'provisional', b: 'provisional' } },
	},
	{
		name: 'a node cannot make another one wait',
		constructs: ['wait', 'failure'],
		blueprint: {
			nodes: [node('a', 'await-other'), node('b', 'value', { value: 1 })],
			edges: [edge('a', 'b')],
		},
		expected: { status: 'failed', context: { b: undefined }, errors: { a: /cannot make node 'b' wait/ } },
	},
	{
		name: 'a webhook ends at once, and its wait with its event',
		constructs: ['webhook', 'wait'],
		blueprint: {
			nodes: [node('h', 'webhook'), node('w', 'wait', { webhookNodeId: 'h' }), node('b', 'echo')],
			edges: chain('h', 'w', 'b'),
		},
		resumes: [{ nodeId: 'w', output: 'asked' }],
		expected: { status: 'completed', context: { b: 'asked' } },
	},
]

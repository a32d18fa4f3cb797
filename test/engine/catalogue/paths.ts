/** Which nodes run: start nodes, edges, joins. */
import { type Case, chain, edge, node } from './case.js'

export const paths: readonly Case[] = [
	{
		name: 'a chain hands its output on',
		constructs: ['start'],
		blueprint: {
			nodes: [node('a', 'value', { value: 1 }), node('b', 'add'), node('c', 'add', { by: 10 })],
			edges: [edge('a', 'b'), edge('b', 'c')],
		},
	},
	{
		name: 'two start nodes meet in an all join',
		constructs: ['start', 'all join'],
		blueprint: {
			nodes: [
				node('a', 'value', { value: 1 }),
				node('b', 'value', { value: 2 }),
				node('j', 'value', { value: 'joined' }),
			],
			edges: [edge('a', 'j'), edge('b', 'j')],
		},
	},
	{
		name: 'a diamond',
		constructs: ['all join', 'inputs: object'],
		blueprint: {
			nodes: [
				node('a', 'value', { value: 1 }),
				node('b', 'add'),
				node('c', 'add', { by: 2 }),
				node('d', 'echo', {}, { inputs: { b: 'b', c: 'c' } }),
			],
			edges: [edge('a', 'b'), edge('a', 'c'), edge('b', 'd'), edge('c', 'd')],
		},
	},
	{
		name: 'an action takes its edges only',
		constructs: ['action'],
		blueprint: {
			nodes: [
				node('a', 'value', { value: 'left' }),
				node('r', 'route'),
				node('l', 'echo'),
				node('x', 'echo'),
			],
			edges: [edge('a', 'r'), edge('r', 'l', { action: 'left' }), edge('r', 'x', { action: 'right' })],
		},
	},
	{
		name: 'an action without edges takes those without an action',
		constructs: ['action'],
		blueprint: {
			nodes: [
				node('r', 'route', { action: 'unknown' }),
				node('l', 'value', { value: 1 }),
				node('d', 'value', { value: 2 }),
			],
			edges: [edge('r', 'l', { action: 'left' }), edge('r', 'd')],
		},
	},
	{
		name: 'a router with two ends',
		constructs: ['action', 'skipped branch'],
		blueprint: {
			nodes: [
				node('r', 'route', { action: 'b' }),
				node('a', 'value', { value: 'A' }),
				node('b', 'value', { value: 'B' }),
			],
			edges: [edge('r', 'a', { action: 'a' }), edge('r', 'b', { action: 'b' })],
		},
	},
	{
		name: 'a condition on the result',
		constructs: ['condition'],
		blueprint: {
			nodes: [
				node('a', 'value', { value: { ok: true, no: false } }),
				node('b', 'value', { value: 'b' }),
				node('c', 'value', { value: 'c' }),
			],
			edges: [
				edge('a', 'b', { condition: 'result.output.ok' }),
				edge('a', 'c', { condition: 'result.output.no' }),
			],
		},
	},
	{
		name: 'a condition on the context',
		constructs: ['condition', 'context'],
		blueprint: {
			nodes: [
				node('a', 'context', { writes: { flag: { on: 1 } } }),
				node('b', 'value', { value: 'b' }),
				node('c', 'value', { value: 'c' }),
			],
			edges: [edge('a', 'b', { condition: 'flag.on' }), edge('a', 'c', { condition: 'absent.on' })],
		},
	},
	{
		name: 'a transform of the output',
		constructs: ['transform'],
		blueprint: {
			nodes: [node('a', 'value', { value: { inner: [1, 2] } }), node('b', 'echo')],
			edges: [edge('a', 'b', { transform: 'input.inner' })],
		},
	},
	{
		name: 'a transform that reads the context',
		constructs: ['transform', 'context'],
		blueprint: {
			nodes: [node('a', 'value', { value: 1 }), node('b', 'echo')],
			edges: [edge('a', 'b', { transform: 'context.settings.colour' })],
		},
		input: { settings: { colour: 'blue' } },
	},
	{
		name: 'a transform overrides explicit inputs',
		constructs: ['transform', 'inputs: name'],
		blueprint: {
			nodes: [node('a', 'value', { value: { n: 1 } }), node('b', 'echo', {}, { inputs: 'start' })],
			edges: [edge('a', 'b', { transform: 'input.n' })],
		},
		input: { start: 'unused' },
	},
	{
		name: 'a skipped branch ends there',
		constructs: ['skipped branch', 'condition'],
		blueprint: {
			nodes: [
				node('a', 'value', { value: { no: 0 } }),
				node('b', 'echo'),
				node('c', 'echo'),
				node('d', 'value', { value: 'd' }),
			],
			edges: [edge('a', 'b', { condition: 'result.output.no' }), edge('b', 'c'), edge('a', 'd')],
		},
	},
	{
		name: 'an all join behind a skipped branch never runs',
		constructs: ['all join', 'skipped branch', 'action'],
		blueprint: {
			nodes: [
				node('r', 'route', { action: 'go' }),
				node('a', 'value', { value: 'a' }),
				node('b', 'value', { value: 'b' }),
				node('j', 'value', { value: 'never' }),
			],
			edges: [
				edge('r', 'a', { action: 'go' }),
				edge('r', 'b', { action: 'stay' }),
				edge('a', 'j'),
				edge('b', 'j'),
			],
		},
	},
	{
		name: 'an any join behind a router runs once',
		constructs: ['any join', 'skipped branch', 'action'],
		blueprint: {
			nodes: [
				node('r', 'route', { action: 'go' }),
				node('a', 'value', { value: 'a' }),
				node('b', 'value', { value: 'b' }),
				node('j', 'echo', {}, { config: { joinStrategy: 'any' } }),
			],
			edges: [
				edge('r', 'a', { action: 'go' }),
				edge('r', 'b', { action: 'stay' }),
				edge('a', 'j'),
				edge('b', 'j'),
			],
		},
	},
	{
		name: 'an unconnected node starts by itself',
		constructs: ['start'],
		blueprint: { nodes: [node('a', 'value', { value: 1 }), node('b', 'value', { value: 2 })], edges: [] },
	},
	{
		name: 'several edges of one action are all taken',
		constructs: ['action'],
		blueprint: {
			nodes: [
				node('r', 'route', { action: 'go' }),
				node('a', 'value', { value: 'a' }),
				node('b', 'value', { value: 'b' }),
				node('c', 'value', { value: 'c' }),
			],
			edges: [edge('r', 'a', { action: 'go' }), edge('r', 'b', { action: 'go' }), edge('r', 'c')],
		},
	},
	{
		name: 'an action whose condition fails takes the edges without an action',
		constructs: ['action', 'condition'],
		blueprint: {
			nodes: [
				node('r', 'route', { action: 'go' }),
				node('a', 'value', { value: 'a' }),
				node('b', 'value', { value: 'b' }),
			],
			edges: [edge('r', 'a', { action: 'go', condition: 'absent' }), edge('r', 'b')],
		},
	},
	{
		name: 'an action that no edge has, where all edges have one, takes none',
		constructs: ['action', 'skipped branch'],
		blueprint: {
			nodes: [
				node('r', 'route', { action: 'elsewhere' }),
				node('a', 'value', { value: 'a' }),
				node('b', 'value', { value: 'b' }),
			],
			edges: [edge('r', 'a', { action: 'left' }), edge('r', 'b', { action: 'right' })],
		},
		expected: { status: 'completed', context: { a: undefined, b: undefined } },
	},
	{
		name: 'a node without an action, where all edges have one, takes none',
		constructs: ['action', 'skipped branch'],
		blueprint: {
			nodes: [node('a', 'value', { value: 1 }), node('b', 'value', { value: 2 })],
			edges: [edge('a', 'b', { action: 'go' })],
		},
		expected: { status: 'completed', context: { a: 1, b: undefined } },
	},
	{
		name: 'a node behind several starts with different depths waits for the deepest',
		constructs: ['all join', 'start', 'inputs: object'],
		blueprint: {
			nodes: [
				node('a', 'value', { value: 1 }),
				node('b', 'value', { value: 10 }),
				node('c', 'add'),
				node('d', 'add'),
				node('j', 'echo', {}, { inputs: { left: 'a', right: 'd' } }),
			],
			edges: [...chain('b', 'c', 'd', 'j'), edge('a', 'j')],
		},
	},
	{
		name: 'an all join counts a source once, however many edges lead from it',
		constructs: ['all join', 'condition'],
		blueprint: {
			nodes: [
				node('a', 'value', { value: { yes: 1 } }),
				node('b', 'value', { value: 2 }),
				node('j', 'value', { value: 'joined' }),
			],
			edges: [
				edge('a', 'j', { condition: 'result.output.yes' }),
				edge('a', 'j', { condition: 'result.output' }),
				edge('b', 'j'),
			],
		},
	},
	{
		name: 'the default input of a join is that of the last taken edge in blueprint order',
		constructs: ['all join'],
		blueprint: {
			nodes: [
				node('a', 'value', { value: 'first' }),
				node('b', 'value', { value: 'last' }),
				node('c', 'nothing'),
				node('j', 'echo'),
			],
			edges: [...chain('c', 'a'), edge('a', 'j'), edge('b', 'j')],
		},
		// `a` comes later, its edge earlier.
		expected: { status: 'completed', context: { j: 'last' } },
	},
	{
		name: 'an any join of several that arrive runs once',
		constructs: ['any join'],
		blueprint: {
			nodes: [
				node('a', 'value', { value: 'a' }),
				node('b', 'value', { value: 'b' }),
				node('c', 'value', { value: 'c' }),
				node('j', 'count', { key: 'runs' }, { config: { joinStrategy: 'any' } }),
				node('k', 'count', { key: 'after' }),
			],
			edges: [edge('a', 'j'), ...chain('b', 'c', 'j', 'k')],
		},
		expected: { status: 'completed', context: { runs: 1, after: 1, j: 1, k: 1 } },
	},
	{
		name: 'an any join does not wait for a branch that fails',
		constructs: ['any join', 'failure'],
		blueprint: {
			nodes: [
				node('a', 'fail'),
				node('b', 'value', { value: 'b' }),
				node('j', 'value', { value: 'joined' }, { config: { joinStrategy: 'any' } }),
			],
			edges: [edge('a', 'j'), edge('b', 'j')],
		},
	},
	{
		name: 'an all join behind a branch that fails never runs',
		constructs: ['all join', 'failure'],
		blueprint: {
			nodes: [
				node('a', 'fail'),
				node('b', 'value', { value: 'b' }),
				node('j', 'value', { value: 'never' }),
			],
			edges: [edge('a', 'j'), edge('b', 'j')],
		},
	},
	{
		name: 'joins in a row',
		constructs: ['all join', 'any join', 'action'],
		blueprint: {
			nodes: [
				node('r', 'route', { action: 'go' }),
				node('a', 'value', { value: 1 }),
				node('b', 'value', { value: 2 }),
				node('j', 'value', { value: 'j' }),
				node('x', 'value', { value: 'x' }),
				node('k', 'value', { value: 'k' }, { config: { joinStrategy: 'any' } }),
				node('e', 'echo', {}, { inputs: { j: 'j', x: 'x' } }),
			],
			edges: [
				edge('r', 'a', { action: 'go' }),
				edge('r', 'b', { action: 'go' }),
				edge('r', 'x', { action: 'stay' }),
				edge('a', 'j'),
				edge('b', 'j'),
				edge('j', 'k'),
				edge('x', 'k'),
				edge('k', 'e'),
			],
		},
	},
	{
		name: 'an expression that throws fails its node, without running it again',
		constructs: ['evaluator', 'condition', 'failure'],
		setup: 'throwing',
		blueprint: {
			nodes: [
				node('a', 'count', { key: 'runs' }, { config: { maxRetries: 3, retryDelay: 1 } }),
				node('b', 'value', { value: 'never' }),
				node('c', 'value', { value: 'elsewhere' }),
			],
			edges: [edge('a', 'b', { condition: 'throw' })],
		},
		expected: {
			status: 'failed',
			context: { runs: undefined, b: undefined, c: 'elsewhere' },
			errors: { a: 'the expression throws' },
		},
	},
	{
		name: 'an evaluator of one’s own sees the whole context',
		constructs: ['evaluator', 'condition', 'transform'],
		setup: 'unsafe',
		blueprint: {
			nodes: [node('a', 'value', { value: 3 }), node('b', 'value', { value: 'b' }), node('c', 'echo')],
			edges: [
				edge('a', 'b', { condition: 'limit > 5 && result.output === 3' }),
				edge('a', 'c', { transform: 'context.input * context.context.limit' }),
			],
		},
		input: { limit: 6 },
	},
	{
		name: 'a blueprint without nodes is refused',
		constructs: ['refused'],
		blueprint: { nodes: [], edges: [] },
		expected: { status: 'refused' },
	},
	{
		name: 'an edge to nowhere is refused',
		constructs: ['refused'],
		blueprint: { nodes: [node('a', 'value')], edges: [edge('a', 'gone')] },
		expected: { status: 'refused' },
	},
	{
		name: 'two nodes of one id are refused',
		constructs: ['refused'],
		blueprint: { nodes: [node('a', 'value'), node('a', 'value')], edges: [] },
		expected: { status: 'refused' },
	},
	{
		name: 'a fallback that points nowhere is refused',
		constructs: ['refused', 'fallback'],
		blueprint: { nodes: [node('a', 'fail', {}, { config: { fallback: 'gone' } })], edges: [] },
		expected: { status: 'refused' },
	},
]

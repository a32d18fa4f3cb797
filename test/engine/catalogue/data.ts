/** Values, inputs and the context. */
import { expect } from 'vitest'
import { type Case, chain, edge, node } from './case.js'

export const data: readonly Case[] = [
	{
		name: 'one node',
		constructs: ['start'],
		blueprint: { nodes: [node('a', 'value', { value: 1 })], edges: [] },
	},
	{
		name: 'values of every kind come back as they went in',
		constructs: ['values'],
		blueprint: {
			nodes: [
				node('a', 'value', {
					value: {
						z: 1,
						a: [null, true, 1.5, -0, 1e21, 'ä "quoted" \\ \u2028', {}],
						nested: { 'dotted.key': 0, __proto_: 1 },
					},
				}),
				node('b', 'echo'),
			],
			edges: [edge('a', 'b')],
		},
	},
	{
		name: 'null is an output',
		constructs: ['values'],
		blueprint: {
			nodes: [node('a', 'value', { value: null }), node('b', 'wrap', { as: 'got' })],
			edges: [edge('a', 'b')],
		},
	},
	{
		name: 'a node may return nothing',
		constructs: ['values'],
		blueprint: {
			nodes: [node('a', 'nothing'), node('b', 'wrap', { as: 'got' })],
			edges: [edge('a', 'b')],
		},
	},
	{
		name: 'inputs name a key of the initial context',
		constructs: ['inputs: name'],
		blueprint: { nodes: [node('a', 'add', { by: 5 }, { inputs: 'start' })], edges: [] },
		input: { start: 37 },
	},
	{
		name: 'inputs that name nothing are undefined',
		constructs: ['inputs: name'],
		blueprint: { nodes: [node('a', 'wrap', { as: 'got' }, { inputs: 'nowhere' })], edges: [] },
	},
	{
		name: 'a join reads its predecessors by name',
		constructs: ['inputs: object', 'all join'],
		blueprint: {
			nodes: [
				node('a', 'value', { value: 1 }),
				node('b', 'value', { value: { deep: { er: 2 } } }),
				node('j', 'echo', {}, { inputs: { left: 'a', right: 'b', given: 'start' } }),
			],
			edges: [edge('a', 'j'), edge('b', 'j')],
		},
		input: { start: 'here' },
	},
	{
		name: 'context writes are seen downstream',
		constructs: ['context'],
		blueprint: {
			nodes: [
				node('a', 'context', { writes: { x: 1, 'odd.key "quoted"': [2], '': 'empty' } }),
				node('b', 'context', { reads: ['x', 'odd.key "quoted"', '', 'absent', 'a', '_outputs.a'] }),
			],
			edges: [edge('a', 'b')],
		},
	},
	{
		name: 'a deleted key is gone',
		constructs: ['context'],
		blueprint: {
			nodes: [
				node('a', 'context', { writes: { x: 1 }, deletes: ['given'] }),
				node('b', 'context', { deletes: ['x'], reads: ['x', 'given'] }),
				node('c', 'context', { reads: ['x', 'given'] }),
			],
			edges: [edge('a', 'b'), edge('b', 'c')],
		},
		input: { given: 1 },
	},
	{
		name: 'a node may overwrite the name of another',
		constructs: ['context'],
		blueprint: {
			nodes: [
				node('a', 'value', { value: 1 }),
				node('b', 'context', { writes: { a: 'overwritten' } }),
				node('c', 'context', { reads: ['a', '_outputs.a'] }),
			],
			edges: [edge('a', 'b'), edge('b', 'c')],
		},
	},
	{
		name: 'inputs may be a path into an output or a key',
		constructs: ['inputs: path'],
		blueprint: {
			nodes: [
				node('a', 'value', { value: { deep: { er: 2 }, list: [5, 6] } }),
				node('b', 'echo', {}, { inputs: 'a.deep.er' }),
				node(
					'c',
					'echo',
					{},
					{ inputs: { item: 'a.list.1', given: 'start.here', none: 'a.no.where' } },
				),
			],
			edges: [edge('a', 'b'), edge('a', 'c')],
		},
		input: { start: { here: 'x' } },
		expected: { status: 'completed', context: { b: 2, c: { item: 6, given: 'x' } } },
	},
	{
		name: 'an output that holds the whole path as its name comes before the path',
		constructs: ['inputs: name'],
		blueprint: { nodes: [node('a', 'echo', {}, { inputs: 'dotted.key' })], edges: [] },
		input: { 'dotted.key': 'whole', dotted: { key: 'path' } },
	},
	{
		name: 'inputs with a leading underscore name a key as it stands',
		constructs: ['inputs: name'],
		blueprint: {
			nodes: [node('a', 'value', { value: 7 }), node('b', 'add', {}, { inputs: '_outputs.a' })],
			edges: [edge('a', 'b')],
		},
	},
	{
		name: 'inputs read an output of any node before, not only of the last',
		constructs: ['inputs: name'],
		blueprint: {
			nodes: [
				node('a', 'value', { value: 7 }),
				node('b', 'value', { value: 8 }),
				node('c', 'add', {}, { inputs: 'a' }),
			],
			edges: chain('a', 'b', 'c'),
		},
	},
	{
		name: 'an output comes before a key of the same name',
		constructs: ['inputs: name', 'context'],
		blueprint: {
			nodes: [node('a', 'value', { value: 'output' }), node('b', 'echo', {}, { inputs: 'a' })],
			edges: [edge('a', 'b')],
		},
		input: { a: 'given' },
	},
	{
		name: 'a patch sets and deletes several keys at once',
		constructs: ['context'],
		blueprint: {
			nodes: [
				node('a', 'patch', {
					operations: [
						{ op: 'set', key: 'kept', value: [1] },
						{ op: 'delete', key: 'given' },
					],
				}),
				node('b', 'context', { reads: ['kept', 'given'] }),
			],
			edges: [edge('a', 'b')],
		},
		input: { given: 1 },
		expected: {
			status: 'completed',
			context: { a: true, kept: [1], given: undefined, b: { kept: [1], given: 'missing' } },
		},
	},
	{
		name: 'keys of every kind are safe',
		constructs: ['context', 'values'],
		blueprint: {
			nodes: [
				node('a', 'context', {
					writes: { constructor: 1, "it's": 2, '$1; drop table x': 3, 'ключ 🔑': 4, _outputs: 5 },
				}),
				node('b', 'context', {
					reads: ['constructor', "it's", '$1; drop table x', 'ключ 🔑', '_outputs'],
				}),
			],
			edges: [edge('a', 'b')],
		},
	},
	{
		name: 'of two branches that write one key, the later commit counts, whole',
		constructs: ['context'],
		blueprint: {
			nodes: [
				node('a', 'context', { writes: { shared: { a: 1 } } }),
				node('b', 'context', { writes: { shared: { b: 1 } } }),
				node('c', 'context', { reads: ['shared'] }),
			],
			edges: [edge('a', 'c'), edge('b', 'c')],
		},
		expected: { status: 'completed', context: { shared: expect.toBeOneOf([{ a: 1 }, { b: 1 }]) } },
	},
	{
		name: 'a date comes back as text',
		constructs: ['values'],
		blueprint: { nodes: [node('a', 'date'), node('b', 'is-date')], edges: [edge('a', 'b')] },
		expected: { status: 'completed', context: { a: '1970-01-01T00:00:00.000Z', b: false } },
	},
	{
		name: 'a serializer keeps a date a date',
		constructs: ['serializer', 'values'],
		setup: 'serializer',
		blueprint: { nodes: [node('a', 'date'), node('b', 'is-date')], edges: [edge('a', 'b')] },
	},
	{
		name: 'dependencies reach the node',
		constructs: ['dependencies'],
		blueprint: { nodes: [node('a', 'depends')], edges: [] },
	},
	{
		name: 'middleware runs before and after each node',
		constructs: ['middleware'],
		setup: 'middleware',
		blueprint: { nodes: [node('a', 'value', { value: 1 }), node('b', 'add')], edges: [edge('a', 'b')] },
	},
	{
		name: 'middleware runs on each attempt',
		constructs: ['middleware', 'retry'],
		setup: 'middleware',
		blueprint: {
			nodes: [
				node(
					'a',
					'flaky',
					{ name: 'wrapped', succeedsAt: 3 },
					{ config: { maxRetries: 3, retryDelay: 1 } },
				),
			],
			edges: [],
		},
		// What the attempts that failed wrote to the context went with them.
		expected: { status: 'completed', context: { a: 'succeeded at 3', 'around a': 1 } },
	},
]

/** What fails, is retried, is rescued. */
import { expect } from 'vitest'
import { type Case, edge, node } from './case.js'

export const failures: readonly Case[] = [
	{
		name: 'a failure ends its branch, others go on, the run fails',
		constructs: ['failure'],
		blueprint: {
			nodes: [
				node('a', 'fail'),
				node('b', 'value', { value: 'not reached' }),
				node('c', 'value', { value: 1 }),
				node('d', 'add'),
			],
			edges: [edge('a', 'b'), edge('c', 'd')],
		},
	},
	{
		name: 'two failures are both reported',
		constructs: ['failure'],
		blueprint: {
			nodes: [node('a', 'fail', { message: 'first' }), node('b', 'fail', { message: 'second' })],
			edges: [],
		},
	},
	{
		name: 'a retry succeeds',
		constructs: ['retry', 'retryDelay'],
		blueprint: {
			nodes: [
				node(
					'a',
					'flaky',
					{ name: 'retry', succeedsAt: 3 },
					{ config: { maxRetries: 3, retryDelay: 1 } },
				),
				node('b', 'echo'),
			],
			edges: [edge('a', 'b')],
		},
	},
	{
		name: 'retries are exhausted',
		constructs: ['retry', 'failure'],
		blueprint: {
			nodes: [
				node(
					'a',
					'flaky',
					{ name: 'exhausted', succeedsAt: 4 },
					{ config: { maxRetries: 3, retryDelay: 1 } },
				),
			],
			edges: [],
		},
	},
	{
		name: 'a fatal error is not retried',
		constructs: ['fatal', 'retry'],
		blueprint: {
			nodes: [node('a', 'fatal', {}, { config: { maxRetries: 5, retryDelay: 1 } })],
			edges: [],
		},
	},
	{
		name: 'a fallback stands in for a failed node',
		constructs: ['fallback'],
		blueprint: {
			nodes: [
				node('a', 'fail', {}, { config: { fallback: 'f' } }),
				node('f', 'value', { value: 'rescued' }),
				node('b', 'echo'),
			],
			edges: [edge('a', 'b')],
		},
	},
	{
		name: 'a fallback that is not needed does not run',
		constructs: ['fallback'],
		blueprint: {
			nodes: [
				node('a', 'value', { value: 'fine' }, { config: { fallback: 'f' } }),
				node('f', 'value', { value: 'unused' }),
				node('b', 'echo'),
			],
			edges: [edge('a', 'b')],
		},
	},
	{
		name: 'a fatal error skips the fallback',
		constructs: ['fatal', 'fallback'],
		blueprint: {
			nodes: [
				node('a', 'fatal', {}, { config: { fallback: 'f' } }),
				node('f', 'value', { value: 'unused' }),
			],
			edges: [],
		},
	},
	{
		name: 'a fallback with edges of its own',
		constructs: ['fallback'],
		blueprint: {
			nodes: [
				node('a', 'fail', {}, { config: { fallback: 'f' } }),
				node('f', 'value', { value: 'rescued' }),
				node('b', 'echo'),
				node('c', 'echo'),
			],
			edges: [edge('a', 'b'), edge('f', 'c')],
		},
	},
	{
		name: 'an error has the message that the node threw',
		constructs: ['failure'],
		blueprint: { nodes: [node('a', 'fail', { message: 'no "quotes" lost' })], edges: [] },
		expected: { status: 'failed', errors: { a: 'no "quotes" lost' } },
	},
	{
		name: 'maxRetries of 0 means one attempt',
		constructs: ['retry'],
		blueprint: {
			nodes: [node('a', 'value', { value: 1 }, { config: { maxRetries: 1 } }), node('b', 'echo')],
			edges: [edge('a', 'b')],
		},
	},
	{
		name: 'an attempt that fails leaves nothing in the context',
		constructs: ['retry', 'context'],
		blueprint: {
			nodes: [
				node(
					'a',
					'write-then-fail',
					{ name: 'leaves' },
					{ config: { maxRetries: 2, retryDelay: 1 } },
				),
			],
			edges: [],
		},
		expected: { status: 'completed', context: { a: { before: false }, 'left behind': true } },
	},
	{
		name: 'a timeout fails the node',
		constructs: ['timeout', 'failure'],
		blueprint: { nodes: [node('a', 'slow', {}, { config: { timeout: 20 } })], edges: [] },
		expected: { status: 'failed', context: { a: undefined }, errors: { a: /20 ms/ } },
	},
	{
		name: 'a timeout that is not reached changes nothing',
		constructs: ['timeout'],
		blueprint: { nodes: [node('a', 'value', { value: 1 }, { config: { timeout: 10_000 } })], edges: [] },
	},
	{
		name: 'a fallback runs after the last attempt',
		constructs: ['fallback', 'retry'],
		blueprint: {
			nodes: [
				node(
					'a',
					'flaky',
					{ name: 'rescued', succeedsAt: 9 },
					{ config: { maxRetries: 2, retryDelay: 1, fallback: 'f' } },
				),
				node('f', 'value', { value: 'rescued' }),
				node('b', 'echo'),
			],
			edges: [edge('a', 'b')],
		},
	},
	{
		name: 'a fallback that fails too leaves both errors',
		constructs: ['fallback', 'failure'],
		blueprint: {
			nodes: [
				node('a', 'fail', { message: 'first' }, { config: { fallback: 'f' } }),
				node('f', 'fail', { message: 'second' }),
				node('b', 'value', { value: 'never' }),
			],
			edges: [edge('a', 'b')],
		},
		expected: { status: 'failed', context: { b: undefined }, errors: { a: 'first', f: 'second' } },
	},
	{
		name: 'a fallback of a fallback stands in for both',
		constructs: ['fallback'],
		blueprint: {
			nodes: [
				node('a', 'fail', {}, { config: { fallback: 'f' } }),
				node('f', 'fail', {}, { config: { fallback: 'g' } }),
				node('g', 'value', { value: 'rescued twice' }),
				node('b', 'echo'),
			],
			edges: [edge('a', 'b')],
		},
		expected: { status: 'completed', context: { a: null, f: null, b: 'rescued twice' }, errors: {} },
	},
	{
		name: 'a run of which one failure was rescued and another was not has failed',
		constructs: ['fallback', 'failure'],
		blueprint: {
			nodes: [
				node('a', 'fail', {}, { config: { fallback: 'f' } }),
				node('f', 'value', { value: 'rescued' }),
				node('b', 'fail', { message: 'lost' }),
			],
			edges: [],
		},
		expected: { status: 'failed', context: { f: 'rescued' }, errors: { b: 'lost' } },
	},
	{
		name: 'a fallback that several nodes share runs once for each',
		constructs: ['fallback'],
		blueprint: {
			nodes: [
				node('a', 'fail', {}, { config: { fallback: 'f' } }),
				node('b', 'fail', {}, { config: { fallback: 'f' } }),
				node('f', 'count', { key: 'rescues' }),
				node('c', 'count', { key: 'behind a' }),
				node('d', 'count', { key: 'behind b' }),
			],
			edges: [edge('a', 'c'), edge('b', 'd')],
		},
		// The two write one key at once, or one after the other.
		expected: {
			status: 'completed',
			context: { 'behind a': 1, 'behind b': 1, rescues: expect.toBeOneOf([1, 2]) },
			errors: {},
		},
	},
	{
		name: 'a join waits for the fallback of a node that failed',
		constructs: ['fallback', 'all join'],
		blueprint: {
			nodes: [
				node('a', 'fail', {}, { config: { fallback: 'f' } }),
				node('f', 'value', { value: 'rescued' }),
				node('b', 'value', { value: 'b' }),
				node('j', 'echo', {}, { inputs: { rescued: 'f', b: 'b' } }),
			],
			edges: [edge('a', 'j'), edge('b', 'j')],
		},
	},
	{
		name: 'an action of a fallback chooses among the edges of the node that failed',
		constructs: ['fallback', 'action'],
		blueprint: {
			nodes: [
				node('a', 'fail', {}, { config: { fallback: 'f' } }),
				node('f', 'route', { action: 'rescued' }),
				node('b', 'value', { value: 'b' }),
				node('c', 'value', { value: 'c' }),
			],
			edges: [edge('a', 'b'), edge('a', 'c', { action: 'rescued' })],
		},
	},
	{
		name: 'a class node runs its phases in order',
		constructs: ['class node'],
		blueprint: {
			nodes: [node('a', 'value', { value: 5 }), node('b', 'phases')],
			edges: [edge('a', 'b')],
		},
	},
	{
		name: 'the fallback method of a class node makes its failure good',
		constructs: ['class node', 'fallback'],
		blueprint: {
			nodes: [
				node('a', 'phases', { name: 'class rescued', succeedsAt: 9, rescue: true }),
				node('b', 'echo'),
			],
			edges: [edge('a', 'b')],
		},
	},
	{
		name: 'a class node that fails is recovered from, and has failed',
		constructs: ['class node', 'failure'],
		blueprint: {
			nodes: [node('a', 'phases', { name: 'class failed', succeedsAt: 9 })],
			edges: [],
		},
		// What `recover` wrote belongs to an attempt that failed.
		expected: {
			status: 'failed',
			context: { 'recovered from': undefined },
			errors: { a: 'not in exec' },
		},
	},
	{
		name: 'the prep method of a class node runs on each attempt',
		constructs: ['class node', 'retry'],
		blueprint: {
			nodes: [
				node(
					'a',
					'phases',
					{ name: 'class retried', succeedsAt: 3 },
					{ config: { maxRetries: 3, retryDelay: 1 } },
				),
			],
			edges: [],
		},
		expected: { status: 'completed', context: { a: { executed: null, preps: 3 } } },
	},
	{
		name: 'the fallback method of a class node comes after the last attempt',
		constructs: ['class node', 'retry', 'fallback'],
		blueprint: {
			nodes: [
				node(
					'a',
					'phases',
					{ name: 'class exhausted', succeedsAt: 9, rescue: true },
					{ config: { maxRetries: 2, retryDelay: 1 } },
				),
			],
			edges: [],
		},
		expected: { status: 'completed', context: { a: { rescued: 'not in exec', preps: 2 } } },
	},
]

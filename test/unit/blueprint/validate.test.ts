import { describe, expect, test } from 'vitest'
import { canonicalJson, contentHash } from '../../../src/blueprint/hash.js'
import { validateBlueprint } from '../../../src/blueprint/validate.js'
import { InvalidInputError } from '../../../src/errors.js'

const faultsOf = (blueprint: unknown): string[] => {
	try {
		validateBlueprint(blueprint)
	} catch (error) {
		if (error instanceof InvalidInputError)
			return error.faults.map(({ path, message }) => `${path} ${message}`)
		throw error
	}
	return []
}
const node = (id: string, rest: object = {}) => ({ id, uses: 'any', ...rest })

describe('a blueprint is refused', () => {
	test.each<[string, unknown, string[]]>([
		['that is no object', 'text', [' Invalid input: expected object, received string']],
		['without nodes', { id: 'x', nodes: [], edges: [] }, ['/nodes must have at least one node']],
		[
			'with edges to nowhere',
			{
				id: 'x',
				nodes: [node('a')],
				edges: [
					{ source: 'a', target: 'b' },
					{ source: 'c', target: 'a' },
				],
			},
			["/edges/0/target there is no node 'b'", "/edges/1/source there is no node 'c'"],
		],
		[
			'with duplicate ids',
			{ id: 'x', nodes: [node('a'), node('a')], edges: [] },
			["/nodes/1/id 'a' is the id of node 0 too"],
		],
		[
			'with a fallback that does not exist',
			{ id: 'x', nodes: [node('a', { config: { fallback: 'f' } })], edges: [] },
			["/nodes/0/config/fallback there is no node 'f'"],
		],
		[
			'with fallbacks in a circle',
			{
				id: 'x',
				nodes: [
					node('s'),
					node('a', { config: { fallback: 'b' } }),
					node('b', { config: { fallback: 'a' } }),
				],
				edges: [],
			},
			[
				"/nodes/1/config/fallback the fallbacks lead back to 'a'",
				"/nodes/2/config/fallback the fallbacks lead back to 'b'",
			],
		],
		[
			'with a wait for a webhook that no node gives out',
			{
				id: 'x',
				nodes: [
					node('h', { uses: 'webhook' }),
					node('a', { uses: 'wait', params: { webhookNodeId: 'h' } }),
					node('b', { uses: 'wait', params: { webhookNodeId: 'a' } }),
					node('c', { uses: 'wait', params: { eventName: 'webhook:nobody' } }),
				],
				edges: [],
			},
			[
				"/nodes/2/params/webhookNodeId there is no webhook node 'a'",
				"/nodes/3/params/eventName there is no webhook node 'nobody'",
			],
		],
		[
			'with a loop that has no way into its body',
			{
				id: 'x',
				nodes: [node('a'), node('l', { uses: 'loop-controller', params: { condition: 'more' } })],
				edges: [{ source: 'a', target: 'l' }],
			},
			["/nodes/1/id loop 'l' has no edge with the action 'continue' to the start of its body"],
		],
		[
			'with a batch that gathers nowhere',
			{
				id: 'x',
				nodes: [
					node('s', { uses: 'batch-scatter', params: { workerUsesKey: 'w', gatherNodeId: 'g' } }),
				],
				edges: [],
			},
			["/nodes/0/params/gatherNodeId there is no batch-gather node 'g'"],
		],
		[
			'with a subflow that names no blueprint',
			{ id: 'x', nodes: [node('a', { uses: 'subflow' })], edges: [] },
			['/nodes/0/params/blueprintId a subflow must name its blueprint'],
		],
		[
			'with a NUL in an id',
			{ id: 'x\u0000', nodes: [node('a')], edges: [] },
			['/id must not contain NUL or half of a surrogate pair'],
		],
		[
			'with negative retries',
			{ id: 'x', nodes: [node('a', { config: { maxRetries: -1 } })], edges: [] },
			['/nodes/0/config/maxRetries must not be negative'],
		],
	])('%s', (_, blueprint, faults) => {
		expect(faultsOf(blueprint)).toEqual(faults)
	})

	test('with every fault at once', () => {
		expect(
			faultsOf({
				id: 'x',
				nodes: [node('a'), node('a', { uses: 'subflow' })],
				edges: [{ source: 'a', target: 'b' }],
			}),
		).toHaveLength(3)
	})
})

test('a chain of 20,000 nodes is checked without running out of stack', () => {
	const nodes = Array.from({ length: 20_000 }, (_, i) => node(`n${i}`))
	const edges = nodes.slice(1).map(({ id }, i) => ({ source: `n${i}`, target: id }))
	expect(faultsOf({ id: 'long', nodes, edges })).toEqual([])
})

test('properties that only editors use are dropped', () => {
	const blueprint = validateBlueprint({
		id: 'x',
		nodes: [node('a', { position: { x: 1 } })],
		edges: [],
		viewport: {},
	})
	expect(blueprint).toEqual({ id: 'x', nodes: [{ id: 'a', uses: 'any' }], edges: [] })
})

test('equal contents have equal hashes, whatever the order of their keys', async () => {
	const first = canonicalJson({ b: [1, { y: 2, x: undefined }], a: null })
	const second = canonicalJson({ a: null, b: [1, { y: 2 }] })
	expect(first).toBe(second)
	expect(await contentHash(first)).toMatch(/^[0-9a-f]{32}$/)
})

import { afterAll, beforeAll, expect, test } from 'vitest'
import type { ClaimedNode } from '../../src/claim/claim.js'
import { commitNodes, type NodeCommit } from '../../src/commit/commit.js'
import { type Core, createCore, flow } from '../support/core.js'

let core: Core
let worker: string

const SOURCES = ['a', 'b', 'c', 'd']

beforeAll(async () => {
	core = await createCore()
	worker = await core.worker()
	await core.register(flow('all', [...SOURCES.map((id) => [id, 'join'] as const), ['join', 'after']]))
	await core.register(
		flow('any', [...SOURCES.map((id) => [id, 'join'] as const), ['join', 'after']], {
			join: { config: { joinStrategy: 'any' } },
		}),
	)
	await core.register(
		flow(
			'choosy',
			SOURCES.map((id) => [id, 'join', { action: 'go' }]),
		),
	)
})
afterAll(() => core.drop())

/** Claims all sources of a run and plans their completion, each with its own id as output. */
async function ready(blueprint: string): Promise<{ runId: string; commits: NodeCommit[] }> {
	const runId = await core.start(blueprint)
	const claims = await Promise.all(SOURCES.map((id) => core.claimed(worker, runId, id)))
	return { runId, commits: claims.map((node) => core.completed(node, { output: node.key.nodeId })) }
}

/** The states of join and successor, the input that the join was given, and how many messages it has. */
async function joinOf(runId: string): Promise<{ state: string; input: string | null; messages: number }> {
	const [row] = await core.rows<{ state: string; input: string | null; messages: number }>(
		`select n.state, coalesce(n.input, n.input_node) as input,
			(select count(*)::int from flowcraft_outbox o where o.run_id = n.run_id and o.node_id = n.node_id) as messages
		from flowcraft_nodes n where n.run_id = $1 and n.node_id = 'join'`,
		runId,
	)
	if (row === undefined) throw new Error('The join does not exist')
	return row
}

const shuffled = <T>(items: readonly T[]): T[] =>
	items
		.map((item) => [Math.random(), item] as const)
		.sort(([a], [b]) => a - b)
		.map(([, item]) => item)

test('two hundred four-way joins, their sources committed at once on many connections: each fires exactly once', async () => {
	const runs = await Promise.all(Array.from({ length: 200 }, () => ready('all')))
	await core.drain()
	// Every commit for itself and in any order, so that those of one run meet.
	const outcomes = await Promise.all(
		shuffled(runs.flatMap(({ commits }) => commits)).map((commit) => core.commit(commit)),
	)
	expect(new Set(outcomes.flat())).toEqual(new Set(['committed']))

	const jobs = await core.drain()
	expect(jobs.map(({ runId, nodeId }) => `${runId} ${nodeId}`).sort()).toEqual(
		runs.map(({ runId }) => `${runId} join`).sort(),
	)
	expect(await core.violations()).toEqual([])
	for (const { runId } of runs) {
		// The last taken edge in blueprint order, whoever came last.
		expect(await core.claimed(worker, runId, 'join')).toMatchObject({ input: '"d"' })
		expect(await core.run(runId)).toMatchObject({ status: 'running', live: 1 })
	}
})

test('arrivals in batches of many runs, each batch on its own connection, fire each join exactly once', async () => {
	const runs = await Promise.all(Array.from({ length: 50 }, () => ready('all')))
	await core.drain()
	const commits = shuffled(runs.flatMap(({ commits }) => commits))
	const batches = Array.from({ length: 10 }, (_, batch) => commits.slice(batch * 20, (batch + 1) * 20))
	await Promise.all(batches.map((batch) => commitNodes(core.sql, batch)))
	expect((await core.drain()).map(({ runId }) => runId).sort()).toEqual(
		runs.map(({ runId }) => runId).sort(),
	)
	expect(await core.violations()).toEqual([])
})

test('arrivals that are repeated count once', async () => {
	const { runId, commits } = await ready('all')
	const three = commits.slice(0, 3)
	await Promise.all([...three, ...three, ...three].map((commit) => core.commit(commit)))
	expect(await joinOf(runId)).toMatchObject({ state: 'pending', messages: 0 })
	await core.commit(commits[3] as NodeCommit, commits[3] as NodeCommit)
	expect(await joinOf(runId)).toMatchObject({ state: 'ready', messages: 1 })
	expect(await core.violations()).toEqual([])
})

test('an arrival that stands already does not count, even from a claim of its own', async () => {
	const { runId, commits } = await ready('all')
	// The same source arrives under two claims: that of another node smuggles it in.
	const [first, second] = commits as [NodeCommit, NodeCommit]
	await core.commit(first)
	await core.commit({ ...second, arrivals: [...(first.arrivals ?? []), ...(second.arrivals ?? [])] })
	const [row] = await core.rows(
		`select arrived, taken from flowcraft_nodes where run_id = $1 and node_id = 'join'`,
		runId,
	)
	expect(row).toEqual({ arrived: 2, taken: 2 })
})

test('a source whose claim was lost does not arrive, whatever else is in its batch', async () => {
	const [runId, other] = [await ready('all'), await ready('all')]
	const [zombie, ...others] = runId.commits as [NodeCommit, ...NodeCommit[]]
	await core.commit(...others)
	expect(
		await core.commit({ ...zombie, token: crypto.randomUUID() }, other.commits[0] as NodeCommit),
	).toEqual(['lost', 'committed'])
	expect(await joinOf(runId.runId)).toMatchObject({ state: 'pending' })
	expect(await core.violations()).toEqual([])
	expect(
		await core.rows('select source from flowcraft_arrivals where run_id = $1 order by 1', runId.runId),
	).toEqual(['b', 'c', 'd'].map((source) => ({ source })))
	await core.commit(zombie)
	expect(await joinOf(runId.runId)).toMatchObject({ state: 'ready' })
})

test('a join that a node makes wait for more, while others have arrived, does not fire without it', async () => {
	const { runId, commits } = await ready('all')
	const [first, adding, ...others] = commits as [NodeCommit, NodeCommit, ...NodeCommit[]]
	const join = { nodeId: 'join', generation: '' }
	const more = { definition: { id: 'more', uses: 'work' }, place: 'b', gather: join }
	await core.commit(first)
	await core.commit({
		...adding,
		next: [
			{
				nodeId: 'more',
				generation: '',
				recovers: '',
				edge: -1,
				input: { type: 'none' },
				dynamic: more,
			},
		],
		raises: [{ ...join, expected: 4, by: 1 }],
	})
	await core.commit(...others)
	expect(await joinOf(runId)).toMatchObject({ state: 'pending', messages: 0 })
	await core.commit({
		...core.completed(await core.claimed(worker, runId, 'more')),
		arrivals: [{ ...join, source: 'more', taken: true, expected: 0, edge: -1, input: { type: 'none' } }],
	})
	expect(await joinOf(runId)).toMatchObject({ state: 'ready', messages: 1 })
	expect(await core.violations()).toEqual([])
})

test('a join that has run does not run again, whoever arrives once more', async () => {
	const { runId, commits } = await ready('all')
	await core.commit(...commits)
	await core.commit(core.completed(await core.claimed(worker, runId, 'join')))
	await core.drain()
	await core.commit({
		...core.completed(await core.claimed(worker, runId, 'after')),
		arrivals: commits[0]?.arrivals ?? [],
	})
	expect(await joinOf(runId)).toMatchObject({ state: 'completed', messages: 0 })
	expect(await core.run(runId)).toMatchObject({ status: 'completed' })
})

test.each([0, 1, 2, 3, 4])(
	'of four sources that arrive, %i by a taken edge: the join fires if there is one, with the input of the last',
	async (taken) => {
		for (let round = 0; round < 5; round++) {
			const runId = await core.start('choosy')
			const claims = await Promise.all(SOURCES.map((id) => core.claimed(worker, runId, id)))
			const takers = new Set(shuffled(SOURCES).slice(0, taken))
			const commit = (node: ClaimedNode): NodeCommit =>
				core.completed(node, {
					output: node.key.nodeId,
					...(takers.has(node.key.nodeId) ? { action: 'go' } : {}),
				})
			await core.drain()
			for (const node of shuffled(claims)) await core.commit(commit(node))
			const last = SOURCES.findLast((id) => takers.has(id)) ?? null
			expect(await joinOf(runId)).toEqual({
				state: taken > 0 ? 'ready' : 'pending',
				input: last,
				messages: taken > 0 ? 1 : 0,
			})
			expect(await core.run(runId)).toMatchObject({ status: taken > 0 ? 'running' : 'completed' })
		}
	},
)

test('a join does not fire before everybody has arrived, however many edges were taken', async () => {
	const { runId, commits } = await ready('all')
	await core.commit(...commits.slice(1))
	expect(await joinOf(runId)).toMatchObject({ state: 'pending', messages: 0 })
	expect(await core.run(runId)).toMatchObject({ status: 'running', live: 1 })
})

test('a failed source does not arrive; its fallback arrives in its name', async () => {
	await core.register(
		flow(
			'recovering',
			SOURCES.map((id) => [id, 'join']),
			{ a: { config: { fallback: 'f' } }, f: {} },
		),
	)
	const { runId, commits } = await ready('recovering')
	const [a, ...others] = commits as [NodeCommit, ...NodeCommit[]]
	await core.commit(...others)
	const { node } = { node: { key: a.key, token: a.token, blueprintId: 'recovering' } as ClaimedNode }
	await core.commit(core.failed(node))
	expect(await joinOf(runId)).toMatchObject({ state: 'pending' })
	await core.commit(
		core.completed(await core.claimed(worker, runId, 'f', { recovers: '["a"]' }), { output: 'f' }),
	)
	expect(await joinOf(runId)).toMatchObject({ state: 'ready', input: 'd' })
})

test('an input that an edge transformed wins or loses like any other, by the order of edges', async () => {
	await core.register(
		flow('transformed', [
			['a', 'join'],
			['b', 'join', { transform: 'input.x' }],
			['c', 'join'],
		]),
	)
	for (const order of [
		['a', 'b', 'c'],
		['c', 'b', 'a'],
		['b', 'c', 'a'],
	]) {
		const runId = await core.start('transformed')
		for (const id of order)
			await core.commit(core.completed(await core.claimed(worker, runId, id), { output: { x: id } }))
		expect(await core.claimed(worker, runId, 'join')).toMatchObject({
			transformed: false,
			input: '{"x":"c"}',
		})
	}
	const runId = await core.start('transformed')
	const { key, token } = await core.claimed(worker, runId, 'c')
	for (const id of ['b', 'a'])
		await core.commit(core.completed(await core.claimed(worker, runId, id), { output: { x: id } }))
	// The last edge is not taken: the one before it counts.
	const arrival = {
		nodeId: 'join',
		generation: '',
		source: 'c',
		taken: false,
		expected: 3,
		edge: -1,
		input: { type: 'none' } as const,
	}
	await core.commit({ key, token, outcome: 'completed', output: null, arrivals: [arrival] })
	expect(await core.claimed(worker, runId, 'join')).toMatchObject({ transformed: true, input: '"b"' })
})

test('an any-join fires once, at the first taken arrival, however many come at once', async () => {
	const runs = await Promise.all(Array.from({ length: 50 }, () => ready('any')))
	await core.drain()
	await Promise.all(shuffled(runs.flatMap(({ commits }) => commits)).map((commit) => core.commit(commit)))
	const jobs = await core.drain()
	expect(jobs.map(({ runId, nodeId }) => `${runId} ${nodeId}`).sort()).toEqual(
		runs.map(({ runId }) => `${runId} join`).sort(),
	)
	expect(await core.violations()).toEqual([])
})

test('an any-join that has run is not run again by those who come later', async () => {
	const { runId, commits } = await ready('any')
	const [first, ...others] = commits as [NodeCommit, ...NodeCommit[]]
	await core.commit(first)
	await core.commit(core.completed(await core.claimed(worker, runId, 'join'), { output: 1 }))
	await core.drain()
	await core.commit(...others)
	expect(await joinOf(runId)).toEqual({ state: 'completed', input: 'a', messages: 0 })
	expect(await core.run(runId)).toMatchObject({ live: 1 })
})

test('several sources of an any-join in one batch make it ready once', async () => {
	const { runId, commits } = await ready('any')
	expect(await core.commit(...commits)).toEqual(Array<string>(4).fill('committed'))
	expect(await joinOf(runId)).toMatchObject({ state: 'ready', messages: 1 })
	expect(await core.run(runId)).toMatchObject({ live: 1 })
})

test('an arrival costs the same in a commit of two hundred of them and of four thousand', async () => {
	const sources = Array.from({ length: 50 }, (_, i) => `s${i}`)
	/** Milliseconds for each arrival when all sources of one run are committed at once. */
	const cost = async (joins: number): Promise<number> => {
		const blueprint = `dense-${joins}`
		const targets = Array.from({ length: joins }, (_, i) => `j${i}`)
		await core.register(
			flow(
				blueprint,
				sources.flatMap((source) => targets.map((target) => [source, target] as const)),
			),
		)
		const times: number[] = []
		for (let tries = 0; tries < 3; tries++) {
			const runId = await core.start(blueprint)
			const commits: NodeCommit[] = []
			for (const id of sources) commits.push(core.completed(await core.claimed(worker, runId, id)))
			const begin = performance.now()
			await commitNodes(core.sql, commits)
			times.push(performance.now() - begin)
		}
		return Math.min(...times) / (sources.length * joins)
	}
	const few = await cost(4)
	expect((await cost(80)) / few).toBeLessThan(2.5)
	expect(await core.violations()).toEqual([])
})

/** A worker that goes on with the successor of the node it has committed, under the guarantees of any other claim. */
import type { NodeFunction } from 'flowcraft'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type ClaimedNode, releaseNodes } from '../../src/claim/claim.js'
import { type CommitResult, commitNodes, type NodeCommit } from '../../src/commit/commit.js'
import { sweepLost, sweepWorkers } from '../../src/outbox/sweep.js'
import type { Broker } from '../../src/ports/broker.js'
import { pauseRun } from '../../src/run/pause.js'
import { noLogger } from '../../src/ports/logger.js'
import { createInProcessBroker } from '../../worker/broker/in-process.js'
import { continuedNode, offerClaim, offeredClaim } from '../../worker/worker/continuation.js'
import { type Core, createCore, flow, keyOf } from '../support/core.js'
import { startEngine, type TestEngine } from '../support/engine.js'
import { startProxy } from '../support/tcp-proxy.js'
import { waitFor } from '../support/wait-for.js'

const CHAIN = flow('chain', [
	['a', 'b'],
	['b', 'c'],
])
const DIAMOND = flow('diamond', [
	['a', 'b'],
	['a', 'c'],
	['b', 'd'],
	['c', 'd'],
])

describe('the commit', () => {
	let core: Core
	let worker: string

	beforeEach(async () => {
		core = await createCore()
		await core.register(CHAIN)
		await core.register(DIAMOND)
		worker = await core.worker()
	})
	afterEach(() => core.drop())

	const begun = async (blueprint: string): Promise<ClaimedNode> => {
		const node = await core.claimed(worker, await core.start(blueprint), 'a')
		await core.drain()
		return node
	}

	/** Commits with an offer, and says what it led to. */
	async function offer(
		node: ClaimedNode,
		as = worker,
		planned: NodeCommit = core.completed(node, { output: `of ${node.key.nodeId}` }),
	): Promise<{ commit: NodeCommit; result: CommitResult; next: ClaimedNode | undefined }> {
		const commit = offerClaim(planned, () => true)
		const result = await commitNodes(core.sql, [commit], as)
		return { commit, result, next: continuedNode(node, commit, result.continued) }
	}

	test('claims the successor for the worker that commits, without a message', async () => {
		const node = await begun('chain')
		const { next, result } = await offer(node)
		expect(result).toMatchObject({ outcomes: ['committed'], emitted: 0 })
		expect(next).toMatchObject({
			key: keyOf(node.key.runId, 'b'),
			attempt: 1,
			hasInput: true,
			transformed: false,
			input: '"of a"',
		})
		expect((await core.nodes(node.key.runId))['b']?.state).toBe('running')
		expect(await core.outbox(node.key.runId)).toEqual([])
		expect(await core.run(node.key.runId)).toMatchObject({ status: 'running', live: 1 })
		expect(await core.violations()).toEqual([])
	})

	test('gives what a claim of the same node would have given', async () => {
		const runId = await core.start('diamond')
		const { next: b } = await offer(await core.claimed(worker, runId, 'a'))
		const { next: none } = await offer(await core.claimed(worker, runId, 'c'))
		expect(none).toBeUndefined()
		const { next: d } = await offer(b as ClaimedNode)
		for (const node of [d, b] as ClaimedNode[]) {
			await core.rows(
				`update flowcraft_nodes set state = 'ready' where run_id = $1 and node_id = $2`,
				runId,
				node.key.nodeId,
			)
			const { token: _, ...claimed } = await core.claimed(worker, runId, node.key.nodeId)
			const { token: __, ...continued } = node
			expect(continued).toEqual(claimed)
		}
		expect(d?.input).toBe('"of c"')
	})

	test('claims one successor and leaves the others to the outbox', async () => {
		const node = await begun('diamond')
		const { next } = await offer(node)
		expect(next?.key.nodeId).toBe('b')
		expect(await core.outbox(node.key.runId)).toEqual(['c'])
	})

	test('claims a join for whoever completes it, and for nobody before', async () => {
		const runId = await core.start('diamond')
		await core.commit(core.completed(await core.claimed(worker, runId, 'a'), { output: 'of a' }))
		const b = await offer(await core.claimed(worker, runId, 'b'))
		expect(b.next).toBeUndefined()
		const c = await offer(await core.claimed(worker, runId, 'c'))
		expect(c.next).toMatchObject({ key: keyOf(runId, 'd'), hasInput: true, input: '"of c"' })
		expect((await core.nodes(runId))['d']?.state).toBe('running')
		expect(await core.violations()).toEqual([])
	})

	test('claims a join once when several of one batch complete it', async () => {
		const runId = await core.start('diamond')
		await core.commit(core.completed(await core.claimed(worker, runId, 'a')))
		await core.drain()
		const nodes = [await core.claimed(worker, runId, 'b'), await core.claimed(worker, runId, 'c')]
		const commits = nodes.map((node) => offerClaim(core.completed(node), () => true))
		const { continued } = await commitNodes(core.sql, commits, worker)
		const next = nodes.map((node, i) => continuedNode(node, commits[i] as NodeCommit, continued))
		expect(next.filter((node) => node !== undefined)).toHaveLength(1)
		expect(await core.outbox(runId)).toEqual([])
	})

	test('claims nothing for a worker whose lease has passed, that was declared dead or has stopped', async () => {
		for (const end of [
			`lease_until = now() - interval '1 second'`,
			'dead_at = now()',
			'stopped_at = now()',
		]) {
			const node = await begun('chain')
			const late = await core.worker()
			await core.rows(`update flowcraft_workers set ${end} where worker_id = $1::text::uuid`, late)
			const { next } = await offer(node, late)
			expect(next).toBeUndefined()
			expect((await core.nodes(node.key.runId))['b']?.state).toBe('ready')
			expect(await core.outbox(node.key.runId)).toEqual(['b'])
		}
	})

	test('claims nothing in a paused run', async () => {
		const node = await begun('chain')
		await pauseRun(core.sql, node.key.runId)
		const { next } = await offer(node)
		expect(next).toBeUndefined()
		expect((await core.nodes(node.key.runId))['b']?.state).toBe('ready')
	})

	test('claims no join in a paused run either', async () => {
		const runId = await core.start('diamond')
		await core.commit(core.completed(await core.claimed(worker, runId, 'a')))
		const [b, c] = [await core.claimed(worker, runId, 'b'), await core.claimed(worker, runId, 'c')]
		await core.commit(core.completed(b))
		await core.drain()
		await pauseRun(core.sql, runId)
		const { next } = await offer(c)
		expect(next).toBeUndefined()
		expect((await core.nodes(runId))['d']?.state).toBe('ready')
		expect(await core.outbox(runId)).toEqual(['d'])
	})

	test('that lost its own claim claims nothing of what others of its batch complete', async () => {
		const runId = await core.start('diamond')
		await core.commit(core.completed(await core.claimed(worker, runId, 'a')))
		const lost = await core.claimed(worker, runId, 'b')
		await releaseNodes(core.sql, [{ ...lost, delayMs: 0 }])
		const [b, c] = [await core.claimed(worker, runId, 'b'), await core.claimed(worker, runId, 'c')]
		await core.drain()
		const { outcomes, continued } = await commitNodes(
			core.sql,
			[offerClaim(core.completed(lost), () => true), core.completed(b), core.completed(c)],
			worker,
		)
		expect(outcomes).toEqual(['lost', 'committed', 'committed'])
		expect([...continued.keys()]).toEqual([])
		expect((await core.nodes(runId))['d']?.state).toBe('ready')
		expect(await core.outbox(runId)).toEqual(['d'])
	})

	test('that lost its own claim claims nothing', async () => {
		const node = await begun('chain')
		await releaseNodes(core.sql, [{ ...node, delayMs: 0 }])
		const { next, result } = await offer(node)
		expect(result.outcomes).toEqual(['lost'])
		expect(next).toBeUndefined()
		expect(await core.nodes(node.key.runId)).not.toHaveProperty('b')
	})

	test('that is repeated claims nothing anew, and what it had claimed can be given back', async () => {
		const node = await begun('chain')
		const { commit } = await offer(node)
		const repeated = await commitNodes(core.sql, [commit], worker)
		expect(repeated.outcomes).toEqual(['repeated'])
		expect(continuedNode(node, commit, repeated.continued)).toBeUndefined()
		const claim = offeredClaim(commit)
		expect(await releaseNodes(core.sql, claim === undefined ? [] : [claim])).toBe(1)
		expect(await core.outbox(node.key.runId)).toEqual(['b'])
		expect(await releaseNodes(core.sql, claim === undefined ? [] : [claim])).toBe(0)
	})

	test('what it claimed is taken from a worker that dies, and the zombie writes nothing', async () => {
		const mortal = await core.worker()
		const runId = await core.start('chain')
		const { next } = await offer(await core.claimed(mortal, runId, 'a'), mortal)
		await core.rows(
			`update flowcraft_workers set lease_until = '-infinity' where worker_id = $1::text::uuid`,
			mortal,
		)
		await sweepWorkers(core.sql, 100)
		expect((await core.nodes(runId))['b']).toMatchObject({ state: 'ready', crashes: 1 })
		const { result } = await offer(next as ClaimedNode, mortal)
		expect(result.outcomes).toEqual(['lost'])
	})

	test('leaves no message behind that would let a backlog look as if it had been passed by', async () => {
		const queued = await core.start('chain')
		await core.drain()
		const early = await begun('chain')
		await core.rows(
			`update flowcraft_nodes set emitted_at = now() - interval '1 hour' where run_id in ($1, $2)`,
			queued,
			early.key.runId,
		)
		const { next } = await offer(early)
		await offer(next as ClaimedNode)
		await sweepLost(core.sql, 60_000, true, 1000)
		expect(await core.outbox(queued)).toEqual([])
	})
})

describe('a worker', () => {
	let engine: TestEngine
	/** Messages that reached the broker. */
	let published: string[]
	afterEach(() => engine.stop())

	function counting(): Broker {
		const broker = createInProcessBroker({ queues: ['flowcraft-jobs'], logger: noLogger })
		return {
			...broker,
			publish: (messages) => {
				published.push(...messages.map(({ body }) => (JSON.parse(body) as { nodeId: string }).nodeId))
				return broker.publish(messages)
			},
		}
	}

	async function begin(
		blueprints: readonly ReturnType<typeof flow>[],
		work: NodeFunction,
		worker: { concurrency?: number; maxInARow?: number } = {},
	): Promise<void> {
		published = []
		engine = await startEngine({
			broker: counting(),
			workflows: {
				blueprints: Object.fromEntries(blueprints.map((blueprint) => [blueprint.id, blueprint])),
				registry: { work },
			},
			worker,
		})
	}

	test('runs a chain to its end on one message', async () => {
		await begin([CHAIN], async ({ input }) => ({ output: `${String(input)}+` }))
		const run = await engine.run({ blueprint: 'chain' })
		expect(run).toMatchObject({ status: 'completed', context: { c: 'undefined+++' } })
		expect(published).toEqual(['a'])
	})

	test('gives back what a commit has claimed whose answer was lost, and the run goes on', async () => {
		await begin([], async () => ({ output: 1 }))
		await engine.stopWorkers()
		const road = await startProxy(engine.url)
		try {
			await engine.addWorker(
				{
					blueprints: { chain: CHAIN },
					registry: { work: async ({ input }) => ({ output: `${String(input)}+mark` }) },
				},
				{ databaseUrl: road.url },
			)
			let cut = (): void => {}
			const deaf = road.when('to server', 'undefined+mark', (connection) => {
				connection.blackhole('to client')
				cut = () => connection.cut()
			})
			const runId = await engine.start({ blueprint: 'chain' })
			await deaf
			await waitFor('the claim of the successor', async () => {
				const [node] = await engine.rows<{ state: string }>(
					`select state from flowcraft_nodes where run_id = $1 and node_id = 'b'`,
					runId,
				)
				return node?.state === 'running'
			})
			cut()
			expect(await engine.end(runId)).toMatchObject({
				status: 'completed',
				context: { c: 'undefined+mark+mark+mark' },
			})
			expect(
				await engine.rows('select 1 from flowcraft_nodes where run_id = $1 and crashes > 0', runId),
			).toEqual([])
		} finally {
			await engine.stopWorkers()
			await road.close()
		}
	})

	test('goes over the broker with every node when it is told to', async () => {
		await begin([CHAIN], async () => ({ output: 1 }), { maxInARow: 1 })
		await engine.run({ blueprint: 'chain' })
		expect(published).toEqual(['a', 'b', 'c'])
	})

	test('goes on with a join that it completes, and with a fallback', async () => {
		const rescued = flow('rescued', [['broken', 'end']], {
			broken: { params: { fails: true }, config: { fallback: 'saviour' } },
			saviour: {},
		})
		await begin([DIAMOND, rescued], async ({ params }) => {
			if (params?.['fails'] === true) throw new Error('always')
			return { output: 1 }
		})
		expect(await engine.run({ blueprint: 'diamond' })).toMatchObject({ status: 'completed' })
		expect(await engine.run({ blueprint: 'rescued' })).toMatchObject({ status: 'completed' })
		expect(published).toEqual(['a', 'c', 'broken'])
	})

	test('lets others have its slot after a few nodes in a row', async () => {
		const long = flow(
			'long',
			Array.from({ length: 30 }, (_, i) => [`n${i}`, `n${i + 1}`] as const),
		)
		const order: string[] = []
		let goOn = (): void => {}
		const held = new Promise<void>((resolve) => (goOn = resolve))
		await begin(
			[long],
			async ({ dependencies }) => {
				const { executionId } = (dependencies as { runtime: { executionId: string } }).runtime
				order.push(executionId)
				if (order.length === 1) await held
				return { output: 1 }
			},
			{ concurrency: 1, maxInARow: 4 },
		)
		const first = await engine.start({ blueprint: 'long' })
		await waitFor('the first node to run', () => order.length === 1)
		const second = await engine.start({ blueprint: 'long' })
		await waitFor(
			'the second run to be delivered',
			async () => published.length === 2 && (await engine.broker.depth('flowcraft-jobs')) === 0,
		)
		goOn()
		await Promise.all([engine.end(first), engine.end(second)])
		expect(order.indexOf(second)).toBeLessThan(order.lastIndexOf(first))
	})
})

/** A worker that goes on with the successor of the node it has committed, under the guarantees of any other claim. */
import type { NodeFunction } from 'flowcraft'
import { setTimeout as delay } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type ClaimedNode, releaseNodes } from '../../src/claim/claim.js'
import { registerWorker } from '../../src/claim/worker-registry.js'
import { type CommitResult, commitNodes, type NodeCommit } from '../../src/commit/commit.js'
import { sweepLost, sweepWorkers } from '../../src/outbox/sweep.js'
import type { Broker } from '../../src/ports/broker.js'
import { pauseRun } from '../../src/run/pause.js'
import { noLogger } from '../../src/ports/logger.js'
import { createInProcessBroker } from '../../worker/broker/in-process.js'
import { createInProcessDoorbell } from '../../worker/doorbell/in-process.js'
import { continuedNodes, offerClaims, offeredClaims, shareOf } from '../../worker/worker/continuation.js'
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
		const commit = offerClaims(planned, () => true, 1)
		const result = await commitNodes(core.sql, [commit], as)
		const [next] = continuedNodes(node, commit, result.continued)
		return { commit, result, next }
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

	test('claims as many successors as are offered', async () => {
		const node = await begun('diamond')
		const commit = offerClaims(core.completed(node, { output: 'of a' }), () => true, 2)
		const { continued, emitted } = await commitNodes(core.sql, [commit], worker)
		expect(continuedNodes(node, commit, continued).map(({ key, input }) => [key.nodeId, input])).toEqual([
			['b', '"of a"'],
			['c', '"of a"'],
		])
		expect(emitted).toBe(0)
		expect(await core.outbox(node.key.runId)).toEqual([])
		expect(await core.violations()).toEqual([])
	})

	test('offers claims only for what the worker can run, in the order of the edges', async () => {
		const node = await begun('diamond')
		const commit = offerClaims(core.completed(node), ({ nodeId }) => nodeId === 'c', 2)
		expect(offeredClaims(commit).map(({ key }) => key.nodeId)).toEqual(['c'])
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
		const commits = nodes.map((node) => offerClaims(core.completed(node), () => true, 1))
		const { continued } = await commitNodes(core.sql, commits, worker)
		const next = nodes.flatMap((node, i) => continuedNodes(node, commits[i] as NodeCommit, continued))
		expect(next).toHaveLength(1)
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
			[offerClaims(core.completed(lost), () => true, 1), core.completed(b), core.completed(c)],
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
		expect(continuedNodes(node, commit, repeated.continued)).toEqual([])
		expect(await releaseNodes(core.sql, offeredClaims(commit))).toBe(1)
		expect(await core.outbox(node.key.runId)).toEqual(['b'])
		expect(await releaseNodes(core.sql, offeredClaims(commit))).toBe(0)
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

test.each([
	{ successors: 1, workers: 1, share: 1 },
	{ successors: 1_000, workers: 1, share: 1_000 },
	{ successors: 1_000, workers: 2, share: 1 },
])(
	'of $successors successors one worker of $workers goes on with $share',
	({ successors, workers, share }) => {
		expect(shareOf(successors, workers)).toBe(share)
	},
)

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
		expect(published).toEqual(['a', 'broken'])
	})

	const fanOut = (width: number): ReturnType<typeof flow> =>
		flow(
			'fan-out',
			Array.from({ length: width }, (_, i) => ['start', `w${i}`] as const),
		)

	test('goes on with what follows in its free slots, and never with more', async () => {
		let running = 0
		let most = 0
		await begin(
			[fanOut(30)],
			async () => {
				running += 1
				most = Math.max(most, running)
				await delay(5)
				running -= 1
				return { output: 1 }
			},
			{ concurrency: 4 },
		)
		expect(await engine.run({ blueprint: 'fan-out' })).toMatchObject({ status: 'completed' })
		expect(most).toBe(4)
		// The slot of the first node and three that were free.
		expect(published).toHaveLength(1 + 30 - 4)
	})

	test('goes on with one node only while there are other workers', async () => {
		await begin([], async () => ({ output: 1 }))
		await engine.stopWorkers()
		const other = { name: 'other', version: '1', queues: ['flowcraft-jobs'], slots: 8, offers: [] }
		await registerWorker(engine.database.sql, {
			...other,
			workerId: crypto.randomUUID(),
			leaseMs: 60_000,
		})
		await engine.addWorker({
			blueprints: { 'fan-out': fanOut(7) },
			registry: { work: async () => ({ output: 1 }) },
		})
		expect(await engine.run({ blueprint: 'fan-out' })).toMatchObject({ status: 'completed' })
		expect(published).toHaveLength(1 + 6)
	})

	test.each([
		['begins nothing that was claimed by a commit during which its run was cancelled', false],
		['begins nothing that was claimed by a commit during which it was stopped', true],
	])('%s', async (_, stops) => {
		published = []
		engine = await startEngine({ broker: counting(), manualRelay: true })
		const doorbell = createInProcessDoorbell()
		const began: string[] = []
		const worker = await engine.addWorker(
			{
				blueprints: { 'fan-out': fanOut(5) },
				registry: { work: async () => ({ output: began.push('node') }) },
			},
			{ doorbell },
		)
		const runId = await engine.start({ blueprint: 'fan-out' })
		const states = (): Promise<Record<string, unknown>[]> =>
			engine.rows(
				'select state, crashes, count(*)::int as nodes from flowcraft_nodes where run_id = $1 group by 1, 2',
				runId,
			)
		let stopped: Promise<void> | undefined
		await engine.database.sql.begin(async (tx) => {
			await tx`select from flowcraft_statuses where run_id = ${runId} for update`
			await engine.relay.tick()
			await waitFor('the first node', () => began.length === 1)
			await waitFor('its commit', async () => {
				const waiting =
					await engine.rows(`select from pg_locks l join pg_database d on d.oid = l.database
					where d.datname = current_database() and not l.granted
					union all select from pg_locks where not granted and locktype = 'transactionid'`)
				return waiting.length > 0
			})
			if (stops) stopped = worker.stop()
			else doorbell.ring({ type: 'cancelled', runIds: [runId] })
		})
		await waitFor('the successors to be given back', async () => {
			const found = await states()
			return found.some(({ state, nodes }) => state === 'ready' && nodes === 5)
		})
		await stopped
		expect(began).toHaveLength(1)
		expect(await states()).toEqual(
			expect.arrayContaining([
				{ state: 'completed', crashes: 0, nodes: 1 },
				{ state: 'ready', crashes: 0, nodes: 5 },
			]),
		)
	})

	test('begins nothing more of a run that is cancelled while it begins', async () => {
		await begin([], async () => ({ output: 1 }))
		await engine.stopWorkers()
		const doorbell = createInProcessDoorbell()
		const began: string[] = []
		const worker = await engine.addWorker(
			{
				blueprints: { 'fan-out': fanOut(120) },
				registry: {
					work: async ({ dependencies }) => {
						const { executionId } = (dependencies as { runtime: { executionId: string } }).runtime
						began.push(executionId)
						if (began.length === 2) doorbell.ring({ type: 'cancelled', runIds: [executionId] })
						return { output: 1 }
					},
				},
			},
			{ concurrency: 200, doorbell },
		)
		await engine.start({ blueprint: 'fan-out' })
		await waitFor('the fan-out to be in hand', () => began.length > 1)
		await waitFor('the worker to have nothing in hand', () => worker.running() === 0)
		// The first node, the one that goes on in its slot, and those that begin in the same turn of the event loop.
		expect(began.length).toBeLessThanOrEqual(1 + 1 + 50)
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

	test('lets others have its slot even when their deliveries have gone back meanwhile', async () => {
		const long = flow(
			'long',
			Array.from({ length: 20 }, (_, i) => [`n${i}`, `n${i + 1}`] as const),
		)
		const order: string[] = []
		await begin(
			[long],
			async ({ dependencies }) => {
				const { executionId } = (dependencies as { runtime: { executionId: string } }).runtime
				order.push(executionId)
				// Six of them are longer than deliveries wait for a slot.
				await delay(60)
				return { output: 1 }
			},
			{ concurrency: 1, maxInARow: 6 },
		)
		const first = await engine.start({ blueprint: 'long' })
		await waitFor('the first node to run', () => order.length === 1)
		const second = await engine.start({ blueprint: 'long' })
		await waitFor('the second run to begin', () => order.includes(second))
		expect(order.length).toBeLessThan(15)
		await Promise.all([engine.end(first), engine.end(second)])
	})
})

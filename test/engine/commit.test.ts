import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { ClaimedNode } from '../../src/claim/claim.js'
import { commitNodes, type NodeCommit } from '../../src/commit/commit.js'
import { classifyDatabaseError } from '../../src/db/errors.js'
import { refreshChild } from '../../src/outbox/outbox.js'
import { claimNodes } from '../../src/claim/claim.js'
import { sweepWorkers } from '../../src/outbox/sweep.js'
import type { NodeKey } from '../../src/plan/node-key.js'
import { noDoorbell } from '../../src/ports/doorbell.js'
import { noLogger } from '../../src/ports/logger.js'
import { cancelRun } from '../../src/run/cancel.js'
import { resumeRun } from '../../src/run/resume.js'
import { createCommitter } from '../../worker/worker/commits.js'
import { type Core, createCore, flow, keyOf } from '../support/core.js'
import { whenBlocked } from '../support/locks.js'

let core: Core
let worker: string

beforeAll(async () => {
	core = await createCore()
	worker = await core.worker()
	await core.register(flow('one', [], { a: {} }))
	await core.register(flow('two', [], { a: {}, b: {} }))
	await core.register(
		flow('chain', [
			['a', 'b'],
			['b', 'c'],
		]),
	)
	await core.register(
		flow('diamond', [
			['a', 'b'],
			['a', 'c'],
			['b', 'd'],
			['c', 'd'],
		]),
	)
	await core.register(flow('rescued', [['a', 'b']], { a: { config: { fallback: 'f' } }, f: {} }))
	await core.register(
		flow('nested', [['sub', 'after']], { sub: { uses: 'subflow', params: { blueprintId: 'chain' } } }),
	)
})
afterAll(() => core.drop())

/** Everything that is stored of a run, to see that nothing has changed. */
async function everything(runId: string): Promise<unknown> {
	const tables = ['statuses', 'nodes', 'contexts', 'arrivals', 'attempts', 'outbox', 'transitions']
	const children = await core.rows(
		`select run_id from flowcraft_statuses where parent_run_id = $1 order by 1`,
		runId,
	)
	const contents = await Promise.all(
		tables.map((table) =>
			core.rows<{ row: unknown }>(
				`select to_jsonb(t) as row from flowcraft_${table} t where run_id = $1 order by t::text`,
				runId,
			),
		),
	)
	return {
		children,
		...Object.fromEntries(
			tables.map((table, position) => [table, contents[position]?.map(({ row }) => row)]),
		),
	}
}

/** A commit that writes wherever a commit can write. */
function overwhelming(node: ClaimedNode): NodeCommit {
	return {
		...core.completed(node, { output: 1, writes: { x: 1 } }),
		next: [{ nodeId: 'c', generation: '', recovers: '', edge: 0, input: { type: 'output' } }],
		arrivals: [
			{
				nodeId: 'j',
				generation: '',
				source: 'a',
				taken: true,
				expected: 1,
				edge: 0,
				input: { type: 'none' },
			},
		],
		recovered: [{ nodeId: 'b', generation: '', recovers: '' }],
	}
}

const retry = ({ key, token }: ClaimedNode, delayMs = 0): NodeCommit => ({
	key,
	token,
	outcome: 'retry',
	error: '{"message":"Not yet"}',
	delayMs,
})
const wait = ({ key, token }: ClaimedNode, delayMs?: number): NodeCommit => ({
	key,
	token,
	outcome: 'waiting',
	wait: '{"reason":"external_event"}',
	delayMs,
})
const child = (
	{ key, token }: ClaimedNode,
	childBlueprint: string,
	more: Partial<NodeCommit> = {},
): NodeCommit => ({
	key,
	token,
	outcome: 'child',
	childRunId: crypto.randomUUID(),
	childBlueprint,
	...more,
})

/** Claims and completes nodes, one after the other. */
async function complete(runId: string, ...nodeIds: string[]): Promise<void> {
	for (const nodeId of nodeIds)
		await core.commit(core.completed(await core.claimed(worker, runId, nodeId), { output: nodeId }))
}

/** What a relay would publish for this run now. Other tests' timers may be due too. */
const jobsOf = async (runId: string): Promise<NodeKey[]> =>
	(await core.drain()).filter((key) => key.runId === runId)

async function bury(workerId: string): Promise<void> {
	await core.rows(
		`update flowcraft_workers set lease_until = '-infinity' where worker_id = $1::text::uuid`,
		workerId,
	)
	await sweepWorkers(core.sql, 1000)
}

describe('the fence', () => {
	test("a zombie's commit writes nothing once its node was taken from it", async () => {
		const [zombie, runId] = [await core.worker(), await core.start('chain')]
		const node = await core.claimed(zombie, runId, 'a')
		await bury(zombie)
		const before = await everything(runId)
		expect(await core.commit(overwhelming(node))).toEqual(['lost'])
		expect(await everything(runId)).toEqual(before)
	})

	test("a zombie's commit writes nothing while another worker runs the node", async () => {
		const [zombie, runId] = [await core.worker(), await core.start('chain')]
		const node = await core.claimed(zombie, runId, 'a')
		await bury(zombie)
		const heir = await core.claimed(worker, runId, 'a')
		const before = await everything(runId)
		expect(await core.commit(overwhelming(node))).toEqual(['lost'])
		expect(await everything(runId)).toEqual(before)
		expect(await core.commit(core.completed(heir, { output: 'heir' }))).toEqual(['committed'])
		expect(await core.commit(overwhelming(node))).toEqual(['lost'])
		expect((await core.nodes(runId))['a']).toMatchObject({ output: '"heir"', crashes: 1, attempt: 1 })
	})

	test.each(['completed', 'failed', 'retry', 'waiting', 'child'] as const)(
		'a commit that is repeated because its answer was lost is known as such and changes nothing: %s',
		async (outcome) => {
			const runId = await core.start('two')
			const node = await core.claimed(worker, runId, 'a')
			const commit = {
				completed: () => overwhelming(node),
				failed: () => core.failed(node),
				retry: () => retry(node, 1000),
				waiting: () => wait(node, 1000),
				child: () => child(node, 'one'),
			}[outcome]()
			expect(await core.commit(commit)).toEqual(['committed'])
			const before = await everything(runId)
			expect(await core.commit(commit)).toEqual(['repeated'])
			expect(await everything(runId)).toEqual(before)
		},
	)

	test('a commit that ended its run is still known when it is repeated', async () => {
		const runId = await core.start('one')
		const commit = core.completed(await core.claimed(worker, runId, 'a'))
		expect(await commitNodes(core.sql, [commit])).toMatchObject({
			outcomes: ['committed'],
			ended: [runId],
		})
		expect(await commitNodes(core.sql, [commit])).toMatchObject({ outcomes: ['repeated'], ended: [] })
	})

	test.each(['completed', 'failed', 'retry', 'waiting', 'child'] as const)(
		'a commit against a cancelled run writes nothing: %s',
		async (outcome) => {
			const runId = await core.start('two')
			const node = await core.claimed(worker, runId, 'a')
			await cancelRun(core.sql, runId)
			const before = await everything(runId)
			const commit = {
				completed: () => overwhelming(node),
				failed: () => core.failed(node),
				retry: () => retry(node, 1000),
				waiting: () => wait(node, 1000),
				child: () => child(node, 'one'),
			}[outcome]()
			expect(await commitNodes(core.sql, [commit])).toMatchObject({
				outcomes: ['lost'],
				ended: [],
				emitted: 0,
			})
			expect(await everything(runId)).toEqual(before)
		},
	)

	test('of two commits of one run the later waits, and counts what the earlier has left', async () => {
		const runId = await core.start('two')
		const [a, b] = [await core.claimed(worker, runId, 'a'), await core.claimed(worker, runId, 'b')]
		const { later } = await core.sql.begin(async (tx) => {
			await commitNodes(tx, [core.completed(a)])
			const [{ pid }] = await tx<[{ pid: number }]>`select pg_backend_pid() as pid`
			const later = core.commit(core.completed(b))
			await whenBlocked(core.sql, pid)
			return { later }
		})
		expect(await later).toEqual(['committed'])
		expect(await core.run(runId)).toMatchObject({ status: 'completed', live: 0, seq: 2 })
	})

	test('a commit that waited for a cancel writes nothing either', async () => {
		const runId = await core.start('chain')
		const node = await core.claimed(worker, runId, 'a')
		const { commit } = await core.sql.begin(async (tx) => {
			await cancelRun(tx, runId)
			const [{ pid }] = await tx<[{ pid: number }]>`select pg_backend_pid() as pid`
			const commit = core.commit(overwhelming(node))
			await whenBlocked(core.sql, pid)
			return { commit }
		})
		expect(await commit).toEqual(['lost'])
		expect(Object.keys(await core.nodes(runId))).toEqual(['a'])
		expect(await core.violations()).toEqual([])
	})

	test('a cancel that waited for a commit leaves none of its successors ready', async () => {
		const runId = await core.start('diamond')
		const node = await core.claimed(worker, runId, 'a')
		const { cancel } = await core.sql.begin(async (tx) => {
			// A commit begins like this …
			await tx`select from flowcraft_statuses where run_id = ${runId} for no key update`
			const [{ pid }] = await tx<[{ pid: number }]>`select pg_backend_pid() as pid`
			const cancel = cancelRun(core.sql, runId)
			await whenBlocked(core.sql, pid)
			// … and goes on like this.
			await commitNodes(tx, [core.completed(node)])
			return { cancel }
		})
		expect(await cancel).toMatchObject({ status: 'cancelled' })
		const nodes = await core.nodes(runId)
		expect([nodes['a'], nodes['b'], nodes['c']].map((row) => row?.state)).toEqual([
			'completed',
			'cancelled',
			'cancelled',
		])
		expect(await core.outbox(runId)).toEqual([])
		expect(await core.violations()).toEqual([])
	})

	test('a commit that waited for a sweep which took its node away writes nothing', async () => {
		const [zombie, runId] = [await core.worker(), await core.start('chain')]
		const node = await core.claimed(zombie, runId, 'a')
		await core.rows(
			`update flowcraft_workers set lease_until = '-infinity' where worker_id = $1::text::uuid`,
			zombie,
		)
		const { commit } = await core.sql.begin(async (tx) => {
			await sweepWorkers(tx, 1000)
			const [{ pid }] = await tx<[{ pid: number }]>`select pg_backend_pid() as pid`
			const commit = core.commit(overwhelming(node))
			await whenBlocked(core.sql, pid)
			return { commit }
		})
		expect(await commit).toEqual(['lost'])
		expect(await core.nodes(runId)).toMatchObject({ a: { state: 'ready', crashes: 1, output: null } })
		expect(Object.keys(await core.nodes(runId))).toEqual(['a'])
	})

	test('a commit that waited for a sweep, after which another worker took the node, writes nothing', async () => {
		const [zombie, runId] = [await core.worker(), await core.start('chain')]
		const node = await core.claimed(zombie, runId, 'a')
		await core.rows(
			`update flowcraft_workers set lease_until = '-infinity' where worker_id = $1::text::uuid`,
			zombie,
		)
		const { commit, claim } = await core.sql.begin(async (tx) => {
			await sweepWorkers(tx, 1000)
			const [claim] = await claimNodes(tx, worker, [node.key])
			const [{ pid }] = await tx<[{ pid: number }]>`select pg_backend_pid() as pid`
			const commit = core.commit(overwhelming(node))
			await whenBlocked(core.sql, pid)
			return { commit, claim }
		})
		expect(await commit).toEqual(['lost'])
		expect(await core.nodes(runId)).toMatchObject({ a: { state: 'running', crashes: 1, output: null } })
		expect(Object.keys(await core.nodes(runId))).toEqual(['a'])
		if (claim?.status !== 'claimed') throw new Error(`It was not claimed: ${claim?.status}`)
		expect(await core.commit(core.completed(claim.node))).toEqual(['committed'])
	})

	test('a commit writes nothing to a run that has ended, even if its node still looks as if it ran', async () => {
		const runId = await core.start('two')
		const node = await core.claimed(worker, runId, 'a')
		await core.rows(
			`update flowcraft_statuses set status = 'completed', live_count = 0, finished_at = now() where run_id = $1`,
			runId,
		)
		const before = await everything(runId)
		expect(await core.commit(overwhelming(node))).toEqual(['lost'])
		expect(await everything(runId)).toEqual(before)
		await core.rows('delete from flowcraft_statuses where run_id = $1', runId)
	})

	test('a commit for an unknown run or node is lost', async () => {
		const node = { key: keyOf('no-such-run', 'a'), token: crypto.randomUUID() }
		expect(await core.commit({ ...node, outcome: 'completed', output: null })).toEqual(['lost'])
		expect(
			await core.commit({
				...node,
				key: keyOf(await core.start('one'), 'nowhere'),
				outcome: 'completed',
			}),
		).toEqual(['lost'])
	})
})

describe('one write, one commit', () => {
	// Longer than an index entry may be, also when compressed.
	const huge = Array.from({ length: 300 }, () => crypto.randomUUID()).join()
	const parts: Record<string, (commit: NodeCommit) => NodeCommit> = {
		'a context key': (commit) => ({ ...commit, writes: [...(commit.writes ?? []), [huge, '1']] }),
		'a value with a NUL': (commit) => ({
			...commit,
			writes: [...(commit.writes ?? []), ['y', '"\u0000"']],
		}),
		'a successor': (commit) => ({
			...commit,
			next: [
				...(commit.next ?? []),
				{ nodeId: 'a\u0000', generation: '', recovers: '', edge: 0, input: { type: 'none' } },
			],
		}),
		'the delay of a retry': ({ key, token }) => ({
			key,
			token,
			outcome: 'retry',
			error: '{}',
			delayMs: 1e300,
		}),
		'the end of a wait': ({ key, token }) => ({
			key,
			token,
			outcome: 'waiting',
			wait: '{}',
			delayMs: 1e17,
		}),
	}
	test.each(Object.keys(parts))(
		'when Postgres refuses %s, nothing of the commit is there, and the error says that it never will be',
		async (part) => {
			const runId = await core.start('diamond')
			await complete(runId, 'a', 'b')
			const node = await core.claimed(worker, runId, 'c')
			const before = await everything(runId)
			const error: unknown = await core
				.commit(
					(parts[part] as (commit: NodeCommit) => NodeCommit)(
						core.completed(node, { output: 1, writes: { x: 1 } }),
					),
				)
				.then(
					() => undefined,
					(thrown: unknown) => thrown,
				)
			expect(classifyDatabaseError(error)).toBe('refused')
			expect(await everything(runId)).toEqual(before)
			expect(await core.commit(core.completed(node))).toEqual(['committed'])
		},
	)

	test('output, action, context, successor, its message and the counters become true at once', async () => {
		const runId = await core.start('chain', { input: { x: 0 } })
		await core.drain()
		const node = await core.claimed(worker, runId, 'a')
		const commit = core.completed(node, { output: { n: 1 }, action: 'go', writes: { x: 1, y: 'two' } })
		expect(await commitNodes(core.sql, [commit])).toMatchObject({
			outcomes: ['committed'],
			ended: [],
			emitted: 1,
		})
		expect((await core.nodes(runId))['a']).toMatchObject({ state: 'completed', output: '{"n":1}' })
		expect((await core.nodes(runId))['b']).toMatchObject({ state: 'ready', attempt: 1 })
		expect(
			await core.rows(
				`select key, value, seq::int from flowcraft_contexts where run_id = $1 order by key`,
				runId,
			),
		).toEqual([
			{ key: 'x', value: '1', seq: 1 },
			{ key: 'y', value: '"two"', seq: 1 },
		])
		expect(await core.outbox(runId)).toEqual(['b'])
		expect(await core.run(runId)).toMatchObject({ status: 'running', live: 1, seq: 1 })
	})

	test('values come back byte by byte as the serializer wrote them', async () => {
		const runId = await core.start('one')
		const node = await core.claimed(worker, runId, 'a')
		const text = '{"b":1,"a":[1.0,1e400,"\\u0000 \\ud83d ${1} \\\\ \' \\" {,} NULL"], "b":2}'
		const key = `{a,"b"} \\ ' NULL \u{1F600}\n`
		await core.commit({
			...core.completed(node),
			output: text,
			writes: [
				[key, text],
				['NULL', 'null'],
				['', '""'],
			],
		})
		expect((await core.nodes(runId))['a']?.output).toBe(text)
		expect(
			await core.rows(
				`select key, value from flowcraft_contexts where run_id = $1 order by key desc`,
				runId,
			),
		).toEqual([
			{ key, value: text },
			{ key: 'NULL', value: 'null' },
			{ key: '', value: '""' },
		])
	})
})

describe('batches', () => {
	test('nodes of many runs are committed together, and those whose claim is lost contribute nothing', async () => {
		const zombie = await core.worker()
		const runIds = await Promise.all(Array.from({ length: 12 }, () => core.start('diamond')))
		const claims = await Promise.all(
			runIds.map((runId, position) => core.claimed(position % 3 === 0 ? zombie : worker, runId, 'a')),
		)
		await bury(zombie)
		const cancelled = runIds.filter((_, position) => position % 3 === 1)
		await Promise.all(cancelled.slice(0, 2).map((runId) => cancelRun(core.sql, runId)))

		const outcomes = await core.commit(
			...claims.map((node) => core.completed(node, { output: 1, writes: { x: 1 } })),
		)
		const expected = runIds.map((runId, position) =>
			position % 3 === 0 || cancelled.slice(0, 2).includes(runId) ? 'lost' : 'committed',
		)
		expect(outcomes).toEqual(expected)
		for (const [position, runId] of runIds.entries()) {
			const applied = expected[position] === 'committed'
			const { a, b, c } = await core.nodes(runId)
			expect([a?.state === 'completed', b?.state === 'ready', c?.state === 'ready']).toEqual([
				applied,
				applied,
				applied,
			])
			const written = await core.rows(`select 1 from flowcraft_contexts where run_id = $1`, runId)
			expect(written).toHaveLength(applied ? 1 : 0)
		}
		expect(await core.violations()).toEqual([])
	})

	test('a lost commit publishes no event, whatever else is in its batch', async () => {
		const [runId, other] = [await core.start('one'), await core.start('one')]
		const publishing = async (id: string): Promise<NodeCommit> => ({
			...core.completed(await core.claimed(worker, id, 'a')),
			events: [
				{
					messageId: crypto.randomUUID(),
					exchange: 'shop',
					routingKey: 'paid',
					body: '1',
					headers: {},
				},
			],
		})
		const zombie = { ...(await publishing(runId)), token: crypto.randomUUID() }
		expect(await core.commit(zombie, await publishing(other))).toEqual(['lost', 'committed'])
		const events = await core.rows(
			`delete from flowcraft_outbox where kind = 'event' and run_id in ($1, $2) returning run_id`,
			runId,
			other,
		)
		expect(events).toEqual([{ run_id: other }])
	})

	test('nodes of one run are counted together: the last ones end it', async () => {
		await core.register(
			flow('wide', [], Object.fromEntries(Array.from({ length: 20 }, (_, n) => [`n${n}`, {}]))),
		)
		const runId = await core.start('wide')
		const claims = await Promise.all(
			Array.from({ length: 20 }, (_, n) => core.claimed(worker, runId, `n${n}`)),
		)
		await core.commit(...claims.slice(0, 15).map((node) => core.completed(node)))
		expect(await core.run(runId)).toMatchObject({ status: 'running', live: 5 })
		const result = await commitNodes(
			core.sql,
			claims.slice(10).map((node) => core.completed(node)),
		)
		expect(result.outcomes).toEqual([
			...Array<string>(5).fill('repeated'),
			...Array<string>(5).fill('committed'),
		])
		expect(result.ended).toEqual([runId])
		expect(await core.run(runId)).toMatchObject({ status: 'completed', live: 0 })
	})

	test('are split when Postgres refuses one of them: only its node is told so', async () => {
		const committer = createCommitter(core.sql, noDoorbell, noLogger, { workerId: worker })
		const runIds = await Promise.all(Array.from({ length: 3 }, () => core.start('one')))
		const nodes = await Promise.all(runIds.map((runId) => core.claimed(worker, runId, 'a')))
		const { signal } = new AbortController()
		const answers = await Promise.allSettled(
			nodes.map((node, position) =>
				committer.commit(
					{ ...core.completed(node), ...(position === 1 ? { output: '"\u0000"' } : {}) },
					signal,
				),
			),
		)
		expect(answers.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
		const statuses = await Promise.all(runIds.map(async (runId) => (await core.run(runId)).status))
		expect(statuses).toEqual(['completed', 'running', 'completed'])
	})

	test('of several nodes of a batch that wrote one key, the last one counts; each run has its own', async () => {
		const [first, second] = [await core.start('two'), await core.start('two')]
		const claims = [
			await core.claimed(worker, first, 'b'),
			await core.claimed(worker, second, 'a'),
			await core.claimed(worker, first, 'a'),
		]
		await core.commit(
			...claims.map((node, position) => core.completed(node, { writes: { k: position } })),
		)
		const values = await core.rows(
			`select run_id, value from flowcraft_contexts where key = 'k' and run_id in ($1, $2)`,
			first,
			second,
		)
		expect(Object.fromEntries(values.map(({ run_id, value }) => [run_id, value]))).toEqual({
			[first]: '2',
			[second]: '1',
		})
	})

	test('a key that one node of a batch sets and a later one deletes is deleted', async () => {
		const runId = await core.start('two', { input: { k: 0 } })
		const [a, b] = [await core.claimed(worker, runId, 'a'), await core.claimed(worker, runId, 'b')]
		await core.commit(
			core.completed(a, { writes: { k: 1 } }),
			core.completed(b, { writes: { k: undefined } }),
		)
		expect(await core.rows(`select * from flowcraft_context_get($1, '{k}')`, runId)).toEqual([])
	})

	test('of two nodes that add one under the same id, the later is refused, in one batch as in two', async () => {
		const adding = (node: ClaimedNode): NodeCommit => ({
			...core.completed(node),
			next: [
				{
					nodeId: 'added',
					generation: '',
					recovers: '',
					edge: -1,
					input: { type: 'none' },
					dynamic: { place: node.key.nodeId },
				},
			],
		})
		for (const together of [true, false]) {
			const runId = await core.start('two')
			const first = adding(await core.claimed(worker, runId, 'a'))
			const second = adding(await core.claimed(worker, runId, 'b'))
			const outcomes = together
				? await core.commit(first, second)
				: [...(await core.commit(first)), ...(await core.commit(second))]
			expect(outcomes).toEqual(['committed', 'refused'])
			expect(await core.run(runId)).toMatchObject({ live: 2 })
		}
	})

	test('a batch of parents and their children never deadlocks with the cancel of a parent', async () => {
		const runId = await core.start('nested', { runId: `z-${crypto.randomUUID()}` })
		const sub = await core.claimed(worker, runId, 'sub')
		const childRunId = `a-${crypto.randomUUID()}`
		await core.register(
			flow('nested-two', [], { sub: { uses: 'subflow', params: { blueprintId: 'chain' } }, other: {} }),
		)
		await core.commit(child(sub, 'chain', { childRunId }))
		const inner = await core.claimed(worker, childRunId, 'a')
		const { commit } = await core.sql.begin(async (tx) => {
			// A cancel locks the parent first …
			await tx`select from flowcraft_statuses where run_id = ${runId} for no key update`
			const [{ pid }] = await tx<[{ pid: number }]>`select pg_backend_pid() as pid`
			// … while nodes of both runs are committed, whose ids sort the other way round …
			const commit = core.commit(core.completed(inner), { ...core.completed(inner), key: sub.key })
			await whenBlocked(core.sql, pid)
			// … and then the child.
			await tx`select from flowcraft_statuses where run_id = ${childRunId} for no key update nowait`
			return { commit }
		})
		expect(await commit).toEqual(['committed', 'lost'])
	})
})

describe('the end of a run', () => {
	test('is decided in the commit of its last live node: completed', async () => {
		const runId = await core.start('chain')
		await complete(runId, 'a', 'b')
		expect(await core.run(runId)).toMatchObject({ status: 'running', live: 1 })
		const result = await commitNodes(core.sql, [core.completed(await core.claimed(worker, runId, 'c'))])
		expect(result.ended).toEqual([runId])
		expect(await core.run(runId)).toMatchObject({ status: 'completed', live: 0, reason: null })
	})

	test('is failed, with the reason of the first failure, once nothing more can run', async () => {
		const runId = await core.start('two')
		const [a, b] = [await core.claimed(worker, runId, 'a'), await core.claimed(worker, runId, 'b')]
		await core.commit(core.failed(a, 'First'))
		expect(await core.run(runId)).toMatchObject({ status: 'running', live: 1, failed: 1 })
		await core.commit(core.failed(b, 'Second'))
		expect(await core.run(runId)).toMatchObject({
			status: 'failed',
			live: 0,
			failed: 2,
			reason: "Node 'a' failed: First",
		})
	})

	test('other branches go on after a failure, and the run fails all the same', async () => {
		const runId = await core.start('diamond')
		await complete(runId, 'a')
		await core.commit(core.failed(await core.claimed(worker, runId, 'b')))
		await complete(runId, 'c')
		const nodes = await core.nodes(runId)
		expect(nodes['d']?.state).toBe('pending')
		expect(await core.run(runId)).toMatchObject({ status: 'failed', live: 0, failed: 1 })
		expect(await core.violations()).toEqual([])
	})

	test('comes to a paused run too, when what was running ends', async () => {
		const runId = await core.start('one')
		const a = await core.claimed(worker, runId, 'a')
		await core.rows(`update flowcraft_statuses set status = 'paused' where run_id = $1`, runId)
		await core.commit(core.completed(a))
		expect((await core.run(runId)).status).toBe('completed')
	})

	test('a paused run stays paused while something of it is live', async () => {
		const runId = await core.start('chain')
		const a = await core.claimed(worker, runId, 'a')
		await core.rows(`update flowcraft_statuses set status = 'paused' where run_id = $1`, runId)
		await core.commit(core.completed(a))
		expect(await core.run(runId)).toMatchObject({ status: 'paused', live: 1 })
	})

	test('is final: its counters change no more', async () => {
		const runId = await core.start('one')
		await complete(runId, 'a')
		const before = await everything(runId)
		await core.rows(
			`select flowcraft_settle_runs(array[$1], array[1], array[0], array[1], array['late'])`,
			runId,
		)
		expect(await everything(runId)).toEqual(before)
	})

	test('the history names each status once, in order', async () => {
		const runId = await core.start('two')
		const [a, b] = [await core.claimed(worker, runId, 'a'), await core.claimed(worker, runId, 'b')]
		await core.commit(wait(a))
		await core.commit(wait(b))
		await resumeRun(core.sql, runId, { nodeId: 'a' })
		await core.commit(core.failed(await core.claimed(worker, runId, 'a'), 'No'))
		await resumeRun(core.sql, runId, { nodeId: 'b' })
		await complete(runId, 'b')
		expect(
			await core.rows(
				`select status, reason from flowcraft_transitions where run_id = $1 order by id`,
				runId,
			),
		).toEqual([
			{ status: 'running', reason: null },
			{ status: 'awaiting', reason: null },
			{ status: 'running', reason: null },
			{ status: 'awaiting', reason: "Node 'a' failed: No" },
			{ status: 'running', reason: "Node 'a' failed: No" },
			{ status: 'failed', reason: "Node 'a' failed: No" },
		])
	})
})

describe('attempts', () => {
	test('a retry comes back through the outbox when it is due, and the attempt that failed stays in the history', async () => {
		const runId = await core.start('one')
		await core.drain()
		const first = await core.claimed(worker, runId, 'a')
		expect(await commitNodes(core.sql, [retry(first, 5_000)])).toMatchObject({
			outcomes: ['committed'],
			ended: [],
			emitted: 1,
		})
		expect(await core.run(runId)).toMatchObject({ status: 'running', live: 1, failed: 0 })
		const [row] = await core.rows<{ due: number }>(
			`select extract(epoch from o.due_at - n.due_at)::float8 as skew, extract(epoch from o.due_at - clock_timestamp())::float8 as due
			from flowcraft_outbox o join flowcraft_nodes n using (run_id, node_id) where run_id = $1`,
			runId,
		)
		expect(row).toMatchObject({ skew: 0 })
		expect(row?.due).toBeGreaterThan(3)
		expect(row?.due).toBeLessThanOrEqual(5)
		expect(await jobsOf(runId)).toEqual([])
		await core.rows(`update flowcraft_nodes set due_at = clock_timestamp() where run_id = $1`, runId)
		await core.rows(`update flowcraft_outbox set due_at = clock_timestamp() where run_id = $1`, runId)
		expect(await jobsOf(runId)).toEqual([first.key])

		const second = await core.claimed(worker, runId, 'a')
		expect(second.attempt).toBe(2)
		await core.commit(retry(second))
		await complete(runId, 'a')
		expect(
			await core.rows(
				`select attempt, outcome, worker_id, error, claimed_at is not null as claimed from flowcraft_attempts where run_id = $1 order by attempt`,
				runId,
			),
		).toEqual(
			[1, 2].map((attempt) => ({
				attempt,
				outcome: 'failed',
				worker_id: worker,
				error: '{"message":"Not yet"}',
				claimed: true,
			})),
		)
		expect((await core.nodes(runId))['a']).toMatchObject({ state: 'completed', attempt: 3, error: null })
	})

	test('a retry after a wake-up begins from the beginning', async () => {
		const runId = await core.start('one')
		await core.commit(wait(await core.claimed(worker, runId, 'a')))
		await resumeRun(core.sql, runId, { output: 1 })
		await core.commit(retry(await core.claimed(worker, runId, 'a')))
		expect(await core.claimed(worker, runId, 'a')).toMatchObject({
			wake: null,
			resume: null,
			wait: null,
			attempt: 2,
		})
	})
})

describe('fallbacks', () => {
	test('one that completes stands in for the failed node, whose output is null; the run is completed', async () => {
		const runId = await core.start('rescued')
		await core.commit(core.failed(await core.claimed(worker, runId, 'a'), 'Broken'))
		expect(await core.run(runId)).toMatchObject({ status: 'running', live: 1, failed: 1 })
		const fallback = await core.claimed(worker, runId, 'f', { recovers: '["a"]' })
		expect(fallback.hasInput).toBe(false)
		await core.commit(core.completed(fallback, { output: 'saved' }))
		expect((await core.nodes(runId))['a']).toMatchObject({ state: 'recovered', output: 'null' })
		expect(await core.claimed(worker, runId, 'b')).toMatchObject({ input: '"saved"' })
		expect(await core.run(runId)).toMatchObject({ live: 1, failed: 0, reason: null })
	})

	test('one that fails leaves both errors', async () => {
		const runId = await core.start('rescued')
		await core.commit(core.failed(await core.claimed(worker, runId, 'a'), 'Broken'))
		await core.commit(
			core.failed(await core.claimed(worker, runId, 'f', { recovers: '["a"]' }), 'Broken too'),
		)
		expect(await core.run(runId)).toMatchObject({ status: 'failed', failed: 2 })
	})

	test('a fatal error has no fallback', async () => {
		const runId = await core.start('rescued')
		await core.commit(core.failed(await core.claimed(worker, runId, 'a'), 'Broken', true))
		expect(await core.run(runId)).toMatchObject({ status: 'failed', live: 0, failed: 1 })
	})

	test('a chain of them recovers all that failed before', async () => {
		await core.register(
			flow('twice-rescued', [['a', 'b']], {
				a: { config: { fallback: 'f' } },
				f: { config: { fallback: 'g' } },
				g: {},
			}),
		)
		const runId = await core.start('twice-rescued')
		await core.commit(core.failed(await core.claimed(worker, runId, 'a')))
		await core.commit(core.failed(await core.claimed(worker, runId, 'f', { recovers: '["a"]' })))
		expect(await core.run(runId)).toMatchObject({ live: 1, failed: 2 })
		await core.commit(
			core.completed(await core.claimed(worker, runId, 'g', { recovers: '["f","a"]' }), {
				output: 'g',
			}),
		)
		const { a, f, b } = await core.nodes(runId)
		expect([a?.state, f?.state, b?.state]).toEqual(['recovered', 'recovered', 'ready'])
		await complete(runId, 'b')
		expect(await core.run(runId)).toMatchObject({ status: 'completed', failed: 0 })
	})

	test('one that several nodes share runs once for each', async () => {
		await core.register(
			flow('shared', [], { a: { config: { fallback: 'f' } }, b: { config: { fallback: 'f' } }, f: {} }),
		)
		const runId = await core.start('shared')
		await core.commit(
			core.failed(await core.claimed(worker, runId, 'a')),
			core.failed(await core.claimed(worker, runId, 'b')),
		)
		const [forA, forB] = [
			await core.claimed(worker, runId, 'f', { recovers: '["a"]' }),
			await core.claimed(worker, runId, 'f', { recovers: '["b"]' }),
		]
		await core.commit(core.completed(forA))
		expect(await core.run(runId)).toMatchObject({ status: 'running', failed: 1 })
		await core.commit(core.completed(forB))
		expect(await core.run(runId)).toMatchObject({ status: 'completed', failed: 0 })
	})

	test('a lost commit of a fallback recovers nothing', async () => {
		const runId = await core.start('rescued')
		await core.commit(core.failed(await core.claimed(worker, runId, 'a')))
		const fallback = await core.claimed(worker, runId, 'f', { recovers: '["a"]' })
		const zombie = { ...core.completed(fallback), token: crypto.randomUUID() }
		const bystander = core.completed(await core.claimed(worker, await core.start('one'), 'a'))
		expect(await core.commit(zombie, bystander)).toEqual(['lost', 'committed'])
		expect((await core.nodes(runId))['a']?.state).toBe('failed')
	})
})

describe('waiting', () => {
	test('a run awaits while all its live nodes wait, and runs while one of them does not', async () => {
		const runId = await core.start('two')
		const [a, b] = [await core.claimed(worker, runId, 'a'), await core.claimed(worker, runId, 'b')]
		await core.commit(wait(a))
		expect(await core.run(runId)).toMatchObject({ status: 'running', live: 2, waiting: 1 })
		await core.commit(wait(b, 60_000))
		expect(await core.run(runId)).toMatchObject({ status: 'awaiting', live: 2, waiting: 2 })
		await resumeRun(core.sql, runId, { nodeId: 'b' })
		expect(await core.run(runId)).toMatchObject({ status: 'running', live: 2, waiting: 1 })
		await complete(runId, 'b')
		expect(await core.run(runId)).toMatchObject({ status: 'awaiting', live: 1, waiting: 1 })
	})

	test('a run does not await while a node is about to be retried', async () => {
		const runId = await core.start('two')
		const [a, b] = [await core.claimed(worker, runId, 'a'), await core.claimed(worker, runId, 'b')]
		await core.commit(retry(a, 60_000), wait(b))
		expect(await core.run(runId)).toMatchObject({ status: 'running', live: 2, waiting: 1 })
	})

	test('a wait with an end has a row in the outbox for it, one without has none', async () => {
		const runId = await core.start('two')
		await core.drain()
		await core.commit(
			wait(await core.claimed(worker, runId, 'a')),
			wait(await core.claimed(worker, runId, 'b'), 60_000),
		)
		expect(await core.outbox(runId)).toEqual(['b'])
	})

	test('a resume removes the timer of its node in the same write', async () => {
		const runId = await core.start('one')
		await core.drain()
		await core.commit(wait(await core.claimed(worker, runId, 'a'), 60_000))
		await resumeRun(core.sql, runId, {})
		expect(await jobsOf(runId)).toEqual([keyOf(runId, 'a')])
		expect(await core.outbox(runId)).toEqual([])
	})

	test('of two resumes at once one wins, and the run counts one', async () => {
		const runId = await core.start('two')
		await core.commit(
			wait(await core.claimed(worker, runId, 'a')),
			wait(await core.claimed(worker, runId, 'b')),
		)
		const { second } = await core.sql.begin(async (tx) => {
			await resumeRun(tx, runId, { nodeId: 'a', output: 'first' })
			const [{ pid }] = await tx<[{ pid: number }]>`select pg_backend_pid() as pid`
			const second = resumeRun(core.sql, runId, { nodeId: 'a', output: 'second' }).catch(String)
			await whenBlocked(core.sql, pid)
			return { second }
		})
		expect(await second).toContain('does not wait')
		expect(await core.run(runId)).toMatchObject({ live: 2, waiting: 1 })
		expect((await core.claimed(worker, runId, 'a')).resume).toContain('first')
	})

	test('of several nodes that wait for something from outside, a resume has to name one; a sleep needs no naming', async () => {
		await core.register(flow('three', [], { a: {}, b: {}, sleeper: {} }))
		const runId = await core.start('three')
		const [a, b, sleeper] = [
			await core.claimed(worker, runId, 'a'),
			await core.claimed(worker, runId, 'b'),
			await core.claimed(worker, runId, 'sleeper'),
		]
		await core.commit(wait(a), wait(b), { ...wait(sleeper, 60_000), wait: '{"reason":"timer"}' })
		await expect(resumeRun(core.sql, runId)).rejects.toThrow("name one of 'a', 'b'")
		expect(await resumeRun(core.sql, runId, { nodeId: 'b' })).toMatchObject({ nodeId: 'b' })
		expect(await resumeRun(core.sql, runId)).toMatchObject({ nodeId: 'a' })
		await expect(resumeRun(core.sql, runId)).rejects.toThrow('Nothing waits')
	})
})

describe('child runs', () => {
	test('one starts with its node, in the same write, with the input that it was given', async () => {
		const runId = await core.start('nested', { tags: ['t'], traceparent: '00-1-2-03' })
		await core.drain()
		const commit = child(await core.claimed(worker, runId, 'sub'), 'chain', {
			childInput: [
				['x', '1'],
				['_inputs.a', '{"y":2}'],
			],
		})
		expect(await commitNodes(core.sql, [commit])).toMatchObject({ outcomes: ['committed'], emitted: 1 })
		const childRunId = commit.childRunId ?? ''
		expect(await core.run(runId)).toMatchObject({ status: 'running', live: 1, waiting: 0 })
		expect(await core.run(childRunId)).toMatchObject({ status: 'running', live: 1 })
		expect(await core.outbox(childRunId)).toEqual(['a'])
		expect(
			await core.rows(
				`select parent_run_id, parent_node_id, depth, tags::text, traceparent, blueprint_id from flowcraft_statuses where run_id = $1`,
				childRunId,
			),
		).toEqual([
			{
				parent_run_id: runId,
				parent_node_id: 'sub',
				depth: 1,
				tags: '{t}',
				traceparent: '00-1-2-03',
				blueprint_id: 'chain',
			},
		])
		expect(
			await core.rows(
				`select key, value from flowcraft_context_entries($1) where key in ('x', '_inputs.a') order by key`,
				childRunId,
			),
		).toEqual([
			{ key: '_inputs.a', value: '{"y":2}' },
			{ key: 'x', value: '1' },
		])
	})

	test('a lost commit starts no child run, whatever else is in its batch', async () => {
		const runId = await core.start('nested')
		const node = await core.claimed(worker, runId, 'sub')
		const bystander = core.completed(await core.claimed(worker, await core.start('one'), 'a'))
		const zombie = { ...child(node, 'chain'), token: crypto.randomUUID() }
		expect(await core.commit(zombie, bystander)).toEqual(['lost', 'committed'])
		expect(
			await core.rows('select run_id from flowcraft_statuses where parent_run_id = $1', runId),
		).toEqual([])
	})

	test("its end is a job for its parent's node, in the commit that ended it", async () => {
		const runId = await core.start('nested')
		const commit = child(await core.claimed(worker, runId, 'sub'), 'chain')
		await core.commit(commit)
		await core.drain()
		await complete(commit.childRunId ?? '', 'a', 'b')
		expect(await core.outbox(runId)).toEqual([])
		await complete(commit.childRunId ?? '', 'c')
		expect(await core.outbox(runId)).toEqual(['sub'])
		await complete(runId, 'sub', 'after')
		expect(await core.run(runId)).toMatchObject({ status: 'completed' })
		expect(await core.violations()).toEqual([])
	})

	test('one that was cancelled by itself is a job for its parent too', async () => {
		const runId = await core.start('nested')
		const commit = child(await core.claimed(worker, runId, 'sub'), 'chain')
		await core.commit(commit)
		await core.drain()
		await cancelRun(core.sql, commit.childRunId ?? '')
		expect(await core.outbox(runId)).toEqual(['sub'])
		expect(await core.claimed(worker, runId, 'sub')).toMatchObject({
			wake: 'child',
			child: { status: 'cancelled' },
		})
	})

	test('a cancel of the outermost run cancels its descendants at any depth, and nothing else', async () => {
		await core.register(
			flow('deep', [], { sub: { uses: 'subflow', params: { blueprintId: 'deep' } }, other: {} }),
		)
		const bystander = await core.start('deep')
		const runIds = [await core.start('deep')]
		for (let depth = 0; depth < 4; depth++) {
			const commit = child(await core.claimed(worker, runIds[depth] as string, 'sub'), 'deep')
			await core.commit(commit)
			runIds.push(commit.childRunId ?? '')
		}
		const running = await core.claimed(worker, runIds[4] as string, 'other')
		const result = await cancelRun(core.sql, runIds[0] as string, 'Enough')
		expect([...result.cancelled].sort()).toEqual([...runIds].sort())
		for (const runId of runIds) {
			expect(await core.run(runId)).toMatchObject({ status: 'cancelled', live: 0 })
			expect(await core.outbox(runId)).toEqual([])
		}
		expect((await core.run(runIds[4] as string)).reason).toBe('The parent run was cancelled')
		expect((await core.run(bystander)).status).toBe('running')
		expect(await core.commit(core.completed(running))).toEqual(['lost'])
		expect(await core.violations()).toEqual([])
	})

	test('a parent awaits when all that is live of it waits, at any depth, and runs again when that is over', async () => {
		await core.register(flow('outer', [], { sub: { uses: 'subflow', params: { blueprintId: 'inner' } } }))
		await core.register(flow('inner', [], { sub: { uses: 'subflow', params: { blueprintId: 'two' } } }))
		const outer = await core.start('outer')
		const first = child(await core.claimed(worker, outer, 'sub'), 'inner')
		await core.commit(first)
		const inner = first.childRunId ?? ''
		const second = child(await core.claimed(worker, inner, 'sub'), 'two')
		await core.commit(second)
		const innermost = second.childRunId ?? ''
		const statuses = async (): Promise<string[]> => {
			await core.drain()
			expect(await core.violations()).toEqual([])
			return (await Promise.all([outer, inner, innermost].map((runId) => core.run(runId)))).map(
				({ status }) => status,
			)
		}

		const [a, b] = [
			await core.claimed(worker, innermost, 'a'),
			await core.claimed(worker, innermost, 'b'),
		]
		await core.commit(wait(a))
		expect(await statuses()).toEqual(['running', 'running', 'running'])
		await core.commit(wait(b))
		expect(await statuses()).toEqual(['awaiting', 'awaiting', 'awaiting'])
		await resumeRun(core.sql, innermost, { nodeId: 'a' })
		expect(await statuses()).toEqual(['running', 'running', 'running'])
		await complete(innermost, 'a')
		expect(await statuses()).toEqual(['awaiting', 'awaiting', 'awaiting'])
		await resumeRun(core.sql, innermost, {})
		// Its parents hear of this later than of its end.
		await complete(innermost, 'b')
		await complete(inner, 'sub')
		expect(await statuses()).toEqual(['running', 'completed', 'completed'])
		await complete(outer, 'sub')
		expect(await statuses()).toEqual(['completed', 'completed', 'completed'])
	})

	test('its word that it waits counts once, however often it comes', async () => {
		const runId = await core.start('nested')
		await core.commit(child(await core.claimed(worker, runId, 'sub'), 'chain'))
		const childId = (await core.nodes(runId))['sub']?.child_run_id ?? ''
		await core.commit(wait(await core.claimed(worker, childId, 'a')))
		await core.drain()
		for (let again = 0; again < 3; again++) await refreshChild(core.sql, keyOf(runId, 'sub'))
		expect(await core.run(runId)).toMatchObject({ status: 'awaiting', live: 1, waiting: 1 })
		await resumeRun(core.sql, childId, { nodeId: 'a' })
		for (let again = 0; again < 3; again++) await refreshChild(core.sql, keyOf(runId, 'sub'))
		expect(await core.run(runId)).toMatchObject({ status: 'running', live: 1, waiting: 0 })
	})

	test('one whose blueprint nobody has registered is refused; the claim stands, and the rest of the batch is committed', async () => {
		const [runId, other] = [await core.start('nested'), await core.start('one')]
		const sub = await core.claimed(worker, runId, 'sub')
		const before = await everything(runId)
		expect(
			await core.commit(
				child(sub, 'no-such-blueprint'),
				core.completed(await core.claimed(worker, other, 'a')),
			),
		).toEqual(['refused', 'committed'])
		expect(await everything(runId)).toEqual(before)
		expect(await core.commit(core.failed(sub))).toEqual(['committed'])
	})

	test('the versions of its subflows are those that were current when the outermost run started, at any depth', async () => {
		const leaf = (version: string) => ({ ...flow('leaf', [], { a: {} }), metadata: { version } })
		await core.register(leaf('1'))
		await core.register(flow('middle', [], { sub: { uses: 'subflow', params: { blueprintId: 'leaf' } } }))
		await core.register(flow('top', [], { sub: { uses: 'subflow', params: { blueprintId: 'middle' } } }))
		const top = await core.start('top')
		await core.register(leaf('2'))
		const first = child(await core.claimed(worker, top, 'sub'), 'middle')
		await core.commit(first)
		const second = child(await core.claimed(worker, first.childRunId ?? '', 'sub'), 'leaf')
		await core.commit(second)
		expect(
			await core.rows(
				`select blueprint_version, depth from flowcraft_statuses where run_id = $1`,
				second.childRunId ?? '',
			),
		).toEqual([{ blueprint_version: '1', depth: 2 }])
	})

	test('a blueprint that contains itself means the version that was started', async () => {
		const version = (name: string) => ({
			...flow('self', [], { sub: { uses: 'subflow', params: { blueprintId: 'self' } } }),
			metadata: { version: name },
		})
		await core.register(version('1'))
		await core.register(version('2'))
		const runId = await core.start('self', { version: '1' })
		const first = child(await core.claimed(worker, runId, 'sub'), 'self')
		await core.commit(first)
		expect(
			await core.rows(
				`select blueprint_version from flowcraft_statuses where run_id = $1`,
				first.childRunId ?? '',
			),
		).toEqual([{ blueprint_version: '1' }])
	})
})

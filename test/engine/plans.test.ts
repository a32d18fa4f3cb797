/**
 * What the engine's functions read does not grow with what is stored. Their plans are made once per connection, here
 * while the tables are all but empty and have never been analysed, which is when planners err most; then the tables grow.
 */
import postgres, { type Sql } from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { claimNodes, releaseNodes } from '../../src/claim/claim.js'
import { commitNodes, type NodeCommit, type OutboxEvent } from '../../src/commit/commit.js'
import type { Executor } from '../../src/db/query.js'
import { keepEmitted } from '../../src/claim/emit.js'
import { refreshChild, settleOutbox, takeOutbox } from '../../src/outbox/outbox.js'
import { sweepLost, sweepRuns, sweepWorkers } from '../../src/outbox/sweep.js'
import { cancelRun } from '../../src/run/cancel.js'
import { sendEvent } from '../../src/run/events.js'
import { pauseRun, unpauseRun } from '../../src/run/pause.js'
import { resumeRun } from '../../src/run/resume.js'
import { retryRun } from '../../src/run/retry.js'
import { startRun } from '../../src/run/start.js'
import { watchRun } from '../../src/run/watch.js'
import { type Core, createCore, flow, keyOf } from '../support/core.js'

const QUEUED = 10_000
const ENDED = 10_000

let core: Core
/** One connection: the plans are its own. */
let connection: Sql
let worker: string

beforeAll(async () => {
	core = await createCore()
	connection = postgres(core.url, { max: 1 })
	worker = await core.worker()
	for (const table of ['statuses', 'nodes', 'outbox', 'arrivals', 'contexts', 'transitions']) {
		await core.rows(`alter table flowcraft_${table} set (autovacuum_enabled = off)`)
	}
	await core.register(
		flow('diamond', [
			['a', 'b'],
			['a', 'c'],
			['b', 'd'],
			['c', 'd'],
		]),
	)
	await core.register(flow('one', [], { a: { config: { fallback: 'f' } }, f: {} }))
	await core.register(flow('nested', [], { sub: { uses: 'subflow', params: { blueprintId: 'one' } } }))
})
afterAll(async () => {
	await connection.end()
	await core.drop()
})

/** Pages that one call reads; what it does is undone. */
async function pages(call: (db: Executor) => Promise<unknown>): Promise<number> {
	let read = 0
	const undo = new Error('undone')
	await connection
		.begin(async (tx) => {
			const explaining = {
				async unsafe(text: string, parameters: string[]) {
					const [row] = await tx.unsafe<[{ 'QUERY PLAN': [{ Plan: Record<string, number> }] }]>(
						`explain (analyze, buffers, format json) ${text}`,
						parameters,
					)
					const plan = row['QUERY PLAN'][0].Plan
					read += (plan['Shared Hit Blocks'] ?? 0) + (plan['Shared Read Blocks'] ?? 0)
					return []
				},
			}
			// The caller gets no rows, and may be surprised.
			await call(explaining as unknown as Executor).catch(() => {})
			throw undo
		})
		.catch((error: unknown) => {
			if (error !== undo) throw error
		})
	return read
}

/** Runs in each state that a call may meet, and the calls. */
async function calls(): Promise<Record<string, (db: Executor) => Promise<unknown>>> {
	const claimed = async (blueprint: string, nodeId: string) => {
		const runId = await core.start(blueprint, { input: { x: 1 } })
		return core.claimed(worker, runId, nodeId)
	}
	const wait = ({ key, token }: Pick<NodeCommit, 'key' | 'token'>): NodeCommit => ({
		key,
		token,
		outcome: 'waiting',
		wait: '{"reason":"external_event"}',
		waitEvent: { name: 'e', key: key.runId },
	})
	const queued = await core.start('diamond')
	const first = await claimed('diamond', 'a')
	const before = await claimed('diamond', 'a')
	await core.commit(core.completed(before))
	const arriving = await core.claimed(worker, before.key.runId, 'b')
	const held = await claimed('one', 'a')
	const waiting = await claimed('one', 'a')
	await core.commit(wait(waiting))
	const failed = await claimed('one', 'a')
	await core.commit(core.failed(failed, 'No', true))
	const failing = await claimed('one', 'a')
	const recovering = await claimed('one', 'a')
	await core.commit(core.failed(recovering))
	const fallback = await core.claimed(worker, recovering.key.runId, 'f', { recovers: '["a"]' })
	const parent = await claimed('nested', 'sub')
	const childRunId = crypto.randomUUID()
	await core.commit({
		key: parent.key,
		token: parent.token,
		outcome: 'child',
		childRunId,
		childBlueprint: 'one',
	})
	const starting = await claimed('nested', 'sub')
	const timer = await claimed('one', 'a')
	await core.commit({ ...wait(timer), delayMs: 0 })
	const paused = await core.start('diamond')
	await pauseRun(core.sql, paused)
	await core.rows('delete from flowcraft_outbox')
	const watched = await claimed('one', 'a')
	await watchRun(core.sql, watched.key.runId).next()
	const posted = await core.start('diamond')
	const relay = crypto.randomUUID()
	const rows = await takeOutbox(core.sql, relay, 10, 60_000)
	const published = await core.start('diamond')
	const telling = await claimed('one', 'a')
	const event = (): OutboxEvent => ({
		messageId: crypto.randomUUID(),
		exchange: 'x',
		routingKey: 'k',
		body: '{}',
		headers: {},
	})
	const told = await claimed('one', 'a')
	await core.commit({ ...core.completed(told), events: [event(), event()] })
	return {
		start: (db) =>
			startRun(db, { blueprint: 'diamond', input: { x: 1 }, idempotencyKey: crypto.randomUUID() }),
		claim: (db) => claimNodes(db, worker, [keyOf(queued, 'a')]),
		'claim of a timer': (db) => claimNodes(db, worker, [timer.key]),
		'commit of a completed node': (db) =>
			commitNodes(db, [core.completed(first, { output: 1, writes: { y: 1 } })]),
		'commit of an arrival': (db) => commitNodes(db, [core.completed(arriving, { output: 1 })]),
		'commit with events': (db) =>
			commitNodes(db, [{ ...core.completed(telling), events: [event(), event()] }]),
		'commit of a failure': (db) => commitNodes(db, [core.failed(failing)]),
		'commit of a fallback': (db) => commitNodes(db, [core.completed(fallback)]),
		'commit of a wait': (db) => commitNodes(db, [wait(held)]),
		'commit of a child': (db) =>
			commitNodes(db, [
				{
					key: starting.key,
					token: starting.token,
					outcome: 'child',
					childRunId: crypto.randomUUID(),
					childBlueprint: 'one',
				},
			]),
		'commit that comes too late': (db) =>
			commitNodes(db, [{ ...core.completed(first), token: crypto.randomUUID() }]),
		release: (db) => releaseNodes(db, [{ key: held.key, token: held.token, delayMs: 0 }]),
		'refresh of a child': (db) => refreshChild(db, parent.key),
		resume: (db) => resumeRun(db, waiting.key.runId),
		event: (db) => sendEvent(db, { name: 'e', key: waiting.key.runId }),
		cancel: (db) => cancelRun(db, parent.key.runId),
		pause: (db) => pauseRun(db, parent.key.runId),
		unpause: (db) => unpauseRun(db, paused),
		retry: (db) => retryRun(db, failed.key.runId),
		'settling of outbox rows': (db) =>
			settleOutbox(
				db,
				relay,
				rows.slice(0, 1).map(({ id }) => id),
				rows.slice(1).map(({ id }) => ({ id, delayMs: 0, error: '' })),
			),
		'taking of outbox rows': (db) =>
			takeOutbox(db, crypto.randomUUID(), 10, 1000).then(() => [posted, published]),
		'taking of events': (db) => takeOutbox(db, crypto.randomUUID(), 10, 1000, 'events'),
		'sweep of workers': (db) => sweepWorkers(db, 100),
		'sweep of lost messages': (db) => sweepLost(db, 3_600_000, false, 100),
		'first look of a live reader': (db) => watchRun(db, held.key.runId).next(),
		'look of a live reader': (db) => watchRun(db, watched.key.runId).next(),
		emitting: (db) => keepEmitted(db, [{ ...watched, first: 1, data: ['1'] }]),
		'check of one live run': (db) => sweepRuns(db, '', 1, 0),
	}
}

test('no call reads more pages beside tens of thousands of queued and ended nodes than beside none', async () => {
	const small = await calls()
	const costs: Record<string, number> = {}
	for (const [name, call] of Object.entries(small)) {
		// The first call reads the catalog and makes the plan.
		for (let time = 0; time < 2; time++) costs[name] = await pages(call)
	}

	await core.rows(
		`insert into flowcraft_statuses (run_id, status, blueprint_id, blueprint_hash, live_count, finished_at)
		select 'queued-' || i, 'running', 'one', '', 1, null from generate_series(1, ${QUEUED}) i
		union all select 'ended-' || i, 'completed', 'one', '', 0, now() from generate_series(1, ${ENDED}) i`,
	)
	await core.rows(
		`insert into flowcraft_nodes (run_id, node_id, state, worker_id, claim_token, wait_event, due_at)
		select 'queued-' || i, 'a', (array['ready', 'running', 'waiting'])[1 + i % 3], '${worker}'::uuid, gen_random_uuid(), 'other',
			case when i % 3 = 2 then now() + interval '1 day' end from generate_series(1, ${QUEUED}) i
		union all select 'ended-' || i, 'a', 'completed', '${worker}', gen_random_uuid(), null, null from generate_series(1, ${ENDED}) i`,
	)
	await core.rows(
		`insert into flowcraft_outbox (run_id, node_id, blueprint_id, due_at)
		select 'queued-' || i, 'a', 'one', now() + interval '1 day' from generate_series(1, ${QUEUED}) i`,
	)
	const large = await calls()
	// Long due, and in nobody's way but their own.
	await core.rows(
		`insert into flowcraft_outbox (kind, run_id, node_id, blueprint_id, exchange, routing_key, payload, due_at)
		select 'event', 'queued-' || i, 'a', 'one', 'x', 'k', '{}', now() - interval '1 day' from generate_series(1, ${QUEUED}) i`,
	)
	const grown: Record<string, string> = {}
	for (const [name, call] of Object.entries(large)) {
		const before = costs[name] ?? 0
		const now = await pages(call)
		// Indexes are a level or two deeper; the sweep of workers looks at what runs, and at nothing else.
		const allowed = name === 'sweep of workers' ? 10 * QUEUED : 2 * before + 60
		if (now > allowed) grown[name] = `${before} pages before, ${now} now`
	}
	expect(grown).toEqual({})
})

test('a look of a live reader reads no more pages in a run of many nodes than in one of few', async () => {
	const NODES = 5_000
	/** A run that has been watched for a while, and in which one more node has just ended. */
	const watched = async (nodes: number): Promise<string> => {
		const runId = await core.start('diamond')
		await core.rows(
			`insert into flowcraft_nodes (run_id, node_id, state, claimed_at, claimed_xid, finished_at, finished_seq)
			select $1::text, 'n' || i, 'completed', now(), pg_current_xact_id(), now(), i from generate_series(1, ${nodes}) i`,
			runId,
		)
		await core.rows(
			'update flowcraft_statuses set commit_seq = $1::text::int where run_id = $2',
			String(nodes),
			runId,
		)
		await watchRun(core.sql, runId).next()
		const events = await core.rows('select from flowcraft_stream_events where run_id = $1', runId)
		expect(events).toHaveLength(1 + 2 * nodes)
		await core.commit(core.completed(await core.claimed(worker, runId, 'a')))
		return runId
	}
	const costs: number[] = []
	for (const nodes of [1, NODES]) {
		const runId = await watched(nodes)
		const last = String(1 + 2 * nodes)
		for (let time = 0; time < 2; time++) {
			costs[nodes] = await pages((db) => watchRun(db, runId, { after: last }).next())
		}
	}
	expect(costs[NODES]).toBeLessThanOrEqual(2 * (costs[1] ?? 0) + 60)
})

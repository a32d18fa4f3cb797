/**
 * Connections that die in the middle of transactions with `onCommit`. postgres.js continues what it still has on another
 * connection (porsager/postgres #1204, #1208); nothing of a transaction may ever run outside of it.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { NodeContext, RuntimeDependencies } from 'flowcraft'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { DurableDependencies } from '../../worker/execution/durable-dependencies.js'
import { noLogger } from '../../src/ports/logger.js'
import { startEngine, type TestEngine } from '../support/engine.js'
import { startProxy, type TcpProxy } from '../support/tcp-proxy.js'
import { waitFor } from '../support/wait-for.js'

type Context = NodeContext<RuntimeDependencies, DurableDependencies>

/** A pool whose connections were cut may take a connect timeout, 10 s, to find out. */
const PATIENCE_MS = 120_000
const PATIENT = { deadlineMs: 60_000 }
/** STORM_RUNS for longer storms. */
const RUNS = Number(process.env['STORM_RUNS'] ?? 60)

let engine: TestEngine
let proxy: TcpProxy
/** Nodes that run until Postgres is cut off. */
let begun = 0
let goOn = (): void => {}
const cut = new Promise<void>((resolve) => {
	goOn = resolve
})
const warnings: string[] = []

beforeAll(async () => {
	engine = await startEngine()
	proxy = await startProxy(engine.url)
	await engine.rows('create table written (run text, part int)')
	const single = (id: string) => ({ id, nodes: [{ id: 'n', uses: id }], edges: [] })
	await engine.addWorker(
		{
			blueprints: { storm: single('storm'), slow: single('slow'), cut: single('cut') },
			registry: {
				storm: async ({ context, dependencies: { onCommit, runtime } }: Context) => {
					const fails = (await context.get('fails')) === true
					onCommit(async (tx) => {
						const run = runtime.executionId
						await tx`insert into written values (${run}, 1)`
						// Idle in its transaction, then several statements at once, then busy in one.
						await delay(3)
						await Promise.all(
							[2, 3, 4].map((part) => tx`insert into written values (${run}, ${part})`),
						)
						await tx`select pg_sleep(0.003)`
						await tx`insert into written values (${run}, 5)`
						if (fails) throw new Error('This one is to fail')
					})
					return {}
				},
				cut: async ({ context, dependencies: { onCommit, runtime } }: Context) => {
					if (await context.get('writes'))
						onCommit((tx) => tx`insert into written values (${runtime.executionId}, 1)`)
					begun += 1
					await cut
					return {}
				},
				slow: async ({ dependencies: { onCommit, runtime } }: Context) => {
					onCommit((tx) => tx`insert into written values (${runtime.executionId}, 1)`)
					return {}
				},
			},
		},
		{
			databaseUrl: proxy.url,
			transactionPoolSize: 8,
			logger: { ...noLogger, warn: (message) => void warnings.push(message) },
		},
	)
})
afterAll(async () => {
	await engine.stop()
	await proxy.close()
})

test('while backends are killed, each node that completes has written everything once, and no other anything', async () => {
	const runIds = await Promise.all(
		Array.from({ length: RUNS }, (_, n) =>
			engine.start({ blueprint: 'storm', input: { fails: n % 5 === 0 } }),
		),
	)
	const killed: Record<string, number> = { 'idle in transaction': 0, active: 0 }
	const ended = Promise.all(runIds.map((runId) => engine.end(runId, 120_000)))
	let isOver = false
	void ended.finally(() => {
		isOver = true
	})
	const storm = async (state: string): Promise<void> => {
		while (!isOver && (killed[state] ?? 0) < RUNS / 4) {
			const rows = await engine.rows(
				`select pg_terminate_backend(pid) from pg_stat_activity
				where application_name = 'flowcraft-on-commit' and datname = current_database() and state = $1
				order by random() limit 2`,
				state,
			)
			killed[state] = (killed[state] ?? 0) + rows.length
			await delay(5)
		}
	}
	await Promise.all([storm('idle in transaction'), storm('active')])
	const runs = await ended
	expect(Math.min(...Object.values(killed))).toBeGreaterThan(RUNS / 15)
	const completed = runs.filter(({ status }) => status === 'completed').map(({ runId }) => runId)
	const failed = runs.filter(({ status }) => status === 'failed')
	expect([completed.length, failed.length]).toEqual([RUNS - RUNS / 5, RUNS / 5])
	for (const { errors } of failed) expect(errors?.[0]?.message).toBe('This one is to fail')
	const written = await engine.rows<{ run: string; parts: string }>(
		`select run, string_agg(part::text, '' order by part) as parts from written group by run order by run`,
	)
	expect(written.filter(({ parts }) => parts !== '12345')).toEqual([])
	expect(written.map(({ run }) => run).sort()).toEqual(completed.sort())
})

test(
	'when the answer to a COMMIT is lost, the worker finds out that it came through, and does not repeat it',
	async () => {
		// A COMMIT that waits for us: for a deferred trigger, and that for a lock which we hold.
		await engine.rows(`create function wait_for_us() returns trigger language plpgsql as
		$$ begin perform pg_advisory_xact_lock_shared(4711); return null; end $$`)
		await engine.rows(`create constraint trigger wait_for_us after insert on written deferrable initially deferred
		for each row execute function wait_for_us()`)
		await engine.rows('truncate written')
		let runId = ''
		await engine.database.sql.begin(async (holder) => {
			await holder`select pg_advisory_xact_lock(4711)`
			runId = await engine.start({ blueprint: 'slow' })
			await waitFor(
				'the COMMIT',
				async () => {
					const rows = await engine.rows(
						`select 1 from pg_stat_activity where datname = current_database() and query = 'commit' and wait_event = 'advisory'`,
					)
					return rows.length
				},
				PATIENT,
			)
			proxy.pause('to client')
		})
		await waitFor(
			'the row',
			() => engine.rows('select 1 from written').then(({ length }) => length),
			PATIENT,
		)
		proxy.cut()
		proxy.resume()
		expect((await engine.end(runId, 60_000)).status).toBe('completed')
		await engine.rows('drop trigger wait_for_us on written')
		// Whatever the worker still has to do about it is done before the next one ends.
		await engine.run({ blueprint: 'slow' })
		expect(await engine.rows('select part from written where run = $1', runId)).toEqual([{ part: 1 }])
		expect(
			await engine.rows('select state, attempt, crashes from flowcraft_nodes where run_id = $1', runId),
		).toEqual([{ state: 'completed', attempt: 1, crashes: 0 }])
	},
	PATIENCE_MS,
)

test(
	'a commit that meets no Postgres is asked again until it answers, with onCommit and without',
	async () => {
		await engine.rows('truncate written')
		warnings.length = 0
		const runIds = [
			await engine.start({ blueprint: 'cut', input: { writes: true } }),
			await engine.start({ blueprint: 'cut', input: { writes: false } }),
		]
		await waitFor('both nodes to run', () => begun === 2, PATIENT)
		proxy.refuse()
		proxy.cut()
		goOn()
		await waitFor(
			'both to be repeated',
			() =>
				['A commit has to be repeated', 'A commit with onCommit has to be repeated'].every(
					(message) => warnings.includes(message),
				),
			PATIENT,
		)
		await proxy.accept()
		for (const runId of runIds) expect((await engine.end(runId, 60_000)).status).toBe('completed')
		expect(await engine.rows('select run, part from written')).toEqual([{ run: runIds[0], part: 1 }])
		const nodes = await engine.rows(
			`select attempt, crashes from flowcraft_nodes where run_id in ($1, $2)`,
			...runIds,
		)
		expect(nodes).toEqual([
			{ attempt: 1, crashes: 0 },
			{ attempt: 1, crashes: 0 },
		])
	},
	PATIENCE_MS,
)

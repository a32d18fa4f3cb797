/** What a node does in the transaction that records its result: with it, or not at all. */
import { pgTable, integer, jsonb, text, timestamp } from 'drizzle-orm/pg-core'
import { drizzle } from 'drizzle-orm/postgres-js'
import type { NodeContext, RuntimeDependencies, WorkflowBlueprint } from 'flowcraft'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { cancelRun } from '../../src/run/cancel.js'
import { resumeRun } from '../../src/run/resume.js'
import { startRun } from '../../src/run/start.js'
import type { DurableDependencies } from '../../worker/execution/durable-dependencies.js'
import type { CommitTransaction } from '../../worker/transaction/handle.js'
import type { Worker } from '../../worker/worker/worker.js'
import { startEngine, type TestEngine } from '../support/engine.js'
import { waitFor } from '../support/wait-for.js'

type Dependencies = NodeContext<RuntimeDependencies, DurableDependencies>['dependencies']

let engine: TestEngine
let worker: Worker
/** What the node of the next run does. */
let work: (dependencies: Dependencies, signal: AbortSignal) => unknown = () => {}

const node = (id: string, rest: Partial<WorkflowBlueprint['nodes'][number]> = {}) => ({
	id,
	uses: 'work',
	...rest,
})
const blueprints: Record<string, WorkflowBlueprint> = {
	once: { id: 'once', nodes: [node('n')], edges: [] },
	thrice: { id: 'thrice', nodes: [node('n', { config: { maxRetries: 3, retryDelay: 1 } })], edges: [] },
	short: { id: 'short', nodes: [node('n', { config: { timeout: 300 } })], edges: [] },
	rescued: {
		id: 'rescued',
		nodes: [node('n', { config: { fallback: 'f' } }), { id: 'f', uses: 'rescue' }],
		edges: [],
	},
	wide: {
		id: 'wide',
		nodes: [node('n'), { id: 'other', uses: 'rescue' }, { id: 'end', uses: 'rescue' }],
		edges: [{ source: 'other', target: 'end' }],
	},
}

beforeAll(async () => {
	engine = await startEngine()
	worker = await engine.addWorker(
		{
			blueprints,
			registry: {
				work: async ({
					dependencies,
					signal,
				}: NodeContext<RuntimeDependencies, DurableDependencies>) => ({
					output: (await work(dependencies, signal as AbortSignal)) ?? null,
				}),
				rescue: async () => ({ output: 'rescued' }),
			},
		},
		{ transactionPoolSize: 3 },
	)
	await engine.rows('create table ledger (id text primary key, amount int, note jsonb, at timestamptz)')
})
afterAll(() => engine.stop())
beforeEach(() => engine.rows('truncate ledger'))

const ledger = async (): Promise<string[]> =>
	(await engine.rows<{ id: string }>('select id from ledger order by id')).map(({ id }) => id)
const put = (tx: CommitTransaction, id: string) => tx`insert into ledger (id) values (${id})`

describe('onCommit', () => {
	test('writes with the result, several callbacks in their order in one transaction', async () => {
		work = ({ onCommit }) => {
			onCommit(async (tx) => {
				await put(tx, 'first')
			})
			onCommit(async (tx) => {
				const [row] = await tx<{ id: string; own: string }[]>`
					select id, (select xmin::text = pg_current_xact_id()::xid::text from ledger) as own from ledger`
				await put(tx, `second after ${row?.id} ${row?.own}`)
			})
			return 'done'
		}
		const run = await engine.run({ blueprint: 'once' })
		expect(run).toMatchObject({ status: 'completed', context: { n: 'done' } })
		expect(await ledger()).toEqual(['first', 'second after first true'])
	})

	test('that throws fails the attempt: nothing of it lands, and retries follow as for any failure', async () => {
		const attempts: number[] = []
		work = ({ onCommit, publish, attempt }) => {
			publish('x', 'k', {})
			onCommit(async (tx) => {
				attempts.push(attempt)
				await put(tx, `attempt ${attempt}`)
				if (attempt < 3) throw new Error('The books do not balance')
			})
		}
		const run = await engine.run({ blueprint: 'thrice' })
		expect(run.status).toBe('completed')
		expect(attempts).toEqual([1, 2, 3])
		expect(await ledger()).toEqual(['attempt 3'])
		expect(
			await engine.rows(
				'select count(*)::int as events from flowcraft_outbox where run_id = $1',
				run.runId,
			),
		).toEqual([{ events: 1 }])
	})

	test('that keeps failing ends the node with what it threw, and its fallback stands in', async () => {
		work = ({ onCommit }) => onCommit((tx) => tx`insert into ledger (id) values (null)`)
		expect((await engine.run({ blueprint: 'once' })).errors?.[0]?.message).toMatch(
			/null value in column "id"/,
		)
		const run = await engine.run({ blueprint: 'rescued' })
		expect(run).toMatchObject({ status: 'completed', context: { n: null, f: 'rescued' } })
	})

	test('whose refused statement is caught and forgotten fails all the same, with what was refused', async () => {
		work = ({ onCommit }) =>
			onCommit(async (tx) => {
				await tx`select 1/0`.catch(() => {})
			})
		expect((await engine.run({ blueprint: 'once' })).errors?.[0]?.message).toBe('division by zero')
	})

	test('with a value that the driver cannot write fails with what the driver says', async () => {
		work = ({ onCommit }) => onCommit((tx) => tx`insert into ledger (id) values (${undefined as never})`)
		const [error] = (await engine.run({ blueprint: 'once' })).errors ?? []
		expect(error?.message).toBe('UNDEFINED_VALUE: Undefined values are not allowed')
		expect(await ledger()).toEqual([])
	})

	test('may catch what a savepoint refuses, and go on', async () => {
		work = ({ onCommit }) =>
			onCommit(async (tx) => {
				await put(tx, 'kept')
				await tx
					.savepoint(async (inner) => {
						await put(inner, 'undone')
						await inner`select 1/0`
					})
					.catch(() => {})
				await tx.savepoint(async (inner) => put(inner, 'kept too'))
			})
		expect((await engine.run({ blueprint: 'once' })).status).toBe('completed')
		expect(await ledger()).toEqual(['kept', 'kept too'])
	})

	test('waits for statements that it has not awaited, and takes none once it has ended', async () => {
		let late: CommitTransaction | undefined
		work = ({ onCommit }) =>
			onCommit((tx) => {
				late = tx
				void put(tx, 'not awaited').execute()
			})
		expect((await engine.run({ blueprint: 'once' })).status).toBe('completed')
		expect(await ledger()).toEqual(['not awaited'])
		await expect(put(late as CommitTransaction, 'late')).rejects.toThrow(/has ended/)
	})

	test('begins again after a deadlock, and both that met in it complete', async () => {
		await engine.rows(`insert into ledger (id, amount) values ('a', 0), ('b', 0)`)
		let calls = 0
		let arrived = 0
		const tasks = [
			['a', 'b'],
			['b', 'a'],
		]
		work = ({ onCommit }) => {
			const [first, second] = tasks.pop() as [string, string]
			onCommit(async (tx) => {
				calls += 1
				await tx`update ledger set amount = amount + 1 where id = ${first}`
				arrived += 1
				await waitFor('the other one', () => arrived >= 2)
				await tx`update ledger set amount = amount + 1 where id = ${second}`
			})
		}
		const runs = await Promise.all([engine.run({ blueprint: 'once' }), engine.run({ blueprint: 'once' })])
		expect(runs.map(({ status }) => status)).toEqual(['completed', 'completed'])
		expect(await engine.rows('select id, amount from ledger order by id')).toEqual([
			{ id: 'a', amount: 2 },
			{ id: 'b', amount: 2 },
		])
		expect(calls).toBeGreaterThan(2)
	})

	test('does not run at all when the claim is lost already', async () => {
		let called = false
		work = async ({ onCommit, runtime }) => {
			onCommit(() => {
				called = true
			})
			await engine.rows(
				`update flowcraft_nodes set claim_token = gen_random_uuid() where run_id = $1`,
				runtime.executionId,
			)
		}
		const lostBefore = worker.counts().lost
		const runId = await engine.start({ blueprint: 'once' })
		await waitFor('the worker to notice', () => worker.counts().lost > lostBefore)
		await cancelRun(engine.database.sql, runId)
		expect(called).toBe(false)
	})

	test('leaves nothing when its run is cancelled while it runs, and holds up neither the cancel nor its siblings', async () => {
		let entered = false
		let release = (): void => {}
		const released = new Promise<void>((resolve) => {
			release = resolve
		})
		let settled = false
		work = ({ onCommit }) =>
			onCommit(async (tx) => {
				await put(tx, 'cancelled')
				entered = true
				await released
				settled = true
			})
		const runId = await engine.start({ blueprint: 'wide' })
		await waitFor('the callback', () => entered)
		await waitFor('the siblings', async () => {
			const [row] = await engine.rows<{ state: string }>(
				`select state from flowcraft_nodes where run_id = $1 and node_id = 'end'`,
				runId,
			)
			return row?.state === 'completed'
		})
		expect(await cancelRun(engine.database.sql, runId)).toMatchObject({ status: 'cancelled' })
		release()
		await waitFor('the callback to end', () => settled)
		await waitFor('its transaction to end', async () => {
			const rows = await engine.rows(
				`select 1 from pg_stat_activity where datname = current_database()
				and application_name = 'flowcraft-on-commit' and xact_start is not null`,
			)
			return rows.length === 0
		})
		expect(await ledger()).toEqual([])
	})

	test('counts against the timeout of its attempt, and what it was doing is ended', async () => {
		work = ({ onCommit }) =>
			onCommit(async (tx) => {
				await put(tx, 'slow')
				await tx`select pg_sleep(25)`
			})
		const run = await engine.run({ blueprint: 'short' })
		expect(run.errors?.[0]?.message).toMatch(/longer than its timeout of 300 ms/)
		expect(await ledger()).toEqual([])
		await waitFor('its backend to end', async () => {
			const rows = await engine.rows(
				`select 1 from pg_stat_activity where datname = current_database() and query like '%pg_sleep(25)%' and state = 'active' and pid <> pg_backend_pid()`,
			)
			return rows.length === 0
		})
	})

	test('that ends its transaction itself fails its attempt, and the result does not stand', async () => {
		for (const statement of ['commit', 'rollback', 'commit; begin']) {
			work = ({ onCommit }) => onCommit((tx) => tx.unsafe(statement))
			const run = await engine.run({ blueprint: 'once' })
			expect(run.errors?.[0]?.message).toMatch(/has ended its transaction itself/)
		}
	})

	test('that ends its own run fails its attempt instead of hanging', async () => {
		work = ({ onCommit, runtime }) => onCommit((tx) => cancelRun(tx, runtime.executionId).then(() => {}))
		expect((await engine.run({ blueprint: 'once' })).errors?.[0]?.message).toMatch(
			/leave the run of the node alone/,
		)
	})

	test('is answered by a deferred constraint at the COMMIT: then nothing has landed either', async () => {
		await engine.rows(
			'create table strict (id text primary key, ledger_id text references ledger deferrable initially deferred)',
		)
		work = ({ onCommit }) =>
			onCommit(async (tx) => {
				await put(tx, 'undone')
				await tx`insert into strict values ('s', 'nobody')`
			})
		const run = await engine.run({ blueprint: 'once' })
		expect(run.errors?.[0]?.message).toMatch(/violates foreign key constraint/)
		await engine.rows('drop table strict')
		expect(await ledger()).toEqual([])
	})

	test('starts another run with the result, or not', async () => {
		let begun = ''
		let fails = true
		let calls = 0
		work = ({ onCommit }) => {
			calls += 1
			// The run that the second call begins may be here before its beginner has ended.
			if (calls > 2) return 'other'
			return onCommit(async (tx) => {
				begun = (await startRun(tx, { blueprint: 'rescued' })).runId
				if (fails) throw new Error('No')
			})
		}
		await engine.run({ blueprint: 'once' })
		expect(await engine.rows('select 1 from flowcraft_statuses where run_id = $1', begun)).toEqual([])
		fails = false
		await engine.run({ blueprint: 'once' })
		expect((await engine.end(begun)).status).toBe('completed')
	})

	test('lands when its node begins to wait, and does not run again when the wait ends', async () => {
		let calls = 0
		work = async ({ onCommit, workflowState }) => {
			onCommit((tx) => put(tx, `asked ${++calls}`))
			await workflowState.markAsAwaiting('n')
			return 'asked'
		}
		const runId = await engine.start({ blueprint: 'once' })
		await waitFor('the row', async () => (await ledger()).length)
		await waitFor('the wait', async () => {
			const [row] = await engine.rows<{ status: string }>(
				'select status from flowcraft_statuses where run_id = $1',
				runId,
			)
			return row?.status === 'awaiting'
		})
		await resumeRun(engine.database.sql, runId)
		expect((await engine.end(runId)).status).toBe('completed')
		expect(await ledger()).toEqual(['asked 1'])
	})

	test('cannot be registered once the node has ended', async () => {
		let late: Dependencies['onCommit'] | undefined
		work = ({ onCommit }) => {
			late = onCommit
		}
		await engine.run({ blueprint: 'once' })
		expect(() => late?.(() => {})).toThrow(/after the node had ended/)
	})

	test('takes Drizzle, and leaves dates and JSON as they were for the next callback', async () => {
		const rows = pgTable('ledger', {
			id: text().primaryKey(),
			amount: integer(),
			note: jsonb(),
			at: timestamp({ withTimezone: true }),
		})
		const at = new Date('2026-03-01T12:00:00.000Z')
		const drizzling = (tx: CommitTransaction, id: string) =>
			drizzle(tx).transaction(async (inner) => {
				await inner.insert(rows).values({ id, amount: 1, note: { a: [1] }, at })
				const [row] = await inner.select().from(rows)
				expect(row).toEqual({ id, amount: 1, note: { a: [1] }, at })
			})
		const raw = async (tx: CommitTransaction, id: string) => {
			await tx`insert into ledger (id, note, at) values (${id}, ${tx.json({ a: [1] })}, ${at})`
			const [row] = await tx`select note, at from ledger where id = ${id}`
			expect(row).toEqual({ note: { a: [1] }, at })
		}
		work = ({ onCommit }) => {
			onCommit((tx) => drizzling(tx, 'drizzle'))
			onCommit((tx) => raw(tx, 'raw'))
		}
		const run = await engine.run({ blueprint: 'once' })
		expect(run.errors).toBeUndefined()
		work = ({ onCommit }) => onCommit((tx) => raw(tx, 'raw again'))
		expect((await engine.run({ blueprint: 'once' })).errors).toBeUndefined()
		expect(await ledger()).toEqual(['drizzle', 'raw', 'raw again'])
	})
})

/** What the functions do when Postgres is slower than its clients: refuse early, keep little, and go on. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createApp } from '../../functions/app.js'
import { StatementGate } from '../../functions/statement-gate.js'
import { createDatabase, type Database } from '../../src/db/client.js'
import { startRun } from '../../src/run/start.js'
import { freshDatabase, type FreshDatabase } from '../support/services/index.js'
import { waitFor } from '../support/wait-for.js'
import { type Answer, ask, IDLE_BLUEPRINT } from './api.js'

const POOL = 2
const QUEUE = 5

let fresh: FreshDatabase
let database: Database
let holder: Database
let observer: Database
beforeAll(async () => {
	fresh = await freshDatabase()
	database = createDatabase(fresh.url, { max: POOL })
	holder = createDatabase(fresh.url, { max: 1 })
	observer = createDatabase(fresh.url, { max: 1 })
	await ask(createApp({ db: database }), 'PUT', '/blueprints/idle', { body: IDLE_BLUEPRINT })
})
afterAll(async () => {
	await database.close()
	await holder.close()
	await observer.close()
	await fresh.drop()
})

/** Until it is let go, every start waits in Postgres. */
async function holdStarts(): Promise<{ letGo: () => Promise<void> }> {
	let letGo = (): void => {}
	const held = new Promise<void>((resolve) => {
		letGo = resolve
	})
	let locked = (): void => {}
	const locking = new Promise<void>((resolve) => {
		locked = resolve
	})
	const transaction = holder.sql.begin(async (tx) => {
		await tx`lock table flowcraft_statuses in access exclusive mode`
		locked()
		await held
	})
	await locking
	return {
		async letGo() {
			letGo()
			await transaction
		},
	}
}

/** How many statements wait for what the holder has. */
async function waitingForTheLock(): Promise<number> {
	const [row] = await observer.sql`select count(*)::int as waiting from pg_locks l
		join pg_database d on d.oid = l.database
		where d.datname = current_database() and not l.granted and l.relation = 'flowcraft_statuses'::regclass`
	return row?.['waiting'] as number
}

test('a full pool takes a bounded queue; the rest is answered 503 at once, and nothing of it is done later', async () => {
	const app = createApp({ db: database, databaseQueueSize: QUEUE, databaseDeadlineMs: 60_000 })
	const [before] = await database.sql`select count(*)::int as runs from flowcraft_statuses`
	const held = await holdStarts()
	const answered: number[] = []
	const starts = Array.from({ length: 40 }, async () => {
		const answer = await ask(app, 'POST', '/runs', { body: { blueprint: 'idle' } })
		answered.push(answer.status)
		return answer
	})
	// Long before any deadline: those that found no place.
	await waitFor('the refusals', () => answered.length === 40 - POOL - QUEUE)
	expect(new Set(answered)).toEqual(new Set([503]))
	await held.letGo()

	const answers = await Promise.all(starts)
	const accepted = answers.filter(({ status }) => status === 202)
	expect(accepted).toHaveLength(POOL + QUEUE)
	for (const refused of answers.filter(({ status }) => status === 503)) {
		expect(refused.body.type).toBe('/docs#unavailable')
		expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0)
	}
	const [after] = await database.sql`select count(*)::int as runs from flowcraft_statuses`
	expect(after?.['runs'] - before?.['runs']).toBe(accepted.length)
	expect((await ask(app, 'POST', '/runs', { body: { blueprint: 'idle' } })).status).toBe(202)
})

test('who waits for a connection in vain is answered at the deadline, and its statement never runs', async () => {
	const app = createApp({ db: database, databaseQueueSize: QUEUE, databaseDeadlineMs: 1_000 })
	const held = await holdStarts()
	// Those that come at once share a statement; two of those are under way at most.
	const running: Promise<Answer>[] = []
	for (let i = 0; i < POOL; i++) {
		running.push(
			ask(app, 'POST', '/runs', {
				body: { blueprint: 'idle' },
				headers: { 'idempotency-key': `running-${i}` },
			}),
		)
		await waitFor('the statement', async () => (await waitingForTheLock()) === i + 1)
	}
	const waiting = Array.from({ length: QUEUE }, () =>
		ask(app, 'POST', '/runs', { body: { blueprint: 'idle' }, headers: { 'idempotency-key': 'waiting' } }),
	)
	for (const answer of await Promise.all([...running, ...waiting])) expect(answer.status).toBe(503)
	await held.letGo()
	await waitFor('the pool', async () => (await ask(app, 'GET', '/readyz')).status === 200)
	// What ran when its caller gave up may have happened: a repetition tells. What waited has not.
	const again = await ask(app, 'POST', '/runs', {
		body: { blueprint: 'idle' },
		headers: { 'idempotency-key': 'waiting' },
	})
	expect([again.status, again.headers.get('idempotency-replayed')]).toEqual([202, null])
})

test('while others have all connections starts wait in a bounded queue', async () => {
	const app = createApp({ db: database, databaseQueueSize: QUEUE, databaseDeadlineMs: 60_000 })
	const held = await holdStarts()
	const readers = Array.from({ length: POOL }, () => ask(app, 'GET', '/runs/nobody'))
	await waitFor('the readers', async () => (await waitingForTheLock()) === POOL)
	const answered: number[] = []
	const starts = Array.from({ length: 40 }, async () => {
		const answer = await ask(app, 'POST', '/runs', { body: { blueprint: 'idle' } })
		answered.push(answer.status)
		return answer.status
	})
	await waitFor('the refusals', () => answered.length === 40 - POOL - QUEUE)
	expect(new Set(answered)).toEqual(new Set([503]))
	await held.letGo()
	expect((await Promise.all(starts)).filter((status) => status === 202)).toHaveLength(POOL + QUEUE)
	for (const answer of await Promise.all(readers)) expect(answer.status).toBe(404)
})

test('a key that somebody holds holds up its own start and no other that comes at the same time', async () => {
	const app = createApp({ db: database, databaseDeadlineMs: 2_000 })
	let letGo = (): void => {}
	const held = new Promise<void>((resolve) => {
		letGo = resolve
	})
	let begun = (): void => {}
	const beginning = new Promise<void>((resolve) => {
		begun = resolve
	})
	// Somebody's own transaction, which has started a run under that key and goes on.
	const transaction = holder.sql.begin(async (tx) => {
		await startRun(tx, { blueprint: 'idle', idempotencyKey: 'held' })
		begun()
		await held
	})
	await beginning
	const [before] = await observer.sql`select count(*)::int as runs from flowcraft_statuses`
	try {
		const answers = await Promise.all(
			Array.from({ length: 20 }, (_, i) =>
				ask(app, 'POST', '/runs', {
					body: { blueprint: 'idle' },
					headers: i === 7 ? { 'idempotency-key': 'held' } : {},
				}),
			),
		)
		expect(answers.map(({ status }) => status)).toEqual(
			Array.from({ length: 20 }, (_, i) => (i === 7 ? 503 : 202)),
		)
	} finally {
		letGo()
		await transaction
	}
	const [after] = await observer.sql`select count(*)::int as runs from flowcraft_statuses`
	// Each once; and the one of the transaction.
	expect(after?.['runs'] - before?.['runs']).toBe(19 + 1)
})

test('who finds the queue of statements full is refused at once', async () => {
	const gate = new StatementGate({ slots: 1, maxWaiting: 2, deadlineMs: 60_000 })
	let letGo = (): void => {}
	const held = new Promise<void>((resolve) => {
		letGo = resolve
	})
	const admitted = Array.from({ length: 3 }, () => gate.run(() => held))
	await expect(gate.run(async () => 'late')).rejects.toThrow(/enough requests wait/)
	letGo()
	await Promise.all(admitted)
	expect(await gate.run(async () => 'fine')).toBe('fine')
})

test('a thousand requests that come in while Postgres is held leave nothing behind', async () => {
	const gate = new StatementGate({ slots: POOL, maxWaiting: 100, deadlineMs: 200 })
	let started = 0
	let underWay = 0
	let most = 0
	const never = (): Promise<string> => {
		started += 1
		most = Math.max(most, ++underWay)
		return new Promise((resolve) =>
			setTimeout(() => {
				underWay -= 1
				resolve('done')
			}, 1_000),
		)
	}
	const outcomes = await Promise.allSettled(Array.from({ length: 1_000 }, () => gate.run(never)))
	expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(0)
	expect([started, most]).toEqual([POOL, POOL])
	// Its slots come back when the statements end, not before.
	await waitFor('the statements', () => underWay === 0)
	expect(await gate.run(async () => 'again')).toBe('again')
})

test('a statement that cannot even be begun gives its slot back', async () => {
	const gate = new StatementGate({ slots: 1, maxWaiting: 0, deadlineMs: 1_000 })
	for (let i = 0; i < 3; i++) {
		await expect(
			gate.run(() => {
				throw new TypeError('broken')
			}),
		).rejects.toThrow('broken')
	}
	expect(await gate.run(async () => 'fine')).toBe('fine')
})

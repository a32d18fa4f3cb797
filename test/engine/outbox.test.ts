import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { settleOutbox, takeOutbox } from '../../src/outbox/outbox.js'
import { cancelRun } from '../../src/run/cancel.js'
import { type Core, createCore, flow } from '../support/core.js'

let core: Core

beforeAll(async () => {
	core = await createCore()
	await core.register(flow('one', [], { a: {} }))
	await core.register(flow('two', [], { a: {}, b: {} }))
})
afterAll(() => core.drop())
beforeEach(async () => {
	await core.rows('truncate flowcraft_outbox')
})

const token = (): string => crypto.randomUUID()
const CLAIM_MS = 60_000

/** Lets all claims of relays pass. */
const expire = () =>
	core.rows(`update flowcraft_outbox set claimed_until = clock_timestamp() - interval '1 second'`)

test('of many relays that take at once, none gets a row that another one has, and none is left behind', async () => {
	await Promise.all(Array.from({ length: 150 }, () => core.start('two')))
	const taken: string[] = []
	await Promise.all(
		Array.from({ length: 8 }, async () => {
			// A relay that finds nothing for now looks again while rows are left.
			while (taken.length < 300)
				taken.push(...(await takeOutbox(core.sql, token(), 17, CLAIM_MS)).map(({ id }) => id))
		}),
	)
	expect(taken).toHaveLength(300)
	expect(new Set(taken).size).toBe(300)
})

test('a relay does not wait for rows that another one is about to take', async () => {
	await core.start('two')
	await core.sql.begin(async (tx) => {
		const [theirs] = await takeOutbox(tx, token(), 1, CLAIM_MS)
		const ours = await takeOutbox(core.sql, token(), 10, CLAIM_MS)
		expect(ours.map(({ id }) => id)).not.toContain(theirs?.id)
		expect(ours).toHaveLength(1)
	})
})

test('the oldest due rows come first, and no more than asked for', async () => {
	const runIds: string[] = []
	for (let n = 0; n < 5; n++) runIds.push(await core.start('one'))
	await core.rows(
		`update flowcraft_outbox set due_at = due_at - interval '1 hour' where run_id = $1`,
		runIds[3] as string,
	)
	const rows = await takeOutbox(core.sql, token(), 2, CLAIM_MS)
	expect(rows.map(({ key }) => key.runId).sort()).toEqual([runIds[0], runIds[3]].sort())
})

test('a row is not taken before it is due', async () => {
	await core.start('one')
	await core.rows(`update flowcraft_outbox set due_at = clock_timestamp() + interval '1 minute'`)
	expect(await takeOutbox(core.sql, token(), 10, CLAIM_MS)).toEqual([])
})

test('a row whose relay died is taken again once its claim has passed, and tells what became of its node', async () => {
	const runId = await core.start('two')
	const [first] = [await takeOutbox(core.sql, token(), 10, CLAIM_MS)]
	expect(first.map(({ reclaimed, nodeState }) => [reclaimed, nodeState])).toEqual([
		[false, null],
		[false, null],
	])
	expect(await takeOutbox(core.sql, token(), 10, CLAIM_MS)).toEqual([])
	// One message arrived before the relay died.
	await core.claimed(await core.worker(), runId, 'a')
	await expire()
	const again = await takeOutbox(core.sql, token(), 10, CLAIM_MS)
	expect(
		Object.fromEntries(
			again.map(({ key, reclaimed, nodeState }) => [key.nodeId, [reclaimed, nodeState]]),
		),
	).toEqual({
		a: [true, 'running'],
		b: [true, 'ready'],
	})
	expect(again.map(({ messageId }) => messageId).sort()).toEqual(
		first.map(({ messageId }) => messageId).sort(),
	)
})

test('what is done is deleted, what failed comes back after its delay with its failures counted', async () => {
	const runId = await core.start('two')
	const mine = token()
	const rows = await takeOutbox(core.sql, mine, 10, CLAIM_MS)
	const [done, failed] = [
		rows.find(({ key }) => key.nodeId === 'a'),
		rows.find(({ key }) => key.nodeId === 'b'),
	]
	await settleOutbox(
		core.sql,
		mine,
		[done?.id ?? ''],
		[{ id: failed?.id ?? '', delayMs: 60_000, error: 'refused\u0000' }],
	)
	expect(await core.outbox(runId)).toEqual(['b'])
	expect(await takeOutbox(core.sql, token(), 10, CLAIM_MS)).toEqual([])
	const [row] = await core.rows<{ failures: number; last_error: string; wait: number }>(
		`select failures, last_error, extract(epoch from due_at - clock_timestamp())::int as wait from flowcraft_outbox`,
	)
	expect(row).toMatchObject({ failures: 1, last_error: 'refused' })
	expect(row?.wait).toBeGreaterThan(55)
	await core.rows('update flowcraft_outbox set due_at = clock_timestamp()')
	// It is no reclaimed row: its relay has said what became of it.
	expect(await takeOutbox(core.sql, token(), 10, CLAIM_MS)).toMatchObject([
		{ reclaimed: false, failures: 1, messageId: failed?.messageId },
	])
})

test('a relay that comes too late settles nothing that another one has taken since', async () => {
	await core.start('two')
	const [slow, quick] = [token(), token()]
	const rows = await takeOutbox(core.sql, slow, 10, CLAIM_MS)
	await expire()
	await takeOutbox(core.sql, quick, 10, CLAIM_MS)
	await settleOutbox(
		core.sql,
		slow,
		[rows[0]?.id ?? ''],
		[{ id: rows[1]?.id ?? '', delayMs: 0, error: '' }],
	)
	const left = await core.rows('select claim_token, failures from flowcraft_outbox')
	expect(left).toEqual([
		{ claim_token: quick, failures: 0 },
		{ claim_token: quick, failures: 0 },
	])
	await settleOutbox(
		core.sql,
		quick,
		rows.map(({ id }) => id),
		[],
	)
	expect(await core.rows('select 1 from flowcraft_outbox')).toEqual([])
})

test('settling does not wait for a row that a cancel is about to delete, so that the two never deadlock', async () => {
	const runId = await core.start('two')
	const mine = token()
	const rows = await takeOutbox(core.sql, mine, 10, CLAIM_MS)
	const [first, second] = rows.map(({ id }) => id) as [string, string]
	await core.sql.begin(async (tx) => {
		await tx`select from flowcraft_outbox where id = ${first} for update`
		await settleOutbox(core.sql, mine, [first, second], [])
		await settleOutbox(core.sql, mine, [], [{ id: first, delayMs: 0, error: '' }])
	})
	expect(await core.rows('select id::text as id, failures from flowcraft_outbox')).toEqual([
		{ id: first, failures: 0 },
	])
	await cancelRun(core.sql, runId)
	expect(await core.outbox(runId)).toEqual([])
})

test('relays at work and cancels at once leave no row of a cancelled run, and never deadlock', async () => {
	for (let round = 0; round < 20; round++) {
		const runIds = await Promise.all(Array.from({ length: 10 }, () => core.start('two')))
		const relay = async (): Promise<void> => {
			const mine = token()
			const rows = await takeOutbox(core.sql, mine, 50, CLAIM_MS)
			// Some confirmed, some not, in any order.
			const ids = rows.map(({ id }) => id).reverse()
			await settleOutbox(
				core.sql,
				mine,
				ids.slice(0, 25),
				ids.slice(25).map((id) => ({ id, delayMs: 0, error: 'nack' })),
			)
		}
		await Promise.all([relay(), ...runIds.map((runId) => cancelRun(core.sql, runId)), relay(), relay()])
		expect(await core.rows('select 1 from flowcraft_outbox')).toEqual([])
	}
})

/** How an idle relay is woken through Postgres, and that nobody is notified while none sleeps. */
import { PgDialect } from 'drizzle-orm/pg-core'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { type Executor, query, type Row } from '../../src/db/query.js'
import type { Broker, OutboundMessage, PublishOutcome } from '../../src/ports/broker.js'
import { type Doorbell, noDoorbell } from '../../src/ports/doorbell.js'
import { noLogger } from '../../src/ports/logger.js'
import { type OutboxRow, takeOutbox } from '../../src/outbox/outbox.js'
import { pauseRun, unpauseRun } from '../../src/run/pause.js'
import { startRun } from '../../src/run/start.js'
import { createInProcessBroker } from '../../worker/broker/in-process.js'
import { type Alarm, createAlarm } from '../../worker/relay/alarm.js'
import { createRelay, type Relay, type RelayOptions } from '../../worker/relay/relay.js'
import { type Core, createCore, flow } from '../support/core.js'
import { waitFor } from '../support/wait-for.js'

let core: Core
beforeAll(async () => {
	core = await createCore()
	await core.register(flow('one', [], { a: {} }))
})
afterAll(() => core.drop())

const dialect = new PgDialect()
const open: Alarm[] = []
afterEach(async () => {
	await Promise.all(open.splice(0).map((alarm) => alarm.close()))
})

function alarm(): Alarm & { woken: () => number } {
	let times = 0
	const made = createAlarm({
		databaseUrl: core.url,
		onWake: () => void times++,
		onLost: () => {},
		logger: noLogger,
	})
	open.push(made)
	return { ...made, woken: () => times }
}

const start = (): Promise<unknown> => startRun(core.sql, { blueprint: 'one' })
/** How many hold the lock that says that a relay sleeps. */
async function sleepers(): Promise<unknown> {
	const [row] = await core.rows(
		`select count(*)::int as sleepers from pg_locks l join pg_database d on d.oid = l.database
		where d.datname = current_database() and l.locktype = 'advisory' and l.mode = 'ExclusiveLock' and l.granted`,
	)
	return row?.['sleepers']
}
/** The session of the one. */
async function sleeper(): Promise<unknown> {
	const [row] = await core.rows(
		`select pid from pg_locks l join pg_database d on d.oid = l.database
		where d.datname = current_database() and l.locktype = 'advisory' and l.mode = 'ExclusiveLock' and l.granted`,
	)
	return row?.['pid']
}
/** It looks by itself once an hour. */
const sleepyRelay = (broker: Broker, more: Partial<RelayOptions> = {}): Relay =>
	createRelay({
		db: core.sql,
		databaseUrl: core.url,
		broker,
		doorbell: noDoorbell,
		logger: noLogger,
		queue: 'jobs',
		minPollMs: 3_600_000,
		maxPollMs: 3_600_000,
		...more,
	})
const untilAsleep = (): Promise<unknown> => waitFor('the alarm', async () => (await sleepers()) === 1)
/** Longer than a notification takes. */
const pause = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 100))

test('a start wakes who has armed the alarm, and nobody before and after', async () => {
	const relay = alarm()
	await start()
	expect(await relay.arm()).toBe(true)
	await pause()
	expect(relay.woken()).toBe(0)
	await start()
	await waitFor('the notification', () => relay.woken() === 1)
	await relay.disarm()
	await start()
	await pause()
	expect(relay.woken()).toBe(1)
	expect(await relay.arm()).toBe(true)
	await start()
	await waitFor('the notification', () => relay.woken() === 2)
})

test('while no relay sleeps nobody notifies', async () => {
	let notified = 0
	const { unlisten } = await core.sql.listen('flowcraft_outbox', () => void notified++)
	try {
		await start()
		const relay = alarm()
		expect(await relay.arm()).toBe(true)
		await start()
		await waitFor('the notification', () => notified === 1)
		await relay.disarm()
		await start()
		await pause()
		expect(notified).toBe(1)
	} finally {
		await unlisten()
	}
})

test('one relay at a time sleeps under the alarm', async () => {
	const [first, second] = [alarm(), alarm()]
	expect(await first.arm()).toBe(true)
	expect(await second.arm()).toBe(false)
	await first.disarm()
	expect(await second.arm()).toBe(true)
	await start()
	await waitFor('the notification', () => second.woken() === 1)
	expect(first.woken()).toBe(0)
})

test('who begins to write before the alarm is armed cannot be missed: it is not armed until he has committed', async () => {
	const relay = alarm()
	await core.sql.begin(async (tx) => {
		await startRun(tx, { blueprint: 'one' })
		expect(await relay.arm()).toBe(false)
	})
	expect(await relay.arm()).toBe(true)
})

test('a session that is lost gives the alarm free, and the next one works', async () => {
	const [first, second] = [alarm(), alarm()]
	expect(await first.arm()).toBe(true)
	await core.rows(
		`select pg_terminate_backend(pid) from pg_stat_activity
		where application_name = 'flowcraft-relay-alarm' and datname = current_database()`,
	)
	await waitFor('the alarm', () => second.arm())
	await start()
	await waitFor('the notification', () => second.woken() === 1)
	// The first one knows nothing of it, and sleeps on without; it may ask again later.
	await second.disarm()
	await first.disarm()
	await waitFor('the alarm', () => first.arm(), { deadlineMs: 20_000 })
})

test('without Postgres there is no alarm, and nobody waits for one', async () => {
	const dead = createAlarm({
		databaseUrl: 'postgres://nobody@127.0.0.1:1/none',
		onWake: () => {},
		onLost: () => {},
		logger: noLogger,
	})
	open.push(dead)
	expect(await dead.arm()).toBe(false)
	await dead.disarm()
})

test('a relay that looks by itself once an hour publishes at once what is started, again and again', async () => {
	await core.rows('delete from flowcraft_outbox')
	const broker = createInProcessBroker({ queues: ['jobs'] })
	const relay = sleepyRelay(broker)
	relay.start()
	try {
		await untilAsleep()
		for (let runs = 1; runs <= 5; runs++) {
			await start()
			await waitFor('the message', () => relay.counts().published === runs)
			// It looks once more, finds nothing and sleeps again.
			await untilAsleep()
		}
	} finally {
		await relay.stop()
		await broker.close()
	}
	expect(await sleepers()).toBe(0)
})

test('a message that comes alone leaves the alarm armed, and when there is more to do nobody is notified any more', async () => {
	await core.rows('delete from flowcraft_outbox')
	const broker = createInProcessBroker({ queues: ['jobs'] })
	const relay = sleepyRelay({
		...broker,
		publish: async (messages) => {
			await new Promise((resolve) => setTimeout(resolve, 50))
			return broker.publish(messages)
		},
	})
	let notified = 0
	const { unlisten } = await core.sql.listen('flowcraft_outbox', () => void notified++)
	relay.start()
	try {
		await untilAsleep()
		const armedBy = (): Promise<unknown> =>
			core.rows(`select pid, backend_start::text from pg_stat_activity
				where application_name = 'flowcraft-relay-alarm' and query not like 'unlisten%'`)
		const before = await armedBy()
		await start()
		await waitFor('the message', () => relay.counts().published === 1)
		expect(await sleepers()).toBe(1)
		expect(await armedBy()).toEqual(before)
		expect(notified).toBe(1)

		let starts = 0
		await waitFor('the alarm to be disarmed', async () => {
			await start()
			starts += 1
			return (await sleepers()) === 0
		})
		const untilThen = notified
		for (let more = 0; more < 5; more++) await start()
		await waitFor('the messages', () => relay.counts().published === 1 + starts + 5)
		expect(notified).toBeLessThanOrEqual(untilThen + 1)
	} finally {
		await unlisten()
		await relay.stop()
		await broker.close()
	}
})

describe('a start that wakes a sleeping relay', () => {
	let published: OutboundMessage[]
	let relay: Relay | undefined
	/** Looks at the outbox wait while this is true. */
	let isHeld: boolean
	let held: (() => void)[]
	let wake: () => void

	/** A relay that sleeps, on a broker whose verdicts are `answer` if that is given. */
	async function begin(answer?: PublishOutcome): Promise<void> {
		await core.rows('delete from flowcraft_outbox')
		published = []
		isHeld = false
		held = []
		const broker = createInProcessBroker({ queues: ['jobs'] })
		const db: Executor = {
			async execute(statement) {
				const { sql, params } = dialect.sqlToQuery(statement)
				if (isHeld && sql.includes('flowcraft_take_outbox'))
					await new Promise<void>((resolve) => void held.push(resolve))
				return query(core.sql, sql, params as string[])
			},
		}
		const doorbell: Doorbell = {
			...noDoorbell,
			listen(onRing) {
				wake = () => onRing({ type: 'outbox' })
				return () => {}
			},
		}
		const publish: Broker['publish'] = async (messages) => {
			published.push(...messages)
			return answer === undefined ? broker.publish(messages) : messages.map(() => answer)
		}
		relay = sleepyRelay({ ...broker, publish }, { db, doorbell })
		relay.start()
		await untilAsleep()
	}
	const letLooksGo = (): void => {
		isHeld = false
		for (const go of held.splice(0)) go()
	}
	afterEach(async () => {
		letLooksGo()
		await relay?.stop()
		relay = undefined
	})

	const outbox = (): Promise<Row[]> =>
		core.rows('select failures, last_error, claim_token is not null as taken from flowcraft_outbox')
	const untilDone = (): Promise<unknown> =>
		waitFor('the outbox to be empty', async () => (await outbox()).length === 0)
	const publishedNodes = (): unknown[] => published.map(({ body }) => JSON.parse(body).nodeId)
	const take = (): Promise<OutboxRow[]> => takeOutbox(core.sql, crypto.randomUUID(), 10, 60_000)

	test('is published without a look at the outbox, once, with all that a message has', async () => {
		await begin()
		isHeld = true
		const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
		const { runId } = await startRun(core.sql, { blueprint: 'one', traceparent })
		await untilDone()
		letLooksGo()
		await pause()
		expect(published).toMatchObject([{ routingKey: 'jobs', headers: { traceparent } }])
		expect(JSON.parse(published[0]?.body ?? '')).toEqual({ runId, blueprintId: 'one', nodeId: 'a' })
	})

	test('has each of its first nodes published once, however many they are', async () => {
		for (const width of [10, 11]) {
			const nodes = Object.fromEntries(Array.from({ length: width }, (_, i) => [`n${i}`, {}]))
			await core.register(flow(`wide-${width}`, [], nodes))
			await begin()
			await startRun(core.sql, { blueprint: `wide-${width}` })
			await untilDone()
			await pause()
			expect(publishedNodes().toSorted()).toEqual(Object.keys(nodes).toSorted())
			await relay?.stop()
		}
	})

	test('may have ids that no notification could hold', async () => {
		const nodes = Object.fromEntries(Array.from({ length: 10 }, (_, i) => [`${i}${'ü'.repeat(250)}`, {}]))
		await core.register(flow('wordy', [], nodes))
		await begin()
		await startRun(core.sql, { blueprint: 'wordy', runId: 'ö'.repeat(250) })
		await untilDone()
		expect(publishedNodes().toSorted()).toEqual(Object.keys(nodes).toSorted())
	})

	test('is tried again later if the broker refuses it', async () => {
		await begin({ status: 'failed', reason: 'nack' })
		await start()
		await waitFor('the answer in the outbox', async () => (await outbox())[0]?.['failures'] === 1)
		expect(await outbox()).toEqual([{ failures: 1, last_error: 'failed: nack', taken: false }])
		expect(published).toHaveLength(1)
	})

	test('is taken for that relay, and by another one a second later if it never answers', async () => {
		await core.rows('delete from flowcraft_outbox')
		expect(await alarm().arm()).toBe(true)
		await start()
		expect(await outbox()).toMatchObject([{ taken: true }])
		expect(await take()).toEqual([])
		const rows = await waitFor('the end of the claim', async () => {
			const taken = await take()
			return taken.length > 0 ? taken : undefined
		})
		expect(rows).toMatchObject([{ reclaimed: true, nodeState: 'ready' }])
	})

	test('has its rows taken for the relay once in a transaction, and the other starts are found by looking', async () => {
		await begin()
		isHeld = true
		await core.sql.begin(async (tx) => {
			for (let starts = 0; starts < 5; starts++) await startRun(tx, { blueprint: 'one' })
			const taken =
				await tx`select count(*)::int as rows from flowcraft_outbox where claim_token is not null`
			expect(taken).toEqual([{ rows: 1 }])
		})
		await waitFor('the first one', () => published.length === 1)
		letLooksGo()
		await untilDone()
		expect(published).toHaveLength(5)
	})

	test('whose transaction took longer than its claim is found by looking, and published once', async () => {
		await begin()
		await core.sql.begin(async (tx) => {
			await startRun(tx, { blueprint: 'one' })
			await new Promise((resolve) => setTimeout(resolve, 1_050))
		})
		await untilDone()
		await pause()
		expect(published).toHaveLength(1)
	})

	test('is published once, also beside a look that began before it', async () => {
		await begin()
		isHeld = true
		wake()
		await waitFor('the look', () => held.length > 0)
		await start()
		await pause()
		letLooksGo()
		await untilDone()
		await pause()
		expect(published).toHaveLength(1)
	})

	test('and is paused and unpaused before its message is confirmed goes on all the same', async () => {
		await begin()
		isHeld = true
		const { runId } = await startRun(core.sql, { blueprint: 'one' })
		await pauseRun(core.sql, runId)
		await unpauseRun(core.sql, runId)
		letLooksGo()
		await waitFor('a message after the unpause', () => published.length > 1)
	})

	test('is published by a relay that stops at that moment', async () => {
		await begin()
		for (let starts = 1; starts <= 20; starts++) {
			await start()
			await relay?.stop()
			expect((await outbox()).filter(({ taken }) => taken)).toEqual([])
			await begin()
		}
	})

	test('is not made up by somebody who may only notify', async () => {
		await begin()
		const { runId } = await startRun(core.sql, { blueprint: 'one' })
		await untilDone()
		await untilAsleep()
		isHeld = true
		const due = "clock_timestamp() + interval '1 hour'"
		const [row] = await core.rows<{ id: string; message_id: string }>(
			`insert into flowcraft_outbox (run_id, node_id, blueprint_id, due_at) values ($1, 'a', 'one', ${due})
			returning id::text, message_id`,
			runId,
		)
		const { id, message_id: messageId } = row as { id: string; message_id: string }
		const forged = { id, messageId, runId, nodeId: 'a', blueprintId: 'one', traceparent: null }
		await core.rows(
			"select pg_notify('flowcraft_outbox', $1)",
			JSON.stringify({
				for: await sleeper(),
				at: Date.now(),
				token: crypto.randomUUID(),
				rows: [forged],
			}),
		)
		await waitFor('the wasted message', () => published.length === 2)
		await pause()
		expect(await outbox()).toHaveLength(1)
	})
})

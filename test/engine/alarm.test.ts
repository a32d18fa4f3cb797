/** How an idle relay is woken through Postgres, and that nobody is notified while none sleeps. */
import { PgDialect } from 'drizzle-orm/pg-core'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { type Executor, query, type Row } from '../../src/db/query.js'
import type { Broker, OutboundMessage, PublishOutcome } from '../../src/ports/broker.js'
import { type Doorbell, noDoorbell } from '../../src/ports/doorbell.js'
import { noLogger } from '../../src/ports/logger.js'
import { takeOutbox } from '../../src/outbox/outbox.js'
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
	interface Published extends OutboundMessage {
		/** Whether some relay had taken its row then. */
		readonly isTaken: unknown
	}
	let published: Published[]
	let relay: Relay | undefined

	/** A relay that sleeps. */
	async function begin(answer?: PublishOutcome, more: Partial<RelayOptions> = {}): Promise<void> {
		await core.rows('delete from flowcraft_outbox')
		published = []
		const broker = createInProcessBroker({ queues: ['jobs'] })
		relay = sleepyRelay(
			{
				...broker,
				async publish(messages) {
					for (const message of messages) {
						const [row] = await core.rows(
							'select claim_token is not null as taken from flowcraft_outbox where message_id = $1::text::uuid',
							message.messageId,
						)
						published.push({ ...message, isTaken: row?.['taken'] })
					}
					return answer === undefined ? broker.publish(messages) : messages.map(() => answer)
				},
			},
			more,
		)
		relay.start()
		await untilAsleep()
	}
	const untilDone = (): Promise<unknown> =>
		waitFor('the outbox to be empty', async () => (await outbox()).length === 0)
	const outbox = (): Promise<Row[]> =>
		core.rows('select failures, last_error, claim_token from flowcraft_outbox')
	const publishedNodes = (): unknown[] => published.map(({ body }) => JSON.parse(body).nodeId)

	afterEach(() => relay?.stop())

	test('is published before anybody has looked for its row, once, with all that a message has', async () => {
		await begin()
		const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
		const { runId } = await startRun(core.sql, { blueprint: 'one', traceparent })
		await untilDone()
		await pause()
		expect(published).toMatchObject([{ routingKey: 'jobs', headers: { traceparent }, isTaken: false }])
		expect(JSON.parse(published[0]?.body ?? '')).toEqual({ runId, blueprintId: 'one', nodeId: 'a' })
	})

	test('has each of its first nodes published once, however many they are', async () => {
		const nodes = Object.fromEntries(Array.from({ length: 25 }, (_, i) => [`n${i}`, {}]))
		await core.register(flow('many', [], nodes))
		await begin()
		await startRun(core.sql, { blueprint: 'many' })
		await untilDone()
		expect(publishedNodes().toSorted()).toEqual(Object.keys(nodes).toSorted())
		expect(published.some(({ isTaken }) => isTaken === false)).toBe(true)
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
		await waitFor('the answer', () => relay?.counts().failed === 1)
		await waitFor('the answer in the outbox', async () => (await outbox())[0]?.['failures'] === 1)
		expect(await outbox()).toEqual([{ failures: 1, last_error: 'failed: nack', claim_token: null }])
		expect(published).toHaveLength(1)
	})

	test('is left to who has taken it meanwhile', async () => {
		const other = crypto.randomUUID()
		const broker = createInProcessBroker({ queues: ['jobs'] })
		await begin(undefined, {
			broker: {
				...broker,
				async publish(messages) {
					await takeOutbox(core.sql, other, 10, 60_000)
					return broker.publish(messages)
				},
			},
		})
		await start()
		await waitFor('the message', () => relay?.counts().published === 1)
		await pause()
		expect(await outbox()).toEqual([{ failures: 0, last_error: null, claim_token: other }])
	})

	test('is not published beside a look that finds it', async () => {
		let wake = (): void => {}
		const doorbell: Doorbell = {
			...noDoorbell,
			listen(onRing) {
				wake = () => onRing({ type: 'outbox' })
				return () => {}
			},
		}
		const held: (() => void)[] = []
		let isHeld = false
		await begin(undefined, { doorbell, db: holding(() => isHeld, held) })
		isHeld = true
		wake()
		await waitFor('the look', () => held.length > 0)
		await start()
		await pause()
		expect(published).toEqual([])
		isHeld = false
		for (const go of held) go()
		await untilDone()
		await pause()
		expect(published).toMatchObject([{ isTaken: true }])
	})

	/** Looks at the outbox wait until they are let go. */
	const holding = (isHeld: () => boolean, held: (() => void)[]): Executor => ({
		async execute(statement) {
			const { sql, params } = dialect.sqlToQuery(statement)
			if (isHeld() && sql.includes('flowcraft_take_outbox'))
				await new Promise<void>((resolve) => void held.push(resolve))
			return query(core.sql, sql, params as string[])
		},
	})
})

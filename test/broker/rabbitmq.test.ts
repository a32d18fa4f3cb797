import { randomUUID } from 'node:crypto'
import { type Channel, type ChannelModel } from 'amqplib'
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import type {
	Broker,
	Delivery,
	OutboundMessage,
	PublishOutcome,
	Subscription,
} from '../../src/ports/broker.js'
import { type Logger, noLogger } from '../../src/ports/logger.js'
import { createRabbitMqBroker, type RabbitMqBrokerOptions } from '../../worker/broker/rabbitmq.js'
import { rabbitMq } from '../support/services/index.js'
import { startProxy, type TcpProxy } from '../support/tcp-proxy.js'
import { waitFor } from '../support/wait-for.js'
import { connectForTest, RabbitMqAdmin } from './rabbitmq-admin.js'

let url: string
let admin: RabbitMqAdmin
let queue: string
let jobsExchange: string
let brokers: Broker[]
let proxy: TcpProxy

beforeAll(async () => {
	url = (await rabbitMq()).url
	admin = new RabbitMqAdmin(url)
})

beforeEach(async () => {
	queue = `test-${randomUUID()}`
	jobsExchange = `${queue}-jobs`
	brokers = []
	proxy = await startProxy(url)
})

afterEach(async () => {
	proxy.resume()
	await Promise.all(brokers.map((broker) => broker.close()))
	await proxy.close()
	await admin.remove(jobsExchange, [queue])
})

const open = (options: Partial<RabbitMqBrokerOptions> = {}): Broker => {
	const server = options.url ?? options.urls ?? options.connection
	const broker = createRabbitMqBroker({
		...(server === undefined ? { url } : {}),
		queues: [queue],
		jobsExchange,
		minBackoffMs: 20,
		maxBackoffMs: 200,
		idleCheckMs: 300,
		closeTimeoutMs: 1_000,
		logger: noLogger,
		...options,
	})
	brokers.push(broker)
	return broker
}

const message = (id: string, rest: Partial<OutboundMessage> = {}): OutboundMessage => ({
	messageId: id,
	routingKey: queue,
	body: `{"id":"${id}"}`,
	...rest,
})
const messages = (count: number, rest: Partial<OutboundMessage> = {}): OutboundMessage[] =>
	Array.from({ length: count }, (_, index) => message(`m${index}`, rest))
const statusOf = (outcomes: readonly PublishOutcome[]): string[] => outcomes.map((outcome) => outcome.status)
const reasonsOf = (outcomes: readonly PublishOutcome[]): string[] => [
	...new Set(outcomes.flatMap((outcome) => ('reason' in outcome ? [outcome.reason] : []))),
]
const untilConnected = (broker: Broker): Promise<unknown> =>
	waitFor('a connection', () => broker.isConnected())
/** Publishes until it succeeds, as the relay does. */
const publishUntilConfirmed = (broker: Broker, ...batch: OutboundMessage[]): Promise<unknown> =>
	waitFor('a confirmed publication', () => broker.publish(batch), {
		until: (outcomes) => outcomes.every((outcome) => outcome.status === 'confirmed'),
	})

class Recorder implements Logger {
	readonly lines: { level: string; message: string; fields: Readonly<Record<string, unknown>> }[] = []
	readonly #write =
		(level: string) =>
		(text: string, fields: Readonly<Record<string, unknown>> = {}) => {
			this.lines.push({ level, message: text, fields })
		}
	readonly debug = this.#write('debug')
	readonly info = this.#write('info')
	readonly warn = this.#write('warn')
	readonly error = this.#write('error')
}

interface Inbox {
	readonly deliveries: Delivery[]
	readonly ids: (string | undefined)[]
	readonly subscription: Subscription
}

const consume = async (
	broker: Broker,
	onDelivery: (delivery: Delivery) => void = (delivery) => delivery.ack(),
	prefetch = 10,
	from = queue,
): Promise<Inbox> => {
	const deliveries: Delivery[] = []
	const subscription = await broker.consume({
		queue: from,
		prefetch,
		onDelivery(delivery) {
			deliveries.push(delivery)
			onDelivery(delivery)
		},
	})
	return {
		deliveries,
		subscription,
		get ids() {
			return deliveries.map((delivery) => delivery.messageId)
		},
	}
}

describe('Publishing to RabbitMQ', () => {
	it('answers failed for what has no verdict when the connection is cut in mid-batch, and publishes on the next one', async () => {
		const broker = open({ url: proxy.url })
		await publishUntilConfirmed(broker, message('first'))
		// The messages arrive, the verdicts do not.
		proxy.pause('to client')
		const publishing = broker.publish(messages(200))
		await waitFor('the messages', () => admin.do((channel) => channel.checkQueue(queue)), {
			until: ({ messageCount }) => messageCount === 201,
		})
		proxy.cut()
		const outcomes = await publishing
		expect(new Set(statusOf(outcomes))).toEqual(new Set(['failed']))
		proxy.resume()
		await publishUntilConfirmed(broker, ...messages(200))
		expect(proxy.accepted).toBeGreaterThan(1)
	})

	it('answers failed at the deadline when the broker is silent, and later verdicts are not taken for those of a new message', async () => {
		const broker = open({ url: proxy.url, confirmTimeoutMs: 300 })
		await publishUntilConfirmed(broker, message('first'))
		// The return of "a" is on its way when a queue for it appears and it is published again.
		const lateQueue = `${queue}-late`
		proxy.pause('to client')
		const batch = [message('a', { routingKey: lateQueue }), message('b')]
		const outcomes = await broker.publish(batch)
		expect(statusOf(outcomes)).toEqual(['failed', 'failed'])
		expect(reasonsOf(outcomes)).toEqual(['no answer from RabbitMQ within 300 ms'])
		await admin.declareQueue(lateQueue, { durable: true })
		await admin.do((channel) => channel.bindQueue(lateQueue, jobsExchange, lateQueue))
		const again = broker.publish(batch)
		proxy.resume()
		expect(statusOf(await again)).toEqual(['confirmed', 'confirmed'])
		await admin.deleteQueue(lateQueue)
	})

	it('does not let a batch without an answer fail another one', async () => {
		const broker = open({ url: proxy.url, confirmTimeoutMs: 1_000 })
		await publishUntilConfirmed(broker, message('first'))
		proxy.pause('to client')
		const early = broker.publish(messages(10))
		const startedAt = performance.now()
		await waitFor('a later deadline of the second batch', () => performance.now() - startedAt > 500)
		const late = broker.publish(messages(10))
		expect(new Set(statusOf(await early))).toEqual(new Set(['failed']))
		proxy.resume()
		expect(new Set(statusOf(await late))).toEqual(new Set(['confirmed']))
	})

	it('answers unroutable when the queue has been deleted, and declares it for the next message', async () => {
		const broker = open()
		await publishUntilConfirmed(broker, message('first'))
		await admin.deleteQueue(queue)
		expect(statusOf(await broker.publish(messages(3)))).toEqual([
			'unroutable',
			'unroutable',
			'unroutable',
		])
		expect(statusOf(await broker.publish([message('again')]))).toEqual(['confirmed'])
	})

	it('declares the jobs exchange again when it has been deleted', async () => {
		const broker = open()
		await publishUntilConfirmed(broker, message('first'))
		await admin.deleteExchange(jobsExchange)
		expect(statusOf(await broker.publish([message('lost')]))).toEqual(['failed'])
		expect(statusOf(await broker.publish([message('again')]))).toEqual(['confirmed'])
	})

	it('publishes persistent to an exchange of the user, to whatever is bound there', async () => {
		const exchange = `${queue}-events`
		await admin.do((channel) => channel.assertExchange(exchange, 'topic', { durable: true }))
		await admin.declareQueue(`${queue}-audit`, { durable: true })
		await admin.do((channel) => channel.bindQueue(`${queue}-audit`, exchange, 'order.*'))
		const broker = open()
		const outcomes = await broker.publish([
			message('a', { exchange, routingKey: 'order.paid', headers: { tenant: 't1' } }),
			message('b', { exchange, routingKey: 'nobody.listens' }),
		])
		expect(statusOf(outcomes)).toEqual(['confirmed', 'unroutable'])
		const got = await admin.do((channel) => channel.get(`${queue}-audit`, { noAck: true }))
		expect(got).toMatchObject({
			content: Buffer.from('{"id":"a"}'),
			properties: {
				messageId: 'a',
				deliveryMode: 2,
				headers: { tenant: 't1' },
				contentType: 'application/json',
			},
		})
		await admin.deleteQueue(`${queue}-audit`)
		await admin.deleteExchange(exchange)
	})

	it('fails only the messages to an exchange that does not exist', async () => {
		const exchange = `${queue}-events`
		await admin.do((channel) => channel.assertExchange(exchange, 'fanout'))
		await admin.do((channel) => channel.assertQueue(`${queue}-audit`))
		await admin.do((channel) => channel.bindQueue(`${queue}-audit`, exchange, ''))
		const broker = open()
		const batch = Array.from({ length: 30 }, (_, index) => [
			message(`job${index}`),
			message(`lost${index}`, { exchange: 'no-such-exchange' }),
			message(`event${index}`, { exchange }),
		]).flat()
		for (let round = 0; round < 3; round += 1) {
			const outcomes = await broker.publish(batch)
			expect(statusOf(outcomes)).toEqual(
				Array.from({ length: 30 }, () => ['confirmed', 'failed', 'confirmed']).flat(),
			)
			expect(reasonsOf(outcomes)).toEqual([expect.stringContaining("no exchange 'no-such-exchange'")])
		}
		await admin.deleteQueue(`${queue}-audit`)
		await admin.deleteExchange(exchange)
	})

	it('publishes to more exchanges than it keeps channels open for', async () => {
		const exchanges = Array.from({ length: 20 }, (_, index) => `${queue}-events-${index}`)
		for (const exchange of exchanges)
			await admin.do((channel) => channel.assertExchange(exchange, 'fanout'))
		const broker = open()
		for (let round = 0; round < 2; round += 1) {
			const outcomes = await broker.publish(exchanges.map((exchange) => message('a', { exchange })))
			expect(new Set(statusOf(outcomes))).toEqual(new Set(['unroutable']))
		}
		for (const exchange of exchanges) await admin.deleteExchange(exchange)
	})

	it('answers failed for what a full queue refuses', async () => {
		const broker = open({ queueArguments: { 'x-max-length': 5, 'x-overflow': 'reject-publish' } })
		const refused = await waitFor('a refusal', async () =>
			(await broker.publish([message('a')])).find((outcome) => outcome.status === 'failed'),
		)
		expect(refused).toMatchObject({ status: 'failed', reason: expect.stringContaining('nack') })
		// In one batch some may be taken before the queue notices; what is answered must be true all the same.
		const outcomes = await broker.publish(messages(100))
		expect(statusOf(outcomes)).toContain('failed')
	})

	it('fails a message that cannot be sent at all, and no other', async () => {
		const broker = open()
		const outcomes = await broker.publish([
			message('a'),
			message('too large', { body: 'x'.repeat(16 * 1024 * 1024 + 1) }),
			message('name too long', { routingKey: 'x'.repeat(256) }),
			message('headers too large', { headers: { big: 'x'.repeat(100_000) } }),
			message('b'),
		])
		expect(statusOf(outcomes)).toEqual(['confirmed', 'failed', 'failed', 'failed', 'confirmed'])
	})

	it('waits for room when it has more to write than the connection takes', async () => {
		const broker = open({ url: proxy.url, confirmTimeoutMs: 20_000 })
		await publishUntilConfirmed(broker, message('first'))
		const outcomes = await broker.publish(messages(5_000, { body: 'x'.repeat(2_000) }))
		expect(new Set(statusOf(outcomes))).toEqual(new Set(['confirmed']))
	})

	it('answers failed at the deadline when the connection takes nothing', async () => {
		const broker = open({ url: proxy.url, confirmTimeoutMs: 500 })
		await publishUntilConfirmed(broker, message('first'))
		proxy.pause('to server')
		const outcomes = await broker.publish(messages(4_000, { body: 'x'.repeat(4_000) }))
		expect(new Set(statusOf(outcomes))).toEqual(new Set(['failed']))
	})

	it('delivers the outstanding verdicts before it closes', async () => {
		const broker = open()
		await untilConnected(broker)
		const publishing = broker.publish(messages(500))
		await broker.close()
		expect(new Set(statusOf(await publishing))).toEqual(new Set(['confirmed']))
	})

	it('closes in time when the broker is silent', async () => {
		const broker = open({ url: proxy.url, closeTimeoutMs: 200 })
		await publishUntilConfirmed(broker, message('first'))
		await consume(broker)
		proxy.pause()
		const publishing = broker.publish(messages(5))
		await broker.close()
		expect(new Set(statusOf(await publishing))).toEqual(new Set(['failed']))
	})
})

describe('A connection to RabbitMQ', () => {
	it('answers failed, and no depth, while the broker cannot be reached, and serves as soon as it can', async () => {
		proxy.refuse()
		const broker = open({ url: proxy.url, readyTimeoutMs: 100 })
		const inbox = await consume(broker)
		expect(broker.isConnected()).toBe(false)
		const outcomes = await broker.publish([message('a')])
		expect(outcomes).toEqual([{ status: 'failed', reason: expect.stringContaining('ECONNREFUSED') }])
		await expect(broker.depth(queue)).resolves.toBeUndefined()
		await proxy.accept()
		await publishUntilConfirmed(broker, message('b'))
		await waitFor('the delivery', () => inbox.ids.includes('b'))
		expect(broker.isConnected()).toBe(true)
	})

	it('gives up a server that accepts and says nothing, and tries again', async () => {
		proxy.blackhole()
		const broker = open({ url: proxy.url, connectTimeoutMs: 200, readyTimeoutMs: 100 })
		await waitFor('further attempts', () => proxy.accepted >= 3)
		proxy.cut()
		proxy.resume()
		await publishUntilConfirmed(broker, message('a'))
		expect(broker.isConnected()).toBe(true)
	})

	it('says why it cannot connect, and again after ever more failures', async () => {
		const warned: { error: unknown; failures: unknown }[] = []
		const warn: Logger['warn'] = (_, { error, failures } = {}) => void warned.push({ error, failures })
		const refused = new URL(url)
		refused.pathname = '/nowhere'
		open({ url: refused.href, logger: { ...noLogger, warn }, minBackoffMs: 1, maxBackoffMs: 1 })
		await waitFor('repeated warnings', () => warned.length >= 3)
		expect(warned.map(({ failures }) => failures)).toEqual([1, 16, 32])
		for (const { error } of warned) expect(error).toMatch(/virtual host.*may not exist/)
	})

	it('goes to the next URL when a server is away', async () => {
		proxy.refuse()
		const broker = open({ urls: [proxy.url, url] })
		expect(statusOf(await broker.publish([message('a')]))).toEqual(['confirmed'])
	})

	it('notices a peer that has gone silent by its heartbeat', async () => {
		const broker = open({ url: proxy.url, heartbeatSeconds: 1 })
		await untilConnected(broker)
		proxy.blackhole()
		await waitFor('the loss', () => !broker.isConnected())
		proxy.cut()
		proxy.resume()
		await publishUntilConfirmed(broker, message('a'))
		expect(broker.isConnected()).toBe(true)
	})

	it('logs an outage once, and never a password', async () => {
		const log = new Recorder()
		proxy.refuse()
		const wrong = new URL(proxy.url)
		wrong.password = 'secret'
		const broker = open({
			url: wrong.href,
			logger: log,
			readyTimeoutMs: 100,
		})
		await waitFor(
			'several attempts',
			() => log.lines.filter(({ message: text }) => /reached/.test(text)).length > 3,
		)
		expect(
			log.lines.filter(({ level, message: text }) => level !== 'debug' && /reached/.test(text)),
		).toHaveLength(1)
		await proxy.accept()
		await waitFor('the refusal', () =>
			log.lines.some(({ fields }) => /ACCESS.REFUSED/.test(String(fields['error']))),
		)
		expect(statusOf(await broker.publish([message('a')]))).toEqual(['failed'])
		expect(JSON.stringify(log.lines)).not.toContain('secret')
	})

	it('refuses options that cannot work, all at once', () => {
		const create = () => open({ url: 'http://x', queues: [''], deliveryLimit: 0, confirmTimeoutMs: 1.5 })
		expect(create).toThrow(/url must look like.*queue must have.*deliveryLimit.*confirmTimeoutMs/)
		expect(() => createRabbitMqBroker({ queues: [queue], logger: noLogger })).toThrow(/exactly one of/)
	})
})

describe('A queue in RabbitMQ', () => {
	it('that exists with other properties is named in one clear error, and the others work', async () => {
		const old = `${queue}-old`
		await admin.declareQueue(old, { durable: true })
		const log = new Recorder()
		const broker = open({ queues: [queue, old], logger: log, readyTimeoutMs: 5_000 })
		const inbox = await consume(broker, undefined, 10, old)
		const outcomes = await broker.publish([message('a', { routingKey: old }), message('b')])
		expect(statusOf(outcomes)).toEqual(['failed', 'confirmed'])
		expect(reasonsOf(outcomes)[0]).toMatch(
			new RegExp(`queue "${old}" exists in RabbitMQ with other properties.*QUEUE_NAME`),
		)
		await broker.publish([message('c', { routingKey: old })])
		await waitFor('the error', () => log.lines.some(({ level }) => level === 'error'))
		const errors = log.lines.filter(
			({ level, fields }) => level === 'error' && String(fields['error']).includes(old),
		)
		// One per connection: that which publishes and that which consumes.
		expect(errors.length).toBeLessThanOrEqual(2)
		expect(inbox.ids).toEqual([])
		expect(broker.isConnected()).toBe(true)
		await broker.close()
		await admin.deleteQueue(old)
		await admin.deleteQueue(`${old}.dead`)
	})

	it('is declared when the process starts, with a dead queue', async () => {
		open()
		const count = (name: string) => admin.do((channel) => channel.checkQueue(name))
		const counts = await waitFor('the queues', async () => [
			await count(queue),
			await count(`${queue}.dead`),
		])
		expect(counts.map(({ messageCount }) => messageCount)).toEqual([0, 0])
	})
})

describe('A subscription to RabbitMQ', () => {
	it('survives a lost connection, and what was unsettled comes again', async () => {
		const broker = open({ url: proxy.url })
		const hold: Delivery[] = []
		const inbox = await consume(broker, (delivery) =>
			inbox.ids.length > 2 ? delivery.ack() : hold.push(delivery),
		)
		await publishUntilConfirmed(broker, message('a'), message('b'))
		await waitFor('both', () => hold.length === 2)
		proxy.cut()
		await waitFor('both again', () => inbox.ids.length >= 4)
		expect(inbox.ids.slice(0, 4)).toEqual(['a', 'b', 'a', 'b'])
		expect(inbox.deliveries.slice(2).every((delivery) => delivery.redelivered)).toBe(true)
	})

	it('never settles a message of the new connection with a delivery of the old one', async () => {
		const broker = open({ url: proxy.url })
		const inbox = await consume(broker, () => {}, 1)
		await publishUntilConfirmed(broker, message('a'), message('b'))
		await waitFor('the first', () => inbox.deliveries.length === 1)
		proxy.cut()
		await waitFor('the first again', () => inbox.deliveries.length === 2)
		for (const verb of ['ack', 'reject', 'requeue'] as const) inbox.deliveries[0]?.[verb]()
		await publishUntilConfirmed(broker, message('c'))
		await inbox.subscription.close()
		// Had the stale ack gone through, "a" would be gone, or "b" delivered.
		expect(inbox.ids).toEqual(['a', 'a'])
		await waitFor('all three', () => broker.depth(queue), { until: (depth) => depth === 3 })
	})

	it('stays paused over a lost connection', async () => {
		const broker = open({ url: proxy.url })
		const inbox = await consume(broker)
		await publishUntilConfirmed(broker, message('a'))
		await waitFor('the first', () => inbox.ids.length === 1)
		await inbox.subscription.pause()
		proxy.cut()
		await publishUntilConfirmed(broker, message('b'))
		await waitFor('the second to wait', () => broker.depth(queue), { until: (depth) => depth === 1 })
		expect(inbox.ids).toEqual(['a'])
		await inbox.subscription.resume()
		await waitFor('the second', () => inbox.ids.includes('b'))
	})

	it('pauses and closes at once while the broker cannot be reached', async () => {
		proxy.refuse()
		const broker = open({ url: proxy.url })
		const inbox = await consume(broker)
		const before = performance.now()
		await inbox.subscription.pause()
		await inbox.subscription.resume()
		await inbox.subscription.close()
		await broker.close()
		expect(performance.now() - before).toBeLessThan(1_000)
	})

	it('declares a queue that was deleted under it, and subscribes again', async () => {
		const broker = open()
		const inbox = await consume(broker)
		await publishUntilConfirmed(broker, message('a'))
		await waitFor('the first', () => inbox.ids.length === 1)
		await admin.deleteQueue(queue)
		await waitFor('the second', async () => {
			await broker.publish([message('b')])
			return inbox.ids.includes('b')
		})
		expect(broker.isConnected()).toBe(true)
	})

	it('waits for a queue that is not its own to appear', async () => {
		const broker = open()
		const inbox = await consume(broker, undefined, 10, `${queue}-foreign`)
		await publishUntilConfirmed(broker, message('a'))
		await admin.declareQueue(`${queue}-foreign`, { durable: false })
		await admin.do(async (channel) => channel.sendToQueue(`${queue}-foreign`, Buffer.from('hello')))
		await waitFor('the delivery', () => inbox.deliveries.length === 1)
		expect(inbox.deliveries[0]).toMatchObject({ body: 'hello', messageId: undefined, headers: {} })
		await broker.close()
		await admin.deleteQueue(`${queue}-foreign`)
	})

	it('keeps its channel when a delivery is settled twice', async () => {
		const log = new Recorder()
		const broker = open({ logger: log })
		let deliveries = 0
		const inbox = await consume(broker, (delivery) => {
			// Acks are gathered, the others go out at once.
			if (deliveries++ % 2 === 0) {
				delivery.ack()
				delivery.ack()
			}
			delivery.reject()
			delivery.reject()
		})
		await publishUntilConfirmed(broker, ...messages(20))
		await waitFor('the deliveries', () => inbox.ids.length === 20)
		await inbox.subscription.close()
		expect(log.lines.filter(({ level }) => level === 'warn' || level === 'error')).toEqual([])
	})

	it('tells what RabbitMQ knows of earlier deliveries', async () => {
		const broker = open()
		const inbox = await consume(broker, (delivery) =>
			delivery.redelivered ? delivery.ack() : delivery.requeue(),
		)
		await publishUntilConfirmed(broker, message('a'))
		await waitFor('both deliveries', () => inbox.deliveries.length === 2)
		expect(inbox.deliveries[1]?.headers).toMatchObject({ 'x-delivery-count': '1' })
	})
})

describe('A RabbitMQ connection that was handed in', () => {
	let connection: ChannelModel
	/** Every channel that was opened on it. */
	let channels: Channel[]
	/** The tag of every consumer. */
	let consumerTags: string[]

	beforeEach(async () => {
		connection = await connectForTest(proxy.url)
		channels = []
		consumerTags = []
		const createChannel = connection.createChannel.bind(connection)
		connection.createChannel = async (options) => {
			const channel = await createChannel(options)
			channels.push(channel)
			const subscribe = channel.consume.bind(channel)
			channel.consume = async (...consumer) => {
				const answer = await subscribe(...consumer)
				consumerTags.push(answer.consumerTag)
				return answer
			}
			return channel
		}
	})

	afterEach(() => connection.close().catch(() => {}))

	it('serves for everything and is not closed', async () => {
		const broker = open({ connection })
		const inbox = await consume(broker)
		expect(statusOf(await broker.publish([message('a')]))).toEqual(['confirmed'])
		await waitFor('the delivery', () => inbox.ids.length === 1)
		await broker.close()
		const channel = await connection.createChannel()
		const { consumerCount } = await channel.checkQueue(queue)
		expect(consumerCount).toBe(0)
		expect(proxy.accepted).toBe(1)
	})

	it('that ends makes publications fail and is not replaced', async () => {
		const log = new Recorder()
		const broker = open({ connection, logger: log })
		await consume(broker)
		await publishUntilConfirmed(broker, message('a'))
		proxy.cut()
		await waitFor('the end', () => !broker.isConnected())
		const outcomes = await broker.publish([message('b')])
		expect(outcomes).toEqual([
			{ status: 'failed', reason: expect.stringContaining('handed in has ended') },
		])
		expect(proxy.accepted).toBe(1)
		expect(log.lines.filter(({ level }) => level === 'error')).toHaveLength(1)
		await broker.close()
	})

	it('that had ended before is noticed with the first use', async () => {
		await connection.close()
		const broker = open({ connection })
		const outcomes = await broker.publish([message('a')])
		expect(outcomes).toEqual([{ status: 'failed', reason: expect.stringContaining('onnection closed') }])
		expect(broker.isConnected()).toBe(false)
		await open().publish([message('b')])
	})

	it('whose consuming channel the server closes gets another one', async () => {
		const broker = open({ connection })
		const inbox = await consume(broker, (delivery) => delivery.ack(), 1)
		await publishUntilConfirmed(broker, message('a'))
		await waitFor('the first', () => inbox.ids.length === 1)
		// A tag that was never given out: RabbitMQ answers 406 and closes the channel.
		const fields = { deliveryTag: 999, redelivered: false, exchange: '', routingKey: '' }
		const channel = channels.at(-1)
		const closed = new Promise((resolve) => channel?.once('close', resolve))
		channel?.ack({ content: Buffer.alloc(0), fields, properties: {} as never })
		// Not sooner: amqplib gives up the whole connection when a delivery crosses with the close of its channel.
		await closed
		await publishUntilConfirmed(broker, message('b'))
		await waitFor('the second', () => inbox.ids.includes('b'))
		expect(proxy.accepted).toBe(1)
	})

	it('is subscribed on anew when the broker delivers nothing although messages wait', async () => {
		const log = new Recorder()
		const broker = open({ connection, logger: log, idleCheckMs: 50 })
		const inbox = await consume(broker)
		await publishUntilConfirmed(broker, message('a'))
		await waitFor('the first', () => inbox.ids.length === 1)
		// Behind the back of the subscription, which hears nothing of it.
		await channels.at(-1)?.cancel(consumerTags[0] ?? '')
		await publishUntilConfirmed(broker, message('b'))
		await waitFor('the second', () => inbox.ids.includes('b'))
		expect(log.lines.map(({ fields }) => fields['error'])).toContain(
			'messages wait, but RabbitMQ delivers none',
		)
	})

	it('keeps its consumer while there is nothing to deliver, or nobody settles', async () => {
		const broker = open({ connection, idleCheckMs: 10 })
		const inbox = await consume(broker, () => {}, 2)
		await waitFor('the subscription', () => consumerTags.length === 1)
		const checks = () => broker.depth(queue)
		for (let count = 0; count < 20; count += 1)
			await waitFor('an idle check or two', checks, { until: (n) => n === 0 })
		await publishUntilConfirmed(broker, ...messages(5))
		await waitFor('the deliveries', () => inbox.ids.length === 2)
		for (let count = 0; count < 20; count += 1)
			await waitFor('an idle check or two', checks, { until: (n) => n === 3 })
		expect(consumerTags).toHaveLength(1)
	})

	it('that the broker blocks counts as not connected, and publications fail in time', async () => {
		const broker = open({ connection, readyTimeoutMs: 100 })
		await publishUntilConfirmed(broker, message('a'))
		connection.emit('blocked', 'low on memory')
		expect(broker.isConnected()).toBe(false)
		await expect(broker.depth(queue)).resolves.toBeUndefined()
		const outcomes = await broker.publish([message('b')])
		expect(outcomes).toEqual([{ status: 'failed', reason: expect.stringContaining('low on memory') }])
		connection.emit('unblocked')
		expect(broker.isConnected()).toBe(true)
		expect(statusOf(await broker.publish([message('c')]))).toEqual(['confirmed'])
	})

	it('that is unblocked in time publishes what waited', async () => {
		const broker = open({ connection, readyTimeoutMs: 5_000 })
		await publishUntilConfirmed(broker, message('a'))
		connection.emit('blocked', 'low on memory')
		const publishing = broker.publish([message('b')])
		connection.emit('unblocked')
		expect(statusOf(await publishing)).toEqual(['confirmed'])
	})
})

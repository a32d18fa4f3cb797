import { afterEach, describe, expect, it } from 'vitest'
import type { Broker, Delivery, OutboundMessage } from '../../src/ports/broker.js'
import { createInProcessBroker, type InProcessBrokerOptions } from '../../worker/broker/in-process.js'
import { waitFor } from '../support/wait-for.js'

let brokers: Broker[] = []
afterEach(async () => {
	await Promise.all(brokers.map((broker) => broker.close()))
	brokers = []
})

const open = (options: InProcessBrokerOptions = {}): Broker => {
	const broker = createInProcessBroker({ queues: ['jobs'], ...options })
	brokers.push(broker)
	return broker
}
const messages = (count: number, rest: Partial<OutboundMessage> = {}): OutboundMessage[] =>
	Array.from({ length: count }, (_, index) => ({
		messageId: `m${index}`,
		routingKey: 'jobs',
		body: '{}',
		...rest,
	}))
const statuses = async (broker: Broker, batch: readonly OutboundMessage[]): Promise<string[]> =>
	(await broker.publish(batch)).map((outcome) => outcome.status)

describe('The broker in this process', () => {
	it('answers failed beyond its capacity, unsettled messages included, until there is room', async () => {
		const broker = open({ capacity: 3 })
		expect(await broker.publish(messages(4))).toEqual([
			...Array.from({ length: 3 }, () => ({ status: 'confirmed' })),
			{ status: 'failed', reason: expect.stringContaining('3 messages are waiting') },
		])
		const held: Delivery[] = []
		await broker.consume({ queue: 'jobs', prefetch: 2, onDelivery: (delivery) => held.push(delivery) })
		await waitFor('two deliveries', () => held.length === 2)
		expect(await statuses(broker, messages(1))).toEqual(['failed'])
		held[0]?.ack()
		held[1]?.reject()
		expect(await statuses(broker, messages(3))).toEqual(['confirmed', 'confirmed', 'failed'])
	})

	it('keeps a bounded number of dead letters, the newest', async () => {
		const broker = open({ deadLetterMaxLength: 2 })
		await broker.publish(messages(5))
		await broker.consume({ queue: 'jobs', prefetch: 5, onDelivery: (delivery) => delivery.reject() })
		await waitFor('the rejections', () => broker.depth('jobs.dead'), { until: (depth) => depth === 2 })
		const dead: (string | undefined)[] = []
		await broker.consume({
			queue: 'jobs.dead',
			prefetch: 1,
			onDelivery(delivery) {
				dead.push(delivery.messageId)
				delivery.ack()
			},
		})
		await waitFor('the dead letters', () => dead.length === 2)
		expect(dead).toEqual(['m3', 'm4'])
	})

	it('lets the consumers of a queue take turns', async () => {
		const broker = open()
		const turns: string[] = []
		for (const name of ['a', 'b', 'c']) {
			await broker.consume({
				queue: 'jobs',
				prefetch: 10,
				onDelivery(delivery) {
					turns.push(name)
					delivery.ack()
				},
			})
		}
		await broker.publish(messages(7))
		await waitFor('the deliveries', () => turns.length === 7)
		expect(turns).toEqual(['a', 'b', 'c', 'a', 'b', 'c', 'a'])
	})

	it('gives way to everything else while a long queue is delivered', async () => {
		const broker = open()
		let delivered = 0
		await broker.consume({
			queue: 'jobs',
			prefetch: 1,
			onDelivery(delivery) {
				delivered += 1
				delivery.ack()
			},
		})
		await broker.publish(messages(10_000))
		await new Promise((resolve) => setTimeout(resolve, 0))
		await new Promise((resolve) => setTimeout(resolve, 0))
		expect(delivered).toBeLessThan(10_000)
		await waitFor('the deliveries', () => delivered === 10_000)
	})

	it('makes a queue known with its first consumer', async () => {
		const broker = open()
		expect(await statuses(broker, messages(1, { routingKey: 'late' }))).toEqual(['unroutable'])
		await broker.consume({ queue: 'late', prefetch: 1, onDelivery: (delivery) => delivery.ack() })
		expect(await statuses(broker, messages(1, { routingKey: 'late' }))).toEqual(['confirmed'])
	})

	it('does not take messages for a dead queue, as RabbitMQ does not', async () => {
		const broker = open()
		expect(await statuses(broker, messages(1, { routingKey: 'jobs.dead' }))).toEqual(['unroutable'])
	})

	it('hands messages to named exchanges to the listener for events, and to no queue', async () => {
		const events: OutboundMessage[] = []
		const broker = open({ onEvent: (message) => events.push(message) })
		const [event] = messages(1, { exchange: 'orders', routingKey: 'order.paid' })
		expect(await statuses(broker, event === undefined ? [] : [event])).toEqual(['confirmed'])
		expect(events).toEqual([event])
		expect(await broker.depth('jobs')).toBe(0)
	})

	it('keeps no message to a named exchange without a listener, and says so', async () => {
		expect(await open().publish(messages(1, { exchange: 'orders' }))).toEqual([
			{ status: 'unroutable', reason: 'there is no exchange "orders" in this process' },
		])
	})

	it('answers failed when the listener for events throws', async () => {
		const broker = open({
			onEvent() {
				throw new Error('thrown by the test')
			},
		})
		expect(await broker.publish(messages(1, { exchange: 'orders' }))).toEqual([
			{ status: 'failed', reason: expect.stringContaining('thrown by the test') },
		])
	})

	it('refuses options that cannot work, all at once', () => {
		expect(() => open({ capacity: 0, deliveryLimit: 1.5 })).toThrow(/capacity.*deliveryLimit/)
	})
})

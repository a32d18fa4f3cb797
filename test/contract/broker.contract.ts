/** What every `Broker` promises. Each implementation's test calls `describeBroker` with a way to make one. */
import { randomUUID } from 'node:crypto'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { Broker, Delivery, OutboundMessage, Subscription } from '../../src/ports/broker.js'
import { waitFor } from '../support/wait-for.js'

export interface OpenOptions {
	readonly queues: readonly string[]
	readonly deliveryLimit: number
}

export interface BrokerUnderTest {
	/** Makes one broker; called once per test, with queues that nobody has used before. */
	open(options: OpenOptions): Broker
	/** Removes what `open` left on a server. */
	remove?(options: OpenOptions): Promise<void>
}

const DELIVERY_LIMIT = 3

/** Every delivery, in order; `onDelivery` decides what becomes of each. */
class Inbox {
	readonly deliveries: Delivery[] = []
	readonly #then: (delivery: Delivery, count: number) => void

	constructor(then: (delivery: Delivery, count: number) => void = () => {}) {
		this.#then = then
	}

	readonly onDelivery = (delivery: Delivery): void => {
		this.deliveries.push(delivery)
		this.#then(delivery, this.deliveries.length)
	}

	get ids(): (string | undefined)[] {
		return this.deliveries.map((delivery) => delivery.messageId)
	}

	async toHold(count: number): Promise<Delivery[]> {
		await waitFor(`${count} deliveries`, () => this.deliveries.length, {
			until: (length) => length >= count,
		})
		return this.deliveries
	}
}

const ackAll = (): Inbox => new Inbox((delivery) => delivery.ack())

export function describeBroker(name: string, underTest: BrokerUnderTest): void {
	describe(`A broker (${name})`, () => {
		let queue: string
		let options: OpenOptions
		let broker: Broker

		beforeEach(() => {
			queue = `test-${randomUUID()}`
			options = { queues: [queue], deliveryLimit: DELIVERY_LIMIT }
			broker = underTest.open(options)
		})

		afterEach(async () => {
			await broker.close()
			await underTest.remove?.(options)
		})

		const message = (id: string, rest: Partial<OutboundMessage> = {}): OutboundMessage => ({
			messageId: id,
			routingKey: queue,
			body: JSON.stringify({ id }),
			...rest,
		})
		const consume = (inbox: Inbox, prefetch = 10, from = queue): Promise<Subscription> =>
			broker.consume({ queue: from, prefetch, onDelivery: inbox.onDelivery })
		const publish = async (...ids: string[]): Promise<void> => {
			const outcomes = await broker.publish(ids.map((id) => message(id)))
			expect(outcomes).toEqual(ids.map(() => ({ status: 'confirmed' })))
		}
		/** Messages published after a moment of interest have arrived, so earlier ones would have as well. */
		const depthBecomes = (expected: number): Promise<unknown> =>
			waitFor(`depth ${expected}`, () => broker.depth(queue), { until: (depth) => depth === expected })

		it('delivers what it confirmed, with its id, body and headers', async () => {
			const inbox = ackAll()
			await consume(inbox)
			const outcomes = await broker.publish([
				message('a', {
					body: '{"text":"ż \u{1f680}"}',
					headers: { traceparent: '00-1', 'x-empty': '' },
					priority: 9,
				}),
			])
			expect(outcomes).toEqual([{ status: 'confirmed' }])
			const [delivery] = await inbox.toHold(1)
			expect(delivery).toMatchObject({
				messageId: 'a',
				body: '{"text":"ż \u{1f680}"}',
				redelivered: false,
			})
			expect(delivery?.headers).toMatchObject({ traceparent: '00-1', 'x-empty': '' })
		})

		it('keeps messages for consumers that come later, in the order of publication', async () => {
			const ids = Array.from({ length: 300 }, (_, index) => `m${index}`)
			await publish(...ids)
			const inbox = ackAll()
			await consume(inbox)
			await inbox.toHold(ids.length)
			expect(inbox.ids).toEqual(ids)
		})

		it('carries an empty body', async () => {
			await broker.publish([message('a', { body: '' })])
			const inbox = ackAll()
			await consume(inbox)
			expect((await inbox.toHold(1))[0]?.body).toBe('')
		})

		it('answers in the order of the messages, and an unroutable one does not hold up the others', async () => {
			const outcomes = await broker.publish([
				message('a'),
				message('b', { routingKey: `nowhere-${queue}` }),
				message('c'),
			])
			expect(outcomes.map((outcome) => outcome.status)).toEqual([
				'confirmed',
				'unroutable',
				'confirmed',
			])
			const inbox = ackAll()
			await consume(inbox)
			await inbox.toHold(2)
			expect(inbox.ids).toEqual(['a', 'c'])
		})

		it('answers each of several messages with the same id', async () => {
			const outcomes = await broker.publish([
				message('same'),
				message('same', { routingKey: `nowhere-${queue}` }),
				message('same'),
				message('same', { routingKey: `nowhere-${queue}` }),
			])
			expect(outcomes.map((outcome) => outcome.status)).toEqual([
				'confirmed',
				'unroutable',
				'confirmed',
				'unroutable',
			])
			await depthBecomes(2)
		})

		it('answers several batches that are published at once', async () => {
			const batches = await Promise.all(
				['a', 'b', 'c'].map((batch) =>
					broker.publish(Array.from({ length: 50 }, (_, index) => message(`${batch}${index}`))),
				),
			)
			expect(batches.flat()).toEqual(Array.from({ length: 150 }, () => ({ status: 'confirmed' })))
			await depthBecomes(150)
		})

		it('answers an empty batch', async () => {
			await expect(broker.publish([])).resolves.toEqual([])
		})

		it('gives each message to one of several consumers, and some to each', async () => {
			const [one, two] = [ackAll(), ackAll()]
			await Promise.all([consume(one, 1), consume(two, 1)])
			const ids = Array.from({ length: 100 }, (_, index) => `m${index}`)
			await publish(...ids)
			await waitFor('all deliveries', () => one.ids.length + two.ids.length, {
				until: (sum) => sum >= 100,
			})
			expect(new Set([...one.ids, ...two.ids])).toEqual(new Set(ids))
			expect(one.ids.length + two.ids.length).toBe(ids.length)
			expect(one.ids.length).toBeGreaterThan(0)
			expect(two.ids.length).toBeGreaterThan(0)
		})

		it('never leaves more deliveries unsettled than the prefetch', async () => {
			let unsettled = 0
			let most = 0
			const inbox = new Inbox((delivery) => {
				unsettled += 1
				most = Math.max(most, unsettled)
				setTimeout(() => {
					unsettled -= 1
					delivery.ack()
				}, 1)
			})
			await consume(inbox, 3)
			await publish(...Array.from({ length: 60 }, (_, index) => `m${index}`))
			await inbox.toHold(60)
			expect(most).toBe(3)
		})

		it('refuses a prefetch that is no positive whole number', async () => {
			await expect(consume(ackAll(), 0)).rejects.toThrow(/prefetch/)
			await expect(consume(ackAll(), 1.5)).rejects.toThrow(/prefetch/)
		})

		it('delivers a requeued message again, before later ones, and says so', async () => {
			const inbox = new Inbox((delivery, count) => (count === 1 ? delivery.requeue() : delivery.ack()))
			await publish('a', 'b', 'c')
			await consume(inbox, 1)
			await inbox.toHold(4)
			expect(inbox.deliveries.map(({ messageId, redelivered }) => [messageId, redelivered])).toEqual([
				['a', false],
				['a', true],
				['b', false],
				['c', false],
			])
		})

		it('moves a rejected message to the dead queue', async () => {
			const inbox = new Inbox((delivery) => delivery.reject())
			await consume(inbox)
			await publish('bad')
			const dead = ackAll()
			await consume(dead, 10, `${queue}.dead`)
			const [delivery] = await dead.toHold(1)
			expect(delivery).toMatchObject({ messageId: 'bad', body: '{"id":"bad"}' })
			expect(inbox.ids).toEqual(['bad'])
		})

		it('counts only the first verb of a delivery', async () => {
			const inbox = new Inbox((delivery) => {
				delivery.ack()
				delivery.ack()
				delivery.requeue()
				delivery.reject()
			})
			await consume(inbox, 1)
			await publish('a', 'b')
			await inbox.toHold(2)
			await publish('c')
			await inbox.toHold(3)
			expect(inbox.ids).toEqual(['a', 'b', 'c'])
			await depthBecomes(0)
		})

		it('survives a consumer that throws, and delivers the message again', async () => {
			const inbox = new Inbox((delivery, count) => {
				if (count === 1) throw new Error('thrown by the test')
				delivery.ack()
			})
			await consume(inbox, 1)
			await publish('a', 'b')
			await inbox.toHold(3)
			expect(inbox.ids).toEqual(['a', 'a', 'b'])
		})

		it('moves a message that is never settled to the dead queue after the delivery limit', async () => {
			const inbox = new Inbox(() => {
				throw new Error('thrown by the test')
			})
			await consume(inbox, 1)
			await publish('poison')
			const dead = ackAll()
			await consume(dead, 1, `${queue}.dead`)
			await dead.toHold(1)
			expect(dead.ids).toEqual(['poison'])
			expect(inbox.ids).toHaveLength(DELIVERY_LIMIT + 1)
		})

		it('tells how many messages wait', async () => {
			await publish('a', 'b', 'c')
			await depthBecomes(3)
			const inbox = new Inbox()
			const subscription = await consume(inbox, 2)
			await inbox.toHold(2)
			await depthBecomes(1)
			await subscription.close()
			await depthBecomes(3)
			expect(inbox.ids).toEqual(['a', 'b'])
		})

		it('tells no number for a queue that does not exist, and goes on telling others', async () => {
			await publish('a')
			const depths = await Promise.all([broker.depth(`nowhere-${queue}`), broker.depth(queue)])
			expect(depths[0]).toBeUndefined()
			await depthBecomes(1)
		})

		describe('that pauses a subscription', () => {
			it('delivers nothing, and gives back what nobody had settled', async () => {
				const inbox = new Inbox((delivery) => {
					if (delivery.messageId === 'a') delivery.ack()
				})
				const subscription = await consume(inbox, 2)
				await publish('a', 'b', 'c', 'd')
				await inbox.toHold(3)
				await subscription.pause()
				await depthBecomes(3)
				await publish('e')
				await depthBecomes(4)
				expect(inbox.ids).toEqual(['a', 'b', 'c'])
			})

			it('lets another consumer have the messages', async () => {
				const inbox = new Inbox()
				const subscription = await consume(inbox, 2)
				await publish('a', 'b')
				await inbox.toHold(2)
				await subscription.pause()
				const other = ackAll()
				await consume(other, 1)
				await other.toHold(2)
				expect(
					other.deliveries.map(({ messageId, redelivered }) => [messageId, redelivered]),
				).toEqual([
					['a', true],
					['b', true],
				])
			})

			it('delivers again after resume', async () => {
				const inbox = new Inbox((delivery, count) => {
					if (count > 1) delivery.ack()
				})
				const subscription = await consume(inbox, 1)
				await publish('a', 'b')
				await inbox.toHold(1)
				await subscription.pause()
				await subscription.resume()
				await inbox.toHold(3)
				expect(inbox.ids).toEqual(['a', 'a', 'b'])
			})

			it('ignores what is settled too late, so that it settles nothing else', async () => {
				const inbox = new Inbox()
				const subscription = await consume(inbox, 1)
				await publish('a', 'b')
				const [stale] = await inbox.toHold(1)
				await subscription.pause()
				stale?.ack()
				await subscription.resume()
				await inbox.toHold(2)
				stale?.ack()
				stale?.reject()
				await nextTurn()
				expect(inbox.ids).toEqual(['a', 'a'])
				await subscription.close()
				await depthBecomes(2)
			})

			it('may pause, resume and close in any order', async () => {
				const inbox = ackAll()
				const subscription = await consume(inbox)
				await Promise.all([
					subscription.pause(),
					subscription.resume(),
					subscription.pause(),
					subscription.pause(),
				])
				await subscription.resume()
				await publish('a')
				await inbox.toHold(1)
				await Promise.all([subscription.close(), subscription.pause(), subscription.close()])
				await subscription.resume()
				await publish('b')
				await depthBecomes(1)
				expect(inbox.ids).toEqual(['a'])
			})
		})

		it('gives the unsettled deliveries of a closed subscription to others', async () => {
			const inbox = new Inbox()
			const subscription = await consume(inbox, 5)
			await publish('a', 'b')
			const [delivery] = await inbox.toHold(2)
			await subscription.close()
			delivery?.ack()
			const other = ackAll()
			await consume(other)
			await other.toHold(2)
			expect(other.ids).toEqual(['a', 'b'])
		})

		it('settles exactly what was acked, in whatever order and however many at once', async () => {
			const inbox = new Inbox()
			const subscription = await consume(inbox)
			await publish('a', 'b', 'c', 'd', 'e', 'f')
			const [a, b, c, d, e] = await inbox.toHold(6)
			// Acks of one turn may share a frame, which must not cover what is open between them.
			for (const delivery of [d, b, a]) delivery?.ack()
			await new Promise((resolve) => setTimeout(resolve, 0))
			c?.requeue()
			e?.ack()
			await subscription.close()
			const other = ackAll()
			await consume(other)
			await other.toHold(2)
			expect(other.ids.toSorted()).toEqual(['c', 'f'])
			await waitFor('nothing to wait', async () => (await broker.depth(queue)) === 0)
			expect(other.ids).toHaveLength(2)
		})

		it('is connected until it is closed', async () => {
			await waitFor('a connection', () => broker.isConnected())
			await broker.close()
			expect(broker.isConnected()).toBe(false)
		})

		it('refuses everything once it is closed, without rejecting a publication', async () => {
			await publish('a')
			await Promise.all([broker.close(), broker.close()])
			await broker.close()
			const outcomes = await broker.publish([message('b'), message('c')])
			expect(outcomes.map((outcome) => outcome.status)).toEqual(['failed', 'failed'])
			await expect(consume(ackAll())).rejects.toThrow(/closed/)
			await expect(broker.depth(queue)).resolves.toBeUndefined()
		})
	})
}

/**
 * A worker's slots and the deliveries that wait for one. The broker hands out as many deliveries as there are slots; a
 * slot may also be taken by a node that came without a message, and then a delivery waits. Not for long: what waits while no
 * slot comes free goes back to the broker, since another worker may have one.
 */
import { readJob } from '../../src/outbox/message.js'
import type { NodeKey } from '../../src/plan/node-key.js'
import type { Delivery, Subscription } from '../../src/ports/broker.js'
import type { Logger } from '../../src/ports/logger.js'
import type { Self } from './self.js'

export interface SlotsOptions {
	readonly concurrency: number
	/** What is done in the slot of a delivery. */
	readonly onJob: (delivery: Delivery, key: NodeKey) => Promise<void>
	readonly self: Self
	readonly logger: Logger
}

interface Waiting {
	readonly delivery: Delivery
	readonly key: NodeKey
}

/** Deliveries that wait for a slot for longer go back to the broker; in ms. */
const SATURATED_MS = 250

export class Slots {
	readonly #options: SlotsOptions
	/** By a claim under way, by a node, or for what a commit under way may claim. */
	#taken = 0
	#waiting: Waiting[] = []
	#saturatedTimer: NodeJS.Timeout | undefined
	#isPaused = false
	#subscription: Subscription | undefined

	constructor(options: SlotsOptions) {
		this.#options = options
	}

	/** @param subscription whose deliveries come to `onDelivery` */
	attach(subscription: Subscription): void {
		this.#subscription = subscription
	}

	readonly onDelivery = (delivery: Delivery): void => {
		const { concurrency, self, logger } = this.#options
		if (self.isStopping) return delivery.requeue()
		const key = readJob(delivery.body)
		if (key === undefined) {
			logger.warn('A message is no job', {
				messageId: delivery.messageId,
				body: delivery.body.slice(0, 200),
			})
			return delivery.reject()
		}
		if (this.#taken < concurrency) return this.#occupy({ delivery, key })
		this.#waiting.push({ delivery, key })
		this.#watchSaturation()
	}

	/** Whether a slot is taken. */
	get isBusy(): boolean {
		return this.#taken > 0
	}

	/** Whether deliveries wait for a slot, here or, sent back, at the broker. */
	get isWanted(): boolean {
		return this.#waiting.length > 0 || this.#isPaused
	}

	/** Takes slots that are free, so many at most, and says how many. */
	take(most: number): number {
		const { concurrency } = this.#options
		const slots = this.#isPaused ? 0 : Math.max(Math.min(most, concurrency - this.#taken), 0)
		this.#taken += slots
		return slots
	}

	/** Frees one that is taken. */
	free(): void {
		this.#taken -= 1
		this.#forgetSaturation()
		const next = this.#waiting.shift()
		if (this.#waiting.length > 0) this.#watchSaturation()
		if (next === undefined) this.#resume()
		else this.#occupy(next)
	}

	/** Works in a slot that is taken, and frees it. Never rejects. */
	async run(key: NodeKey, work: () => Promise<void>): Promise<void> {
		const { self, logger } = this.#options
		try {
			await work()
		} catch (error) {
			logger.error('A job could not be handled', { ...key, workerId: self.workerId, error })
		} finally {
			this.free()
		}
	}

	/** What waits is left to the broker, which gets it back with the end of the subscription. */
	async close(): Promise<void> {
		this.#forgetSaturation()
		this.#waiting = []
		await this.#subscription?.close()
	}

	#occupy({ delivery, key }: Waiting): void {
		this.#taken += 1
		void this.run(key, () => this.#options.onJob(delivery, key))
	}

	/** While deliveries wait, some slot has to come free every now and then. */
	#watchSaturation(): void {
		this.#saturatedTimer ??= setTimeout(() => void this.#giveWay(), SATURATED_MS)
	}

	#forgetSaturation(): void {
		clearTimeout(this.#saturatedTimer)
		this.#saturatedTimer = undefined
	}

	/** No slot has come free for a while: others may have one. */
	async #giveWay(): Promise<void> {
		const { concurrency, self } = this.#options
		this.#saturatedTimer = undefined
		if (self.isStopping || this.#taken < concurrency) return
		this.#isPaused = true
		this.#waiting = []
		await this.#subscription?.pause()
		if (this.#taken < concurrency) this.#resume()
	}

	#resume(): void {
		const { self, logger } = this.#options
		if (!this.#isPaused || self.isStopping) return
		this.#isPaused = false
		this.#subscription
			?.resume()
			.catch((error: unknown) => logger.error('The subscription could not be resumed', { error }))
	}
}

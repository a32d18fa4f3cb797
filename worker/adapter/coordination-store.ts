/**
 * Flowcraft's coordination store: counters and locks that expire. Flowcraft's own distributed adapters join branches
 * with it; here no result depends on it, so that an emptied Redis costs nothing.
 */
import type { ICoordinationStore } from 'flowcraft'

/** What the Redis store asks of a client. `Redis` and `Cluster` of ioredis fit, whatever their version. */
export interface CoordinationRedis {
	eval(script: string, numberOfKeys: number, ...keysAndArguments: (string | number)[]): Promise<unknown>
	set(key: string, value: string, px: 'PX', milliseconds: number, nx: 'NX'): Promise<'OK' | null>
	pexpire(key: string, milliseconds: number): Promise<number>
	del(key: string): Promise<number>
	get(key: string): Promise<string | null>
}

/** Counts and sets the lifetime in one step: a client that dies in between would leave a counter that never expires. */
const INCREMENT = `
local count = redis.call('INCR', KEYS[1])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return count
`

/**
 * On Redis; every operation is one atomic command or script. Lifetimes may have fractions of a second.
 * Rejects when Redis refuses or cannot be reached, as the client says it.
 */
export class RedisCoordinationStore implements ICoordinationStore {
	readonly #redis: CoordinationRedis

	constructor(redis: CoordinationRedis) {
		this.#redis = redis
	}

	/**
	 * Adds one, starting from 0, and returns the new value. Each call renews the lifetime, so that a counter lives as
	 * long as somebody still counts. Rejects if the key holds anything but a whole number.
	 */
	async increment(key: string, ttlSeconds: number): Promise<number> {
		const count = await this.#redis.eval(INCREMENT, 1, key, toMs(ttlSeconds))
		return Number(count)
	}

	/** True if the key did not exist and now does. */
	async setIfNotExist(key: string, value: string, ttlSeconds: number): Promise<boolean> {
		return (await this.#redis.set(key, value, 'PX', toMs(ttlSeconds), 'NX')) === 'OK'
	}

	/** Gives an existing key a new lifetime from now; false if there is none. */
	async extendTTL(key: string, ttlSeconds: number): Promise<boolean> {
		return (await this.#redis.pexpire(key, toMs(ttlSeconds))) === 1
	}

	async delete(key: string): Promise<void> {
		await this.#redis.del(key)
	}

	async get(key: string): Promise<string | undefined> {
		return (await this.#redis.get(key)) ?? undefined
	}
}

/** In the memory of this process, for embedded use: the same behaviour, shared by nobody. */
export class InMemoryCoordinationStore implements ICoordinationStore {
	readonly #now: () => number
	readonly #entries = new Map<string, { value: string; expiresAt: number }>()
	/** Expired entries are looked for when there are so many. */
	#sweepAt = 1_024

	/** @param now A clock in ms. Default `performance.now`, which no change of the system's time moves. */
	constructor(now: () => number = () => performance.now()) {
		this.#now = now
	}

	async increment(key: string, ttlSeconds: number): Promise<number> {
		const expiresAt = this.#now() + toMs(ttlSeconds)
		const count = Number(this.#read(key)?.value ?? '0')
		if (!Number.isSafeInteger(count)) throw new Error('value is not an integer')
		this.#write(key, String(count + 1), expiresAt)
		return count + 1
	}

	async setIfNotExist(key: string, value: string, ttlSeconds: number): Promise<boolean> {
		const expiresAt = this.#now() + toMs(ttlSeconds)
		if (this.#read(key) !== undefined) return false
		this.#write(key, value, expiresAt)
		return true
	}

	async extendTTL(key: string, ttlSeconds: number): Promise<boolean> {
		const expiresAt = this.#now() + toMs(ttlSeconds)
		const entry = this.#read(key)
		if (entry === undefined) return false
		entry.expiresAt = expiresAt
		return true
	}

	async delete(key: string): Promise<void> {
		this.#entries.delete(key)
	}

	async get(key: string): Promise<string | undefined> {
		return this.#read(key)?.value
	}

	#read(key: string): { readonly value: string; expiresAt: number } | undefined {
		const entry = this.#entries.get(key)
		if (entry === undefined || entry.expiresAt > this.#now()) return entry
		this.#entries.delete(key)
		return undefined
	}

	#write(key: string, value: string, expiresAt: number): void {
		this.#entries.set(key, { value, expiresAt })
		if (this.#entries.size < this.#sweepAt) return
		const now = this.#now()
		for (const [name, entry] of this.#entries) if (entry.expiresAt <= now) this.#entries.delete(name)
		this.#sweepAt = Math.max(1_024, this.#entries.size * 2)
	}
}

/** @throws TypeError: Redis deletes a key whose lifetime is not positive, and refuses one that is not a number. */
function toMs(ttlSeconds: number): number {
	if (!Number.isFinite(ttlSeconds) || ttlSeconds <= 0) {
		throw new TypeError(`ttlSeconds must be a number greater than 0, not ${ttlSeconds}`)
	}
	return Math.ceil(ttlSeconds * 1000)
}

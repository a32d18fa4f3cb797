import { randomUUID } from 'node:crypto'
import type { ICoordinationStore } from 'flowcraft'
import { Redis } from 'ioredis'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { InMemoryCoordinationStore, RedisCoordinationStore } from '../../worker/adapter/coordination-store.js'
import { redis } from '../support/services/index.js'
import { waitFor } from '../support/wait-for.js'

let client: Redis
beforeAll(async () => {
	client = new Redis((await redis()).url)
})
afterAll(async () => {
	await client.quit()
})

const implementations: Record<string, () => ICoordinationStore> = {
	'in memory': () => new InMemoryCoordinationStore(),
	Redis: () => new RedisCoordinationStore(client),
}

describe.each(Object.entries(implementations))('A coordination store (%s)', (_name, open) => {
	let store: ICoordinationStore
	let key: string

	beforeEach(() => {
		store = open()
		key = `test-${randomUUID()}`
	})

	const untilGone = (): Promise<unknown> =>
		waitFor('the key to expire', () => store.get(key), {
			until: (value) => value === undefined,
			everyMs: 5,
		})

	it('counts from one, and no two callers get the same number', async () => {
		const counts = await Promise.all(Array.from({ length: 100 }, () => store.increment(key, 60)))
		expect(counts.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, index) => index + 1))
		expect(await store.get(key)).toBe('100')
		await store.delete(key)
	})

	it('forgets a counter after its lifetime, and counts anew', async () => {
		await store.increment(key, 0.03)
		await untilGone()
		expect(await store.increment(key, 0.03)).toBe(1)
	})

	it('renews the lifetime of a counter with every count', async () => {
		await store.increment(key, 0.03)
		expect(await store.increment(key, 60)).toBe(2)
		await waitFor('the first lifetime to pass', () => store.setIfNotExist(`${key}-clock`, 'x', 0.05))
		await waitFor('the clock', () => store.get(`${key}-clock`), { until: (value) => value === undefined })
		expect(await store.get(key)).toBe('2')
		await store.delete(key)
	})

	it('gives a lock to one of many, until it expires or is deleted', async () => {
		const won = await Promise.all(
			Array.from({ length: 20 }, (_, index) => store.setIfNotExist(key, `v${index}`, 60)),
		)
		expect(won.filter(Boolean)).toHaveLength(1)
		expect(await store.get(key)).toBe(`v${won.indexOf(true)}`)
		await store.delete(key)
		expect(await store.setIfNotExist(key, 'again', 0.03)).toBe(true)
		await untilGone()
		expect(await store.setIfNotExist(key, 'after expiry', 0.03)).toBe(true)
	})

	it('extends the lifetime of what exists, and of nothing else', async () => {
		expect(await store.extendTTL(key, 60)).toBe(false)
		expect(await store.get(key)).toBeUndefined()
		await store.setIfNotExist(key, 'v', 60)
		expect(await store.extendTTL(key, 0.03)).toBe(true)
		await untilGone()
		expect(await store.extendTTL(key, 60)).toBe(false)
	})

	it('deletes what is not there without complaint', async () => {
		await store.delete(key)
		expect(await store.get(key)).toBeUndefined()
	})

	it('does not count what is no number', async () => {
		await store.setIfNotExist(key, 'lock holder', 60)
		await expect(store.increment(key, 60)).rejects.toThrow(/not an integer/)
		expect(await store.get(key)).toBe('lock holder')
		await store.delete(key)
	})

	it.each([0, -1, Number.NaN, Number.POSITIVE_INFINITY])(
		'refuses a lifetime of %d s and changes nothing',
		async (ttl) => {
			await expect(store.increment(key, ttl)).rejects.toThrow(/ttlSeconds/)
			await expect(store.setIfNotExist(key, 'v', ttl)).rejects.toThrow(/ttlSeconds/)
			await expect(store.extendTTL(key, ttl)).rejects.toThrow(/ttlSeconds/)
			expect(await store.get(key)).toBeUndefined()
		},
	)
})

describe('The coordination store on Redis', () => {
	it('never leaves a key without a lifetime', async () => {
		const store = new RedisCoordinationStore(client)
		const key = `test-${randomUUID()}`
		await store.increment(`${key}-counter`, 5)
		await store.setIfNotExist(`${key}-lock`, 'v', 5)
		for (const name of [`${key}-counter`, `${key}-lock`]) {
			const lifetimeMs = await client.pttl(name)
			expect(lifetimeMs).toBeGreaterThan(0)
			expect(lifetimeMs).toBeLessThanOrEqual(5_000)
			await store.delete(name)
		}
	})
})

describe('The coordination store in memory', () => {
	it('keeps no more than what has not expired', async () => {
		let now = 0
		const store = new InMemoryCoordinationStore(() => now)
		for (let index = 0; index < 100_000; index += 1) {
			now += 1
			await store.increment(`key-${index}`, 1)
		}
		// Its memory is not to be seen from outside; what is to be seen is that the last second is there, and no more.
		expect(await store.get('key-99999')).toBe('1')
		expect(await store.get('key-99001')).toBe('1')
		expect(await store.get('key-98000')).toBeUndefined()
	})
})

import { randomUUID } from 'node:crypto'
import { Redis } from 'ioredis'
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import type { Doorbell, Ring } from '../../src/ports/doorbell.js'
import { type Logger, noLogger } from '../../src/ports/logger.js'
import { createInProcessDoorbell } from '../../worker/doorbell/in-process.js'
import { createRedisDoorbell } from '../../worker/doorbell/redis.js'
import { describeDoorbell } from '../contract/doorbell.contract.js'
import { redis } from '../support/services/index.js'
import { startProxy, type TcpProxy } from '../support/tcp-proxy.js'
import { waitFor } from '../support/wait-for.js'

let url: string
beforeAll(async () => {
	url = (await redis()).url
})

describeDoorbell('in process', {
	open() {
		const doorbell = createInProcessDoorbell()
		return [doorbell, doorbell]
	},
})

describeDoorbell('Redis', {
	open: (prefix) => [
		createRedisDoorbell({ url, prefix, logger: noLogger }),
		createRedisDoorbell({ url, prefix, logger: noLogger }),
	],
})

describe('A doorbell on Redis', () => {
	let prefix: string
	let proxy: TcpProxy
	let doorbells: Doorbell[]
	let heard: Ring[]
	let warnings: string[]
	let logger: Logger

	beforeEach(async () => {
		prefix = `test-${randomUUID()}`
		proxy = await startProxy(url)
		doorbells = []
		heard = []
		warnings = []
		logger = { ...noLogger, warn: (message) => warnings.push(message) }
	})

	afterEach(async () => {
		proxy.resume()
		await Promise.all(doorbells.map((doorbell) => doorbell.close()))
		await proxy.close()
	})

	const open = (through = url): Doorbell => {
		const doorbell = createRedisDoorbell({ url: through, prefix, logger })
		doorbells.push(doorbell)
		return doorbell
	}
	const listen = (doorbell: Doorbell): void => {
		doorbell.listen((ring) => heard.push(ring))
	}
	const ringUntilHeard = (doorbell: Doorbell, runId: string): Promise<unknown> =>
		waitFor(`the ring ${runId}`, () => {
			doorbell.ring({ type: 'ended', runIds: [runId] })
			return heard.some((ring) => ring.type === 'ended' && ring.runIds.includes(runId))
		})

	it('works again by itself after an outage, which it logs once', async () => {
		const [here, there] = [open(proxy.url), open(proxy.url)]
		listen(there)
		await ringUntilHeard(here, 'before')
		proxy.refuse()
		proxy.cut()
		await waitFor('the outage', () => warnings.length > 0)
		const before = performance.now()
		for (let count = 0; count < 1_000; count += 1) here.ring({ type: 'outbox' })
		expect(performance.now() - before).toBeLessThan(500)
		await proxy.accept()
		heard = []
		await ringUntilHeard(here, 'after')
		expect(heard.filter((ring) => ring.type === 'outbox')).toEqual([])
		// Once per doorbell, whatever the number of attempts.
		expect(warnings.length).toBeLessThanOrEqual(2)
	})

	it('can be made, rung and closed while Redis is away, and still wakes its own process', async () => {
		proxy.refuse()
		const here = open(proxy.url)
		listen(here)
		here.ring({ type: 'outbox' })
		await waitFor('its own ring', () => heard.length > 0)
		await here.close()
		expect(heard).toEqual([{ type: 'outbox' }])
	})

	it('never blocks, and closes in time, when Redis accepts and says nothing', async () => {
		const [here, there] = [open(proxy.url), open()]
		listen(there)
		await ringUntilHeard(here, 'before')
		proxy.pause()
		for (let count = 0; count < 10_000; count += 1) here.ring({ type: 'ended', runIds: [`run-${count}`] })
		const before = performance.now()
		await here.close()
		expect(performance.now() - before).toBeLessThan(3_000)
	})

	it('sends a burst of rings as a few messages that hold everything', async () => {
		const [here, there] = [open(), open()]
		listen(there)
		await ringUntilHeard(here, 'before')
		heard = []
		const runIds = Array.from({ length: 1_000 }, (_, index) => `run-${index}`)
		for (const runId of runIds) {
			here.ring({ type: 'outbox' })
			here.ring({ type: 'cancelled', runIds: [runId] })
		}
		const cancelled = () => heard.flatMap((ring) => (ring.type === 'cancelled' ? ring.runIds : []))
		await waitFor('all runs', () => cancelled().length >= runIds.length)
		expect(cancelled()).toEqual(runIds)
		expect(heard.length).toBeLessThan(20)
	})

	it('keeps deployments with different prefixes apart', async () => {
		const here = open()
		const there = createRedisDoorbell({ url, prefix: `${prefix}-other`, logger })
		doorbells.push(there)
		const strays: Ring[] = []
		there.listen((ring) => strays.push(ring))
		const near = open()
		listen(near)
		await ringUntilHeard(here, 'mine')
		expect(strays).toEqual([])
	})

	it('ignores what is no ring', async () => {
		const [here, there] = [open(), open()]
		listen(there)
		await ringUntilHeard(here, 'before')
		heard = []
		const client = new Redis(url)
		const rings = [
			'',
			'{',
			'[]',
			'null',
			'{"origin":"x"}',
			'{"origin":"x","ring":{"type":"later version"}}',
		]
		for (const text of [...rings, '{"origin":"x","ring":{"type":"ended","runIds":[1]}}']) {
			await client.publish(`${prefix}:doorbell`, text)
		}
		await client.quit()
		await ringUntilHeard(here, 'after')
		const runIds = heard.flatMap((ring) => (ring.type === 'ended' ? ring.runIds : [ring.type]))
		expect(runIds.filter((runId) => runId !== 'before' && runId !== 'after')).toEqual([])
	})

	it('rings with a client that was handed in, even a lazy one with a key prefix, and leaves it open', async () => {
		const client = new Redis(url, { lazyConnect: true, keyPrefix: 'app:' })
		const here = createRedisDoorbell({ redis: client, prefix, logger })
		const there = open()
		listen(there)
		await ringUntilHeard(here, 'a')
		const back: Ring[] = []
		here.listen((ring) => back.push(ring))
		await waitFor('the way back', () => {
			there.ring({ type: 'ended', runIds: ['b'] })
			return back.length > 0
		})
		await here.close()
		expect(await client.ping()).toBe('PONG')
		await client.quit()
	})

	it('does not let a client that was handed in keep rings for later, and logs an outage of many attempts once', async () => {
		const client = new Redis(proxy.url, { retryStrategy: () => 10, maxRetriesPerRequest: null })
		let errors = 0
		client.on('error', () => {
			errors += 1
		})
		const here = createRedisDoorbell({ redis: client, prefix, logger })
		listen(open())
		await ringUntilHeard(here, 'before')
		proxy.refuse()
		proxy.cut()
		await waitFor('the loss', () => client.status !== 'ready')
		await waitFor('several attempts', () => {
			here.ring({ type: 'ended', runIds: ['stale'] })
			return errors >= 5
		})
		expect(warnings).toHaveLength(1)
		await proxy.accept()
		await waitFor('the connection', () => client.status === 'ready')
		await ringUntilHeard(here, 'after')
		const runIds = heard.flatMap((ring) => (ring.type === 'ended' ? ring.runIds : []))
		expect(runIds).not.toContain('stale')
		await here.close()
		await client.quit()
	})

	it('refuses options that cannot work', () => {
		expect(() => createRedisDoorbell({ logger })).toThrow(/exactly one of/)
		expect(() => createRedisDoorbell({ url: 'localhost:6379', logger })).toThrow(/url must look like/)
	})
})

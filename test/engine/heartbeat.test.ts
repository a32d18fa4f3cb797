/** The heartbeat when Postgres is away: it has to land again within a lease of its return, however long that takes. */
import { type AddressInfo, createServer } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { noLogger } from '../../src/ports/logger.js'
import { startHeartbeat } from '../../worker/worker/heartbeat.js'

test('tries to connect with each beat, after a long outage as after a short one', async () => {
	let attempts = 0
	const server = createServer((socket) => {
		attempts += 1
		socket.on('error', () => {})
		socket.resetAndDestroy()
	})
	await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
	const heartbeat = startHeartbeat({
		databaseUrl: `postgres://postgres@127.0.0.1:${(server.address() as AddressInfo).port}/postgres`,
		workerId: crypto.randomUUID(),
		leaseMs: 300,
		logger: noLogger,
		onLost: () => {},
	})
	try {
		// The driver's own pauses between attempts have grown to seconds by then.
		await delay(5_000)
		const before = attempts
		await delay(1_500)
		// Fifteen beats, on a machine that may be several times too busy.
		expect(attempts - before).toBeGreaterThanOrEqual(5)
	} finally {
		await heartbeat.stop()
		await new Promise((resolve) => server.close(resolve))
	}
})

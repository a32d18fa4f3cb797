import { connect, createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createApp } from '../../functions/app.js'
import { createDatabase } from '../../src/db/client.js'
import { freshDatabase, type FreshDatabase } from '../support/services/index.js'
import { ask, IDLE_BLUEPRINT } from './api.js'

let fresh: FreshDatabase
beforeAll(async () => {
	fresh = await freshDatabase()
})
afterAll(() => fresh.drop())

interface Counted {
	readonly url: string
	/** How often the client has spoken since the server last did. */
	roundTrips: number
	/** Statements executed: messages of the types Query and Execute. */
	statements: number
	close(): void
}

/** A proxy that reads along: what the client sends after an answer begins another round trip. */
async function countingProxy(target: string): Promise<Counted> {
	const { hostname, port } = new URL(target)
	const counted = { roundTrips: 0, statements: 0 }
	const server = createServer((client) => {
		const upstream = connect(Number(port), hostname)
		let answered = true
		let started = false
		let rest = Buffer.alloc(0)
		client.on('data', (chunk: Buffer) => {
			if (answered) counted.roundTrips += 1
			answered = false
			rest = Buffer.concat([rest, chunk])
			for (;;) {
				// Only the first message has no type.
				const typeLength = started ? 1 : 0
				if (rest.length < typeLength + 4) break
				const length = typeLength + rest.readInt32BE(typeLength)
				if (rest.length < length) break
				const type = started ? String.fromCharCode(rest[0] ?? 0) : 'startup'
				started = true
				if (type === 'Q' || type === 'E') counted.statements += 1
				rest = rest.subarray(length)
			}
			upstream.write(chunk)
		})
		upstream.on('data', (chunk) => {
			answered = true
			client.write(chunk)
		})
		for (const socket of [client, upstream]) {
			socket.on('error', () => {})
			socket.on('close', () => {
				client.destroy()
				upstream.destroy()
			})
		}
	})
	await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
	const url = new URL(target)
	url.host = `127.0.0.1:${(server.address() as AddressInfo).port}`
	return Object.assign(counted, { url: url.href, close: () => void server.close() })
}

test('each operation costs one round trip to the database, a start with a key and an input included', async () => {
	const proxy = await countingProxy(fresh.url)
	const database = createDatabase(proxy.url, { max: 1 })
	try {
		const app = createApp({ db: database })
		let runId = ''
		const operations: Record<string, () => Promise<number>> = {
			'PUT /blueprints/:id': async () =>
				(await ask(app, 'PUT', '/blueprints/idle', { body: IDLE_BLUEPRINT })).status,
			'GET /blueprints': async () => (await ask(app, 'GET', '/blueprints')).status,
			'GET /blueprints/:id': async () => (await ask(app, 'GET', '/blueprints/idle')).status,
			'POST /runs': async () => {
				const started = await ask(app, 'POST', '/runs', {
					body: { blueprint: 'idle', input: { a: 1, b: 2 }, tags: ['x'] },
					headers: { 'idempotency-key': crypto.randomUUID() },
				})
				runId = started.body.runId
				return started.status
			},
			'GET /runs/:id': async () => (await ask(app, 'GET', `/runs/${runId}`)).status,
			'GET /runs': async () => (await ask(app, 'GET', '/runs?status=running&tag=x')).status,
			'GET /runs/:id/nodes': async () =>
				(await ask(app, 'GET', `/runs/${runId}/nodes?include=output`)).status,
			'GET /runs/:id/events': async () => (await ask(app, 'GET', `/runs/${runId}/events`)).status,
			'POST /runs/:id/pause': async () => (await ask(app, 'POST', `/runs/${runId}/pause`)).status,
			'POST /runs/:id/unpause': async () => (await ask(app, 'POST', `/runs/${runId}/unpause`)).status,
			'POST /runs/:id/retry': async () => (await ask(app, 'POST', `/runs/${runId}/retry`)).status,
			'POST /runs/:id/cancel': async () => (await ask(app, 'POST', `/runs/${runId}/cancel`)).status,
			'POST /events/:name': async () =>
				(await ask(app, 'POST', '/events/paid', { body: { payload: 1 } })).status,
			'POST /webhooks/:token': async () =>
				(await ask(app, 'POST', `/webhooks/${'A'.repeat(43)}`, { body: { paid: true } })).status,
			'GET /dead-letters': async () => (await ask(app, 'GET', '/dead-letters')).status,
			'POST /dead-letters/:id/replay': async () =>
				(await ask(app, 'POST', `/dead-letters/${btoa(JSON.stringify([runId, 'x', '', '']))}/replay`))
					.status,
			'POST /dead-letters/:id/discard': async () =>
				(
					await ask(
						app,
						'POST',
						`/dead-letters/${btoa(JSON.stringify([runId, 'x', '', '']))}/discard`,
					)
				).status,
			'GET /workers': async () => (await ask(app, 'GET', '/workers')).status,
			'GET /readyz': async () => (await ask(app, 'GET', '/readyz')).status,
		}
		// The first time on a connection, a statement is prepared too.
		for (const operation of Object.values(operations)) await operation()

		const costs: Record<string, { status: number; roundTrips: number; statements: number }> = {}
		for (const [name, operation] of Object.entries(operations)) {
			proxy.roundTrips = 0
			proxy.statements = 0
			const status = await operation()
			costs[name] = { status, roundTrips: proxy.roundTrips, statements: proxy.statements }
		}
		console.table(costs)
		for (const [name, cost] of Object.entries(costs))
			expect([name, cost]).toEqual([name, { ...cost, roundTrips: 1, statements: 1 }])
		expect(costs['POST /runs']?.status).toBe(202)
	} finally {
		await database.close()
		proxy.close()
	}
})

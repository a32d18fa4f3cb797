import { Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from 'vitest'
import { createRenewingPool } from '../../src/db/renewing-pool.js'
import { createDatabase, type Database } from '../../src/db/client.js'
import { query } from '../../src/db/query.js'
import { freshDatabase, type FreshDatabase } from '../support/services/index.js'
import { type ProxiedConnection, startProxy, type TcpProxy } from '../support/tcp-proxy.js'
import { waitFor } from '../support/wait-for.js'
import { HOSTS } from './hosts/hosts.js'

let fresh: FreshDatabase
let proxy: TcpProxy
beforeAll(async () => {
	fresh = await freshDatabase()
	proxy = await startProxy(fresh.url)
})
afterAll(async () => {
	await proxy.close()
	await fresh.drop()
})

interface Opened {
	readonly pool: Database
	readonly count: () => number
}

function open({ max = 1, maxRestMs }: { max?: number; maxRestMs?: number } = {}): Opened {
	let count = 0
	const pool = createRenewingPool(() => {
		count += 1
		return createDatabase(proxy.url, { max, connectTimeoutMs: 500 })
	}, maxRestMs)
	onTestFinished(() => pool.close())
	return { pool, count: () => count }
}

const backend = async ({ sql }: Database): Promise<number> =>
	Number((await query<{ pid: number }>(sql, 'select pg_backend_pid() as pid'))[0]?.pid)

test('keeps its connections while they are in use', async () => {
	const { pool, count } = open()
	const first = await backend(pool)
	expect(await backend(pool)).toBe(first)
	expect(count()).toBe(1)
})

test('leaves connections behind that have rested too long', async () => {
	const { pool, count } = open({ maxRestMs: 200 })
	const first = await backend(pool)
	await delay(300)
	expect(await backend(pool)).not.toBe(first)
	expect(count()).toBe(2)
	// And closes them.
	await waitFor('the old connection to close', () => proxy.connections === 1)
})

test('leaves a pool behind whose attempt to connect timed out, and serves again when Postgres does', async () => {
	const { pool, count } = open()
	await backend(pool)
	proxy.cut()
	proxy.blackhole()
	onTestFinished(() => proxy.resume())
	await waitFor('an attempt to connect to time out', () =>
		backend(pool).then(
			() => false,
			(error: unknown) => (error as { code?: string }).code === 'CONNECT_TIMEOUT',
		),
	)
	expect(count()).toBe(2)
	proxy.cut()
	proxy.resume()
	await waitFor('Postgres', () => backend(pool))
})

/** The sockets that are opened for statements from now on, in the order of opening. */
function watchSockets(): Socket[] {
	const sockets: Socket[] = []
	const { connect } = Socket.prototype
	const spy = vi.spyOn(Socket.prototype, 'connect').mockImplementation(function (
		this: Socket,
		...args: any
	) {
		// The proxy's own connections are none of them.
		if (args[0] === proxy.port) sockets.push(this)
		return connect.apply(this, args)
	})
	onTestFinished(() => spy.mockRestore())
	return sockets
}

test('recovers from a connection that closes while a statement waits there for the end of the turn', async () => {
	const sockets = watchSockets()
	const { pool } = open({ max: 2 })
	const both = (): Promise<unknown> =>
		Promise.all([1, 2].map(() => query(pool.sql, 'select pg_sleep(0.05)::text')))
	await both()
	// One connection is busy and one idle. Both close in one turn, the busy one first: who waits for it asks again at
	// once, on the idle one, whose end is the next thing to be told.
	const written = sockets.map((socket) => socket.bytesWritten)
	const isBusy = (socket: Socket, position: number): boolean =>
		socket.bytesWritten > (written[position] ?? 0)
	const asked = query(pool.sql, 'select pg_sleep(60)::text').catch(() => query(pool.sql, 'select 1'))
	asked.catch(() => {})
	await waitFor('the statement to be sent', () => sockets.some(isBusy))
	const [busy, idle] = isBusy(sockets[0]!, 0) ? sockets : [...sockets].reverse()
	idle!.destroy()
	busy!.destroy()
	await expect(asked).rejects.toMatchObject({ code: 'CONNECTION_CLOSED' })

	// One connection is silent for ever from here on: half of this would fail, again and again.
	await waitFor('ten times two statements at once to succeed', async () => {
		for (let i = 0; i < 10; i++) await both()
		return true
	})
})

test('opens none any more once it has been closed', async () => {
	const { pool, count } = open()
	await backend(pool)
	await pool.close()
	await expect(backend(pool)).rejects.toThrow('This database has been closed')
	expect(count()).toBe(1)
})

test('an answer that broke off with its connection leaves nothing in the next one', async () => {
	const { pool } = open()
	await backend(pool)
	const broken = proxy.when('to client', 'row 4500', (connection) => connection.cut())
	const rows = query(
		pool.sql,
		`select 'row ' || i || repeat(' ', 500) as text from generate_series(1, 5000) as i`,
	)
	await Promise.all([broken, expect(rows).rejects.toMatchObject({ code: 'CONNECTION_CLOSED' })])
	expect(await query(pool.sql, 'select 42 as answer')).toEqual([{ answer: 42 }])
})

test('a frozen function that thaws after its connections were cut answers as if nothing had been', async () => {
	const lambda = HOSTS.find(({ name }) => name.includes('API Gateway'))
	const secret = 'frozen-0123456789abcdef'
	const host = await lambda?.start({ DATABASE_URL: proxy.url, API_KEYS: `all:${secret}` })
	if (host === undefined) throw new Error('There is no such host')
	onTestFinished(() => host.process.kill())
	const list = async (): Promise<number> =>
		(await fetch(`${host.url}/runs`, { headers: { 'x-api-key': secret } })).status
	let used: ProxiedConnection | undefined
	const seen = proxy.when('to server', 'flowcraft_statuses', (connection) => {
		used = connection
	})
	expect(await list()).toBe(200)
	await seen
	// A gateway has forgotten the connection: what is sent there vanishes.
	used?.blackhole()
	await host.process.kill('SIGUSR2')
	await host.process.waitForLine('an hour has passed')
	expect(await list()).toBe(200)
	expect(host.process.lines.filter((line) => line.includes('could not be served'))).toEqual([])
})

import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { once } from 'node:events'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { startProxy, type TcpProxy } from '../support/tcp-proxy.js'
import { waitFor } from '../support/wait-for.js'

let echo: Server
let proxy: TcpProxy
const clients: Client[] = []

class Client {
	readonly socket: Socket
	received = ''
	closed = false

	constructor(port: number) {
		this.socket = connect({ port, host: '127.0.0.1', noDelay: true })
		this.socket.on('data', (chunk) => (this.received += chunk.toString()))
		this.socket.on('error', () => {})
		this.socket.on('close', () => (this.closed = true))
		clients.push(this)
	}

	async says(text: string): Promise<void> {
		this.socket.write(text)
		await this.hears(text)
	}

	hears(text: string): Promise<unknown> {
		return waitFor(`an echo of ${text}`, () => this.received, {
			until: (received) => received.endsWith(text),
		})
	}
}

beforeEach(async () => {
	echo = createServer((socket) => socket.on('error', () => {}).pipe(socket)).listen(0, '127.0.0.1')
	await once(echo, 'listening')
	proxy = await startProxy(`redis://someone@127.0.0.1:${(echo.address() as AddressInfo).port}/0?a=b`)
})

afterEach(async () => {
	await proxy.close()
	for (const client of clients.splice(0)) client.socket.destroy()
	echo.close()
})

test('passes bytes both ways under the URL of its target', async () => {
	expect(proxy.url).toBe(`redis://someone@127.0.0.1:${proxy.port}/0?a=b`)
	await new Client(proxy.port).says('hello')
	expect(proxy).toMatchObject({ connections: 1, accepted: 1 })
})

test('passes a large stream whole, and the end of it', async () => {
	const client = new Client(proxy.port)
	const sent = 'x'.repeat(5_000_000)
	client.socket.end(sent)
	await waitFor('the end', () => client.closed)
	expect(client.received === sent).toBe(true)
	await waitFor('the proxy to forget it', () => proxy.connections === 0)
})

test('cuts all live connections and takes new ones', async () => {
	const [one, other] = [new Client(proxy.port), new Client(proxy.port)]
	await Promise.all([one.says('1'), other.says('2')])
	proxy.cut()
	await waitFor('both to close', () => one.closed && other.closed)
	await new Client(proxy.port).says('3')
	expect(proxy.accepted).toBe(3)
})

test('is silent while paused and delivers everything afterwards, in order', async () => {
	const client = new Client(proxy.port)
	await client.says('a')
	for (const direction of ['to server', 'to client', 'both'] as const) {
		proxy.pause(direction)
		client.socket.write('b')
		client.socket.write('c')
		const newcomer = new Client(proxy.port)
		newcomer.socket.write('d')
		// What another way through the same event loop needs for a round trip is enough time for the forbidden one.
		await roundTrips(5)
		expect(client.received.endsWith('a')).toBe(true)
		expect(newcomer.received).toBe('')

		proxy.resume()
		await Promise.all([client.hears('bc'), newcomer.hears('d')])
		await client.says('a')
	}
})

test('swallows bytes in one direction and leaves the other alone', async () => {
	const client = new Client(proxy.port)
	await client.says('a')
	proxy.blackhole('to server')
	client.socket.write('lost')
	await roundTrips(5)
	proxy.resume()
	await client.says('b')
	expect(client.received).toBe('ab')
	expect(client.closed).toBe(false)
})

test('delays bytes without mixing them up, also while the delay changes', async () => {
	const client = new Client(proxy.port)
	await client.says('a')
	proxy.delay(100)
	const sentAt = performance.now()
	client.socket.write('b')
	await client.hears('b')
	expect(performance.now() - sentAt).toBeGreaterThanOrEqual(195)

	client.socket.write('c')
	await roundTrips(3)
	proxy.delay(0)
	client.socket.write('d')
	await client.hears('cd')
})

test('refuses newcomers while live connections go on, and takes them again on the same port', async () => {
	const client = new Client(proxy.port)
	await client.says('a')
	proxy.refuse()
	const refused = connect({ port: proxy.port, host: '127.0.0.1' })
	const [error] = (await once(refused, 'error')) as [NodeJS.ErrnoException]
	expect(error.code).toBe('ECONNREFUSED')
	await client.says('b')

	await proxy.accept()
	await new Client(proxy.port).says('c')
})

/** Past the proxy. */
async function roundTrips(count: number): Promise<void> {
	const direct = new Client((echo.address() as AddressInfo).port)
	for (let i = 0; i < count; i += 1) await direct.says(`round trip ${i}`)
}

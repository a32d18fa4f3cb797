/** A TCP proxy that stands between the system and a server, and breaks connections in the ways that networks do. */
import { type Socket, connect, createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort } from '../../worker/embedded/cluster.js'

export type Direction = 'to server' | 'to client' | 'both'

export interface TcpProxy {
	readonly port: number
	/** The target's URL, through the proxy. */
	readonly url: string
	/** Connections that are open now. */
	readonly connections: number
	/** Connections since the start. */
	readonly accepted: number
	/** Destroys all live connections; new ones are taken. */
	cut(): void
	/**
	 * Until `resume`, bytes wait, on live and new connections: the other side sees silence, and later everything
	 * in order, as from a network that came back.
	 */
	pause(direction?: Direction): void
	/** Until `resume`, bytes vanish. What follows on such a connection is garbage, so `cut` before `resume`. */
	blackhole(direction?: Direction): void
	/** Ends `pause` and `blackhole`. */
	resume(): void
	/** Holds all bytes back for so long, in ms, in both directions. 0 ends it. */
	delay(ms: number): void
	/** New connections are refused, as if no server ran; live ones go on. */
	refuse(): void
	/** Takes connections again, on the same port. */
	accept(): Promise<void>
	/** Cuts everything and ends. Idempotent. */
	close(): Promise<void>
}

const DEFAULT_PORTS: Readonly<Record<string, number>> = {
	'postgres:': 5432,
	'postgresql:': 5432,
	'amqp:': 5672,
	'redis:': 6379,
}

/** @param target the URL of the server behind it. */
export async function startProxy(target: string): Promise<TcpProxy> {
	const url = new URL(target)
	const server = { host: url.hostname, port: Number(url.port) || (DEFAULT_PORTS[url.protocol] ?? 80) }
	const port = await freePort()
	url.hostname = '127.0.0.1'
	url.port = String(port)

	const weather: Weather = { 'to server': 'flowing', 'to client': 'flowing', delayMs: 0 }
	const live = new Set<Connection>()
	let accepted = 0
	const listener = createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
		accepted += 1
		const connection = new Connection(
			client,
			connect({ ...server, allowHalfOpen: true, noDelay: true }),
			weather,
		)
		live.add(connection)
		void connection.closed.then(() => live.delete(connection))
	})
	const accept = (): Promise<void> =>
		new Promise((resolve, reject) => {
			if (listener.listening) return resolve()
			listener.once('error', reject)
			listener.listen({ port, host: '127.0.0.1' }, () => {
				listener.off('error', reject)
				resolve()
			})
		})
	const cut = (): void => {
		for (const connection of live) connection.destroy()
	}
	const change = (direction: Direction, flow: Flow): void => {
		for (const way of ['to server', 'to client'] as const)
			if (direction === 'both' || direction === way) weather[way] = flow
		for (const connection of live) connection.applyWeather()
	}

	await accept()
	return {
		port,
		url: url.href,
		get connections() {
			return live.size
		},
		get accepted() {
			return accepted
		},
		cut,
		pause: (direction = 'both') => change(direction, 'waiting'),
		blackhole: (direction = 'both') => change(direction, 'vanishing'),
		resume: () => change('both', 'flowing'),
		delay(ms) {
			weather.delayMs = ms
		},
		refuse() {
			if (listener.listening) listener.close()
		},
		accept,
		async close() {
			if (listener.listening) listener.close()
			cut()
			await Promise.all([...live].map((connection) => connection.closed))
		},
	}
}

type Flow = 'flowing' | 'waiting' | 'vanishing'

interface Weather {
	'to server': Flow
	'to client': Flow
	delayMs: number
}

class Connection {
	readonly closed: Promise<unknown>
	readonly #client: Socket
	readonly #server: Socket
	readonly #ways: readonly Way[]

	constructor(client: Socket, server: Socket, weather: Weather) {
		this.#client = client
		this.#server = server
		for (const socket of [client, server]) socket.on('error', () => this.destroy())
		this.closed = Promise.all(
			[client, server].map((socket) => new Promise((resolve) => socket.once('close', resolve))),
		)
		this.#ways = [
			new Way(client, server, 'to server', weather),
			new Way(server, client, 'to client', weather),
		]
	}

	destroy(): void {
		this.#client.destroy()
		this.#server.destroy()
	}

	applyWeather(): void {
		for (const way of this.#ways) way.applyWeather()
	}
}

/** One direction of one connection. */
class Way {
	readonly #from: Socket
	readonly #to: Socket
	readonly #direction: Exclude<Direction, 'both'>
	readonly #weather: Weather
	/** The receiver has not yet taken what it got: nothing more is read until it has. */
	#full = false
	/** What is held back goes out in the order in which it came in. */
	#held = 0
	#lastHeld: Promise<void> = Promise.resolve()

	constructor(from: Socket, to: Socket, direction: Exclude<Direction, 'both'>, weather: Weather) {
		this.#from = from
		this.#to = to
		this.#direction = direction
		this.#weather = weather
		from.on('data', (chunk) => this.#send(() => this.#write(chunk)))
		from.on('end', () => this.#send(() => to.end()))
		this.applyWeather()
	}

	applyWeather(): void {
		if (this.#full || this.#weather[this.#direction] === 'waiting') this.#from.pause()
		else this.#from.resume()
	}

	#send(action: () => void): void {
		if (this.#weather[this.#direction] === 'vanishing') return
		if (this.#weather.delayMs === 0 && this.#held === 0) return action()
		this.#held += 1
		const due = sleep(this.#weather.delayMs)
		this.#lastHeld = this.#lastHeld
			.then(() => due)
			.then(() => {
				this.#held -= 1
				action()
			})
	}

	#write(chunk: Buffer): void {
		if (!this.#to.writable || this.#to.write(chunk)) return
		this.#full = true
		this.applyWeather()
		this.#to.once('drain', () => {
			this.#full = false
			this.applyWeather()
		})
	}
}

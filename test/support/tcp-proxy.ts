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
	/**
	 * Waits for the next chunk in that direction, on any connection, that has these bytes in it or completes them, and
	 * calls `act` before it is passed on, in the same turn: whatever `act` kills or silences never sees the chunk.
	 * Resolves when `act` has returned. The moment is exact in both senses: everything before it has been sent, and
	 * nothing after it.
	 */
	when(
		direction: Exclude<Direction, 'both'>,
		bytes: string | Buffer,
		act?: (connection: ProxiedConnection) => void,
	): Promise<void>
	/** Cuts everything and ends. Idempotent. */
	close(): Promise<void>
}

/** One connection through the proxy, for harm that the others do not take. */
export interface ProxiedConnection {
	cut(): void
	/** As the proxy's own, for this connection alone and until the end of it or `resume`. */
	pause(direction?: Direction): void
	blackhole(direction?: Direction): void
	resume(): void
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
	const traps = new Set<Trap>()
	let accepted = 0
	const listener = createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
		accepted += 1
		const connection = new Connection(
			client,
			connect({ ...server, allowHalfOpen: true, noDelay: true }),
			weather,
			traps,
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
		when: (direction, bytes, act) =>
			new Promise((resolve) => {
				traps.add({
					direction,
					bytes: Buffer.from(bytes as string),
					spring(connection) {
						act?.(connection)
						resolve()
					},
				})
			}),
		async close() {
			if (listener.listening) listener.close()
			cut()
			await Promise.all([...live].map((connection) => connection.closed))
		},
	}
}

/** Bytes that a trap may look for at most. */
const LONGEST_TRAP = 1_024

type Flow = 'flowing' | 'waiting' | 'vanishing'

interface Weather {
	'to server': Flow
	'to client': Flow
	delayMs: number
}

interface Trap {
	readonly direction: Exclude<Direction, 'both'>
	readonly bytes: Buffer
	spring(connection: ProxiedConnection): void
}

class Connection implements ProxiedConnection {
	readonly closed: Promise<unknown>
	readonly #client: Socket
	readonly #server: Socket
	readonly #ways: readonly Way[]

	constructor(client: Socket, server: Socket, weather: Weather, traps: Set<Trap>) {
		this.#client = client
		this.#server = server
		const spring = (trap: Trap): void => {
			traps.delete(trap)
			trap.spring(this)
		}
		for (const socket of [client, server]) socket.on('error', () => this.destroy())
		this.closed = Promise.all(
			[client, server].map((socket) => new Promise((resolve) => socket.once('close', resolve))),
		)
		this.#ways = [
			new Way(client, server, 'to server', weather, traps, spring),
			new Way(server, client, 'to client', weather, traps, spring),
		]
	}

	cut(): void {
		this.destroy()
	}

	pause(direction: Direction = 'both'): void {
		this.#change(direction, 'waiting')
	}

	blackhole(direction: Direction = 'both'): void {
		this.#change(direction, 'vanishing')
	}

	resume(): void {
		this.#change('both', undefined)
	}

	#change(direction: Direction, flow: Flow | undefined): void {
		for (const way of this.#ways)
			if (direction === 'both' || direction === way.direction) way.change(flow)
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
	readonly direction: Exclude<Direction, 'both'>
	readonly #from: Socket
	readonly #to: Socket
	readonly #weather: Weather
	readonly #traps: Set<Trap>
	readonly #spring: (trap: Trap) => void
	/** Of this connection alone, over the weather of all. */
	#own: Flow | undefined
	/** The receiver has not yet taken what it got: nothing more is read until it has. */
	#full = false
	/** What came in before the way was paused, in the turn in which a trap paused it. */
	#kept: (() => void)[] = []
	/** What is held back goes out in the order in which it came in. */
	#held = 0
	#lastHeld: Promise<void> = Promise.resolve()
	/** The end of what went by: bytes that a trap looks for may come in two chunks. */
	#tail: Buffer = Buffer.alloc(0)

	constructor(
		from: Socket,
		to: Socket,
		direction: Exclude<Direction, 'both'>,
		weather: Weather,
		traps: Set<Trap>,
		spring: (trap: Trap) => void,
	) {
		this.#from = from
		this.#to = to
		this.direction = direction
		this.#weather = weather
		this.#traps = traps
		this.#spring = spring
		from.on('data', (chunk) => {
			this.#look(chunk)
			this.#send(() => this.#write(chunk))
		})
		from.on('end', () => this.#send(() => to.end()))
		this.applyWeather()
	}

	change(flow: Flow | undefined): void {
		this.#own = flow
		this.applyWeather()
	}

	applyWeather(): void {
		if (this.#full || this.#flow === 'waiting') this.#from.pause()
		else {
			for (const action of this.#kept.splice(0)) this.#send(action)
			this.#from.resume()
		}
	}

	get #flow(): Flow {
		return this.#own ?? this.#weather[this.direction]
	}

	#look(chunk: Buffer): void {
		if (this.#traps.size === 0) {
			this.#tail = chunk.subarray(-LONGEST_TRAP)
			return
		}
		const seen = Buffer.concat([this.#tail, chunk])
		for (const trap of [...this.#traps]) {
			if (trap.direction !== this.direction) continue
			// What was complete before this chunk went by when nobody looked for it.
			if (seen.indexOf(trap.bytes, Math.max(this.#tail.length - trap.bytes.length + 1, 0)) >= 0)
				this.#spring(trap)
		}
		this.#tail = seen.subarray(-LONGEST_TRAP)
	}

	#send(action: () => void): void {
		const flow = this.#flow
		if (flow === 'vanishing') return
		if (flow === 'waiting') return void this.#kept.push(action)
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

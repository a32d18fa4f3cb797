/** A proxy before Postgres that reads along: what a request costs there, and what a connection asks for. */
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'

export interface CountingProxy {
	readonly url: string
	/** How often a client has spoken since the server last did, from when its connection was ready. */
	roundTrips: number
	/** Statements executed: messages of the types Query and Execute. */
	statements: number
	/** Connections opened. */
	connections: number
	/** Statements that were prepared under a name. */
	named: number
	/** Parameters that came with connections. */
	readonly settings: Set<string>
	reset(): void
	close(): void
}

interface Message {
	/** Of the first one, which has none: `startup`. */
	readonly type: string
	readonly body: Buffer
}

/** Cuts a stream into the messages of Postgres's protocol. */
function messageReader(untypedFirst: boolean): (chunk: Buffer) => Message[] {
	let rest = Buffer.alloc(0)
	let typed = !untypedFirst
	return (chunk) => {
		rest = Buffer.concat([rest, chunk])
		const messages: Message[] = []
		for (;;) {
			const typeLength = typed ? 1 : 0
			if (rest.length < typeLength + 4) return messages
			const length = typeLength + rest.readInt32BE(typeLength)
			if (rest.length < length) return messages
			messages.push({
				type: typed ? String.fromCharCode(rest[0] ?? 0) : 'startup',
				body: rest.subarray(typeLength + 4, length),
			})
			typed = true
			rest = rest.subarray(length)
		}
	}
}

const TERMINATE = 'X'
const READY_FOR_QUERY = 'Z'
/** Before the parameters of the first message: the version of the protocol. */
const VERSION_BYTES = 4

export async function startCountingProxy(target: string): Promise<CountingProxy> {
	const { hostname, port } = new URL(target)
	const settings = new Set<string>()
	const counts = { roundTrips: 0, statements: 0, connections: 0, named: 0 }
	const sockets = new Set<Socket>()
	const server = createServer({ noDelay: true }, (client) => {
		const upstream = connect({ port: Number(port), host: hostname, noDelay: true })
		proxy.connections += 1
		let ready = false
		let answered = true
		const fromClient = messageReader(true)
		const fromServer = messageReader(false)
		client.on('data', (chunk: Buffer) => {
			const messages = fromClient(chunk)
			for (const { type, body } of messages) {
				if (type === 'Q' || type === 'E') proxy.statements += 1
				if (type === 'P' && body[0] !== 0) proxy.named += 1
				if (type === 'startup') {
					const fields = body.subarray(VERSION_BYTES).toString().split('\0')
					fields.filter((_, position) => position % 2 === 0).forEach((name) => settings.add(name))
				}
			}
			if (ready && answered && messages.some(({ type }) => type !== TERMINATE)) {
				proxy.roundTrips += 1
				answered = false
			}
			upstream.write(chunk)
		})
		upstream.on('data', (chunk) => {
			ready ||= fromServer(chunk).some(({ type }) => type === READY_FOR_QUERY)
			answered = true
			client.write(chunk)
		})
		for (const socket of [client, upstream]) {
			sockets.add(socket)
			socket.on('error', () => {})
			socket.on('close', () => {
				sockets.delete(socket)
				client.destroy()
				upstream.destroy()
			})
		}
	})
	await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
	const url = new URL(target)
	url.host = `127.0.0.1:${(server.address() as AddressInfo).port}`
	const proxy: CountingProxy = {
		...counts,
		url: url.href,
		settings,
		reset: () => void Object.assign(proxy, { roundTrips: 0, statements: 0, connections: 0, named: 0 }),
		close() {
			server.close()
			for (const socket of sockets) socket.destroy()
		},
	}
	return proxy
}

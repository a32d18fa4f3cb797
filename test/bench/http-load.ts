/**
 * HTTP requests over connections that stay open, as cheap for this process as can be: it shares its cores with the
 * server that is measured.
 */
import { connect, type Socket } from 'node:net'

export interface HttpLoad {
	readonly port: number
	readonly path: string
	readonly body: string
	readonly connections: number
	readonly seconds: number
}

/**
 * POST requests per second.
 * @throws for an answer other than 202
 */
export async function postRate({ port, path, body, connections, seconds }: HttpLoad): Promise<number> {
	const request =
		`POST ${path} HTTP/1.1\r\nhost: 127.0.0.1:${port}\r\ncontent-type: application/json\r\n` +
		`content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`
	const end = performance.now() + seconds * 1_000
	let answered = 0
	const begin = performance.now()
	await Promise.all(
		Array.from({ length: connections }, async () => {
			const socket = connect({ port, host: '127.0.0.1', noDelay: true })
			try {
				await repeat(socket, request, () => {
					answered += 1
					return performance.now() < end
				})
			} finally {
				socket.destroy()
			}
		}),
	)
	return answered / ((performance.now() - begin) / 1_000)
}

function repeat(socket: Socket, request: string, onAnswer: () => boolean): Promise<void> {
	return new Promise((resolve, reject) => {
		let received = ''
		socket.on('error', reject)
		socket.on('close', () => reject(new Error('The server closed the connection')))
		socket.on('data', (chunk) => {
			received += chunk.toString('latin1')
			if (!isComplete(received)) return
			if (!received.startsWith('HTTP/1.1 202 '))
				return reject(new Error(`The server answered ${received}`))
			received = ''
			if (onAnswer()) socket.write(request)
			else resolve()
		})
		socket.write(request)
	})
}

/** Whether this is a whole response. Latin-1: a character is a byte. */
function isComplete(response: string): boolean {
	const bodyAt = response.indexOf('\r\n\r\n') + 4
	if (bodyAt < 4) return false
	const head = response.slice(0, bodyAt).toLowerCase()
	const length = /\r\ncontent-length: (\d+)/.exec(head)?.[1]
	return length === undefined ? response.endsWith('0\r\n\r\n') : response.length >= bodyAt + Number(length)
}

/** HTTP as no client library would send it. */
import { request as httpRequest, type Agent, type IncomingHttpHeaders } from 'node:http'
import { connect } from 'node:net'

export interface RawRequest {
	readonly method: string
	/** As it stands in the request line. */
	readonly path: string
	readonly headers: Readonly<Record<string, string>>
	readonly body: string | Uint8Array | undefined
}

export interface RawAnswer {
	readonly status: number
	readonly headers: IncomingHttpHeaders
	readonly text: string
}

/** One request over a kept connection. A stream that does not end is left after its head. */
export function send(port: number, agent: Agent, request: RawRequest): Promise<RawAnswer> {
	return new Promise((resolve, reject) => {
		const { method, path, body } = request
		// Node frames no body of a DELETE by itself.
		const headers =
			body === undefined
				? request.headers
				: { ...request.headers, 'content-length': String(Buffer.byteLength(body)) }
		const sent = httpRequest({ host: '127.0.0.1', port, agent, method, path, headers }, (response) => {
			const status = response.statusCode ?? 0
			if (/event-stream/.test(response.headers['content-type'] ?? '')) {
				response.destroy()
				return resolve({ status, headers: response.headers, text: '' })
			}
			const chunks: Buffer[] = []
			response.on('data', (chunk: Buffer) => chunks.push(chunk))
			response.on('error', reject)
			response.on('end', () =>
				resolve({ status, headers: response.headers, text: Buffer.concat(chunks).toString() }),
			)
		})
		sent.on('error', reject)
		sent.end(body)
	})
}

/** What comes back for these bytes, until the server has nothing more to say; the status of the first answer, if any. */
export function sendBytes(port: number, bytes: string | Uint8Array): Promise<number | undefined> {
	return new Promise((resolve) => {
		const socket = connect(port, '127.0.0.1')
		let text = ''
		socket.on('data', (chunk) => {
			text += chunk.toString('latin1')
		})
		socket.on('error', () => {})
		socket.on('close', () => {
			const status = /^HTTP\/1\.1 (\d{3})/.exec(text)?.[1]
			resolve(status === undefined ? undefined : Number(status))
		})
		// The server waits for the rest of what is incomplete: there is none.
		socket.end(bytes)
	})
}
